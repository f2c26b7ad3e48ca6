"""How a caption is searched for."""
