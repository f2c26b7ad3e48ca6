"""Builders of odd pictures, whole and broken, and what the tests of pictures expect of them."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from magicap.errors import BadImage
from magicap.images.reader import FORMATS, REASONS, open_image

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture in this format, with these options of Pillow's encoder."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(source: Any, x: int = 0, y: int = 0) -> Any:
    """One opened pixel (red, green, blue), each in [0, 255]."""
    return open_image(source).getpixel((x, y))


def same(left: Image.Image, right: Image.Image) -> bool:
    """Whether two pictures agree in every pixel."""
    return left.size == right.size and left.tobytes() == right.tobytes()


@contextlib.contextmanager
def refused(code: str, words: str = "") -> Iterator[None]:
    """Expect BadImage of this code, whose message is short, printable and holds these words."""
    with pytest.raises(BadImage) as caught:
        yield
    message = str(caught.value)
    assert (caught.value.code, code in REASONS) == (code, True), message
    assert words in message, message
    assert len(message) < 1200, message
    assert message.isprintable(), message


@contextlib.contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Be someone whom permissions stop, also where the tests run as root, but who may enter this folder."""
    for above in folder.parents[:-1]:
        if above.stat().st_uid == os.getuid():
            above.chmod(above.stat().st_mode | 0o011)
    folder.chmod(0o755)
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def noise(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Random values in every band, the same ones every time."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(values.squeeze()).convert(mode)


@functools.cache
def samples() -> dict[str, bytes]:
    """Small whole files, at least one of every accepted format and compression, by name."""
    image = noise(48, 40)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "jpeg": ("JPEG", {}),
        "progressive": ("JPEG", {"progressive": True}),
        "png": ("PNG", {}),
        "webp": ("WEBP", {}),
        "lossless": ("WEBP", {"lossless": True}),
        "gif": ("GIF", {}),
        "bmp": ("BMP", {}),
        "tiff": ("TIFF", {}),
        "lzw": ("TIFF", {"compression": "tiff_lzw"}),
        "tiffjpeg": ("TIFF", {"compression": "jpeg"}),
        "ppm": ("PPM", {}),
        "mpo": ("MPO", {"save_all": True, "append_images": [noise()]}),
    }
    if "AVIF" in FORMATS:
        kinds["avif"] = ("AVIF", {})
    encoded = {name: encode(image, kind, **options) for name, (kind, options) in kinds.items()}
    encoded["plain ppm"] = b"P3 3 2 255 " + b" ".join(b"%d" % (value % 10) for value in range(18))
    return encoded


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG, with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, body: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of any declared size, whatever its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def tiff_of(tags: dict[int, int], body: bytes = b"") -> bytes:
    """A little-endian TIFF of one-number tags; the body lies at offset 8."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


@functools.cache
def bombs() -> dict[str, bytes]:
    """Small files that declare, or hold, far too many pixels, by name."""
    riff = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\x00" * 2
    zeros = zlib.compress(bytes(50_000_000), 9)
    size = {256: 100, 257: 100, 322: 29984, 323: 29984, 324: 8, 325: len(zeros)}
    tile = {258: 8, 259: 8, 262: 1, 277: 1, **size}
    frame = b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\0\0;"
    return {
        "png": png_of(60000, 60000),
        "webp": b"RIFF" + struct.pack("<I", len(riff) + 4) + b"WEBP" + riff,
        "gif": b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + bytes(6) + frame,
        "bmp": b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHH", 40, 60000, 60000, 1, 24)
        + bytes(24),
        "tiff": tiff_of({256: 60000, 257: 60000, 258: 8, 259: 1, 262: 1, 277: 1, 273: 8, 279: 9}, bytes(9)),
        "tile": tiff_of(tile, zeros),
        "ppm": b"P6 60000 60000 255\n" + bytes(100),
    }
