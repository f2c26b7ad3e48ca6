"""The trained baseline: a CNN's grid of features, attention, and a decoder of words."""
