"""Text in a picture, by PP-OCR's detector and recogniser (Cui et al. 2025, arXiv 2507.05595).

The package rapidocr brings their weights (PP-OCRv6, small) and runs them with onnxruntime on a processor:
nothing is downloaded, and the same picture gives the same text. They read Latin letters, Chinese and
Japanese.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from magicap.extras import require
from magicap.images.reader import ImageSource, open_sized
from magicap.ocr.settings import OcrSettings
from magicap.results import TextLine

_SMALLEST_SIDE = 736  # which the detector enlarges a smaller short side to
_LONGEST = 4  # long side to short side; a longer picture is filled up, or the detector would make it huge
_LOCK = Lock()  # the engine keeps what it reads in attributes


def read_text(image: ImageSource, settings: OcrSettings | None = None) -> list[TextLine]:
    """The lines of text in a picture, from top to bottom, of those side by side the left one first.

    Args:
        image: anything that :func:`magicap.images.reader.open_image` takes.
        settings: which text is read; None: the default.

    Returns:
        Lines with their boxes in pixels of the picture, upright; none where there is no text.

    Raises:
        BadImage: the picture cannot be read.
        MissingPackage: rapidocr or onnxruntime is not installed.
    """
    settings = settings or OcrSettings()
    require_engine()
    side = settings.max_side
    picture, size = open_sized(image, at_least=lambda width, height: _short_side(width, height, side))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    scale = np.array(size) / picture.size
    lines = []
    for text, box, confidence in _recognise(_filled_up(picture)):
        if confidence >= settings.min_confidence and sum(map(str.isalnum, text)) >= settings.min_characters:
            corners = (np.clip(box, 0, picture.size) * scale).tolist()
            lines.append(TextLine(text, tuple((x, y) for x, y in corners), confidence))
    return lines


def require_engine() -> None:
    """Refuse to go on without the packages that read text.

    Raises:
        MissingPackage: one is not installed.
    """
    require("onnxruntime")
    require("rapidocr")


def _short_side(width: int, height: int, side: int) -> int:
    """Of a picture with its long side at ``side``."""
    return ceil(side * min(width, height) / max(width, height))


def _filled_up(picture: Image.Image) -> Image.Image:
    """A long picture with black below or beside it."""
    width, height = (max(side, ceil(max(picture.size) / _LONGEST)) for side in picture.size)
    if (width, height) == picture.size:
        return picture
    filled = Image.new("RGB", (width, height))
    filled.paste(picture)
    return filled


def _recognise(picture: Image.Image) -> list[tuple[str, Any, float]]:
    """Texts, boxes (4, 2) and confidences."""
    threads = torch.get_num_threads()
    with _LOCK, _opencv_threads(threads):
        output = _engine(threads)(np.asarray(picture)[:, :, ::-1])  # as OpenCV has colours
    if output.txts is None:
        return []
    return [
        (text, box, float(score))
        for text, box, score in zip(output.txts, output.boxes, output.scores, strict=True)
    ]


@lru_cache(maxsize=1)
def _engine(threads: int) -> Any:
    settings = {
        "Global.log_level": "critical",  # it tells of every picture without text
        "Global.text_score": 0.0,
        "Det.limit_side_len": _SMALLEST_SIDE,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return require("rapidocr").RapidOCR(params=settings)


@contextmanager
def _opencv_threads(count: int) -> Iterator[None]:
    """OpenCV, which rapidocr cuts and turns pictures with, keeps to so many threads."""
    cv2 = require("cv2")
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
