"""Parts of pictures: where something stands, and a vector of it."""
