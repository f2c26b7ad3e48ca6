"""Videos: frames by their times, within limits, as unit vectors, cut into scenes."""
