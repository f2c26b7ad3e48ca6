"""Search by what pictures show: an index of pictures or sentences as unit vectors, searched exactly."""
