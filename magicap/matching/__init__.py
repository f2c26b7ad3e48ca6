"""Which places of two pictures show the same: local features, mutual nearest neighbours, one geometry."""
