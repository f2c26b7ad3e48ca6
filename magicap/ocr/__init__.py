"""Text in pictures: read with its places and confidence, and said at the end of a caption."""
