"""Files of countless parts, in every format that Pillow walks through in Python."""

from __future__ import annotations

import struct
import time

import pytest
from pictures import chunk, encode, noise, refused

from magicap.images.parts import MOST_COMMENTS, MOST_NUMBERS, MOST_PARTS, MOST_SLOW_BYTES
from magicap.images.reader import open_image

PNG, GIF, JPEG, AVIF = (encode(noise(), kind) for kind in ("PNG", "GIF", "JPEG", "AVIF"))
PIXELS = b"1 2 3 4 5 6\n"
FRAME = GIF.index(b",", 13 + 3 * 256)


def in_gif(blocks):
    return GIF[:FRAME] + blocks + GIF[FRAME:]


def in_png(chunks):
    return PNG[:33] + chunks + PNG[33:]


def tags(*entries, after=b""):
    """The head of a TIFF: (tag, type, count, value) each."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4) + after


SIZE = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
LONG = tags((274, 5, MOST_NUMBERS + 1, 8), after=bytes(8 * MOST_NUMBERS + 8))
BIG = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, MOST_PARTS + 1) + bytes(20 * MOST_PARTS + 28)
COUNTLESS = {
    "png_chunks": in_png(chunk(b"abCd", b"") * MOST_PARTS),
    "png_pixels": in_png(chunk(b"IDAT", b"") * MOST_PARTS),
    "gif_comments": in_gif(b"!\xfe\x01x\0" * MOST_PARTS),
    "gif_blocks": in_gif(b"!\xfe" + b"\x01x" * MOST_PARTS + b"\0"),
    "gif_nothing": in_gif(b"\0" * MOST_PARTS),
    "jpeg_filling": JPEG[:2] + b"\xff" * 100_000 + JPEG[2:],
    "pgm_comments": b"P2 3 2 255\n" + b"#\n" * (MOST_COMMENTS + 1) + PIXELS,
    "pgm_spaces_in_header": b"P5" + b" " * 100_000 + b"3 2 255\n" + PIXELS,
    "pgm_comment_in_header": b"P5 #" + b"x" * 100_000 + b"\n3 2 255\n" + PIXELS,
    "ppm_text": b"P3 1 1 255\n" + b" " * MOST_SLOW_BYTES + PIXELS,
    "bmp_run_lengths": b"BM" + bytes(28) + b"\1\0\0\0" + bytes(MOST_SLOW_BYTES),
    "tiff_strips": tags(*SIZE, (273, 4, MOST_NUMBERS + 1, 8), after=bytes(4 * MOST_NUMBERS)),
    "tiff_tags": BIG,
    "avif_exif": AVIF + LONG,
}


@pytest.mark.parametrize("name", COUNTLESS)
def test_countless_parts_are_refused_in_a_moment(name):
    start = time.process_time()
    with refused("scans", "expected a picture of at most"):
        open_image(COUNTLESS[name])
    assert time.process_time() - start < 2


def test_as_many_parts_as_encoders_write_are_read():
    small = chunk(b"tEXt", b"a\0b") * 1000 + chunk(b"abCd", bytes(1 << 20))
    for data in (
        in_png(small),
        in_gif(b"!\xfe" + b"\xff" + b"x" * 255 + b"\0"),
        in_gif(b"!\xfe\x01x\0" * 1000),
        JPEG[:2] + b"\xff" * 1000 + JPEG[2:],
        b"P5 # made by hand\n# twice\n24 16\n255\n" + bytes(24 * 16),
        b"P1\n# bits\n24 16\n" + b"10" * (12 * 16),
        b"P4 24 16\n" + b" " * 48,
        b"P2 24 16 255\n" + b"7 # seven\n" * (MOST_COMMENTS - 1) + b"7 " * 24 * 16,
    ):
        assert open_image(data).size == (24, 16)


def test_exif_of_countless_numbers_is_as_good_as_none(caplog):
    assert open_image(in_png(chunk(b"eXIf", LONG))).size == (24, 16)
    assert "numbers in its tags" in caplog.text
