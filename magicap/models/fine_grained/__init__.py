"""A second scorer: words of a text matched with patches of a picture."""
