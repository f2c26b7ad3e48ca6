"""Caption data sets: captions of every common form, pictures in tar files and folders, caption text."""

from magicap.data.captions import leave_out, read_captions, read_sentences
from magicap.data.pictures import ImageFiles
from magicap.data.rows import CaptionedImage
from magicap.data.text import normalise_caption

__all__ = [
    "CaptionedImage",
    "ImageFiles",
    "leave_out",
    "normalise_caption",
    "read_captions",
    "read_sentences",
]
