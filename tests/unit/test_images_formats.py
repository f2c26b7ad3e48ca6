"""Formats, modes, transparency, frames and orientation of the pictures that open_image accepts."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import BLACK, RED, WHITE, encode, noise, pixel, same
from PIL import Image

from magicap.images.reader import FORMATS, open_image

ORIENTATION = 274  # the EXIF tag


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(kind: str) -> None:
    assert same(open_image(encode(noise(), kind)), noise())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "MPO", *(["AVIF"] if "AVIF" in FORMATS else [])])
def test_lossy_formats_keep_the_colour(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encode(Image.new("RGB", (40, 30), (200, 100, 50)), kind))
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image, int) - (200, 100, 50)).max() <= 6


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX"]
)
def test_every_pil_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (3, 2), 255)
    image = grey.convert("RGB").convert(mode) if mode not in ("PA", "LA", "1", "L") else grey.convert(mode)
    opened = open_image(image)
    assert opened.mode == "RGB"
    assert min(opened.getpixel((1, 1))) >= 254


@pytest.mark.parametrize(("mode", "full"), [("RGBa", (255, 0, 0, 0)), ("La", (0, 0)), ("RGBA", (9, 9, 9, 0))])
def test_premultiplied_and_plain_alpha_go_over_white(mode: str, full: tuple[int, ...]) -> None:
    assert pixel(Image.new(mode, (2, 2), full)) == WHITE


def test_half_transparent_red_is_pink() -> None:
    assert pixel(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG")) == (255, 127, 127)


def test_opaque_alpha_is_exact() -> None:
    image = noise()
    image.putalpha(255)
    assert same(open_image(encode(image, "PNG")), noise())


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 0))
    data = encode(image, "PNG")
    assert (pixel(data), pixel(data, 1)) == (BLACK, WHITE)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(kind: str) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    data = encode(image, kind, transparency=0)
    assert (pixel(data), pixel(data, 1)) == (WHITE, (0, 0, 255))


def test_palette_with_an_alpha_for_each_entry() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    data = encode(image, "PNG", transparency=bytes([255, 0]))
    assert (pixel(data), pixel(data, 1)) == (RED, WHITE)


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 0)])
def test_colour_key_transparency(mode: str, key: Any) -> None:
    assert pixel(encode(Image.new(mode, (2, 2), key), "PNG", transparency=key)) == WHITE


def test_palette_is_resolved_before_anyone_resizes() -> None:
    """Averaging palette indices would give colour 1, green, between 0, red, and 2, blue."""
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putpixel((1, 0), 2)
    red, green, blue = open_image(image).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert (green, abs(red - blue) <= 1, red > 100) == (0, True, True)


def test_one_bit_pictures_are_black_and_white() -> None:
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        data = encode(image, kind)
        assert (pixel(data), pixel(data, 1)) == (BLACK, WHITE)


def test_cmyk_jpeg_is_not_inverted() -> None:
    red, green, blue = pixel(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert (red > 245, green < 10, blue < 10) == (True, True, True)


def test_lab_tiff_is_converted() -> None:
    lab = Image.new("LAB", (4, 4), (255, 128, 128))
    assert min(pixel(encode(lab, "TIFF"))) >= 250


# --- frames and orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLACK, WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixel(data) == RED


def with_orientation(kind: str, value: Any, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    image = Image.new("RGB", (4, 2), WHITE)
    image.putpixel((0, 0), BLACK)
    return encode(image, kind, exif=exif, **options)


@pytest.mark.parametrize(
    ("value", "size", "black"),
    [
        (1, (4, 2), (0, 0)),
        (2, (4, 2), (3, 0)),
        (3, (4, 2), (3, 1)),
        (4, (4, 2), (0, 1)),
        (5, (2, 4), (0, 0)),
        (6, (2, 4), (1, 0)),
        (7, (2, 4), (1, 3)),
        (8, (2, 4), (0, 3)),
    ],
)
def test_exif_orientation(value: int, size: tuple[int, int], black: tuple[int, int]) -> None:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ]
    for kind, options in kinds:
        image = open_image(with_orientation(kind, value, **options))
        assert image.size == size, kind
        assert max(image.getpixel(black)) < 60, kind


def test_orientation_is_applied_once() -> None:
    once = open_image(with_orientation("PNG", 6))
    assert same(open_image(once), once)
    assert not once.info
    assert not once.getexif()


def test_orientation_of_a_pil_image_that_stays_as_it_was() -> None:
    image = Image.open(io.BytesIO(with_orientation("PNG", 6)))
    assert open_image(image).size == (2, 4)
    assert (image.size, image.getexif()[ORIENTATION]) == ((4, 2), 6)


def test_orientations_beyond_the_eight_are_ignored() -> None:
    assert open_image(with_orientation("PNG", 99)).size == (4, 2)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0garbage of all sorts" * 9, b"Exif\0\0MM\0*\xff\xff\xff\xff"],
)
def test_broken_exif_is_survived(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        assert open_image(encode(noise(), kind, exif=exif)).size == (24, 16)


def test_orientation_of_the_wrong_type_is_survived() -> None:
    ascii_tag = b"\x01\0" + struct.pack("<HHI4sI", ORIENTATION, 2, 4, b"up!\0", 0)
    data = encode(noise(), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0" + ascii_tag)
    assert same(open_image(data), noise())


def test_a_large_jpeg_may_be_decoded_small_and_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    large = noise(60, 40).resize((1200, 800), Image.Resampling.BICUBIC)
    encoded = encode(large, "JPEG", exif=exif, quality=95)
    sizes = {n: open_image(encoded, at_least=n).size for n in (1, 100, 101, 200, 201, 401, 900)}
    assert sizes == {
        1: (100, 150),
        100: (100, 150),
        101: (200, 300),
        200: (200, 300),
        201: (400, 600),
        401: (800, 1200),
        900: (800, 1200),
    }
    small, whole = open_image(encoded, at_least=200), open_image(encoded)
    reduced = whole.resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small, int) - np.asarray(reduced, int)).mean() < 2
    asked = []

    def by_size(width: int, height: int) -> int:
        asked.append((width, height))
        return 200

    assert open_image(encoded, at_least=by_size).size == (200, 300)
    assert asked == [(800, 1200)]  # upright
    own = Image.open(io.BytesIO(encoded))
    assert open_image(own, at_least=100).size == (800, 1200)
    assert own.size == (1200, 800)
    assert open_image(encode(large, "PNG"), at_least=100).size == (1200, 800)
