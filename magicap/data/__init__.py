"""Caption data sets: captioned pictures in tar shards and caption text."""

from magicap.data.captions import CaptionedImage, TarImages, read_captions, read_sentences
from magicap.data.text import normalise_caption

__all__ = ["CaptionedImage", "TarImages", "normalise_caption", "read_captions", "read_sentences"]
