"""Captions, sentences and pictures as unit vectors of one scorer, searched exactly."""
