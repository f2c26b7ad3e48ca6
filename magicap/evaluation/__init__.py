"""Prediction files, comparisons of captioners with error bars, and their reports."""
