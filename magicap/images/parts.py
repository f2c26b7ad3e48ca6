"""Pictures' files of countless parts, which Pillow would read for minutes: counted before it reads them.

Pillow walks through segments, chunks, comments and tags in Python, at about a million a second, and keeps
many of them. Encoders write a few; the most that are accepted take it less than a second.
"""

from __future__ import annotations

import re
import struct
from itertools import islice

MOST_SCANS, MOST_SEGMENTS = 100, 500  # of a JPEG; libtiff stops at 100 scans, encoders write about ten
MOST_PARTS = 100_000  # a PNG of 128 MiB in chunks of 8 KiB has 16,000
MOST_COMMENTS = 1000
LONGEST_HEADER = 1 << 16
MOST_SLOW_BYTES = 32 << 20
"""Of the formats that Pillow decodes in Python: PNM written as text, BMP in run lengths."""

MOST_NUMBERS = 2_000_000
"""In the tags of a TIFF: 120 million pixels in tiles of 16 x 16 have 470,000 offsets and as many sizes."""

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_PNM_HEAD = re.compile(rb"P[1-6Ff][\s#]")
_PNM_COMMENT = re.compile(rb"#[^\r\n]*")
_RUN_LENGTHS = (1, 2)  # of the ways in which a BMP may be compressed
_TIFF_HEAD = re.compile(rb"(II|MM)(\0[*+]|[*+]\0)")
_TIFF_BYTES = (1, 2, 6, 7)  # types of a tag whose values are kept as bytes


def excess(data: memoryview) -> str | None:
    """What a picture's file has too much of, with the limit: "100,000 chunks"; None where it has not.

    Args:
        data: the whole file.
    """
    head = bytes(data[:4])
    if head.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if head == b"\x89PNG":
        return _png(data)
    if head == b"GIF8":
        return _gif(data)
    if _PNM_HEAD.match(head):
        return _pnm(data)
    if head.startswith(b"BM"):
        return _bmp(data)
    if _TIFF_HEAD.match(head):
        return _tiff(data)
    return _avif(data) if bytes(data[4:8]) == b"ftyp" else None


def _jpeg(data: memoryview) -> str | None:
    """Each scan repaints every pixel from 100 bytes; what fills the gaps before the first is read singly."""
    scans, position = 0, 2
    for _ in range(MOST_SEGMENTS):
        marker = _JPEG_MARKER.search(data, position)
        if not scans and (marker.start() if marker else len(data)) - position > LONGEST_HEADER:
            return f"{LONGEST_HEADER} bytes between segments"
        if not marker or marker[1] == b"\xd9":  # end of image
            return None
        scans += marker[1] == b"\xda"  # start of scan
        if scans > MOST_SCANS:
            return f"{MOST_SCANS} scans"
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return f"{MOST_SEGMENTS} segments"


def _png(data: memoryview) -> str | None:
    position = 8
    for _ in range(MOST_PARTS):
        if position + 12 > len(data):
            return None
        position += 12 + int.from_bytes(data[position : position + 4])
    return f"{MOST_PARTS} chunks"


def _gif(data: memoryview) -> str | None:
    """Of the blocks before the first frame, the only one that is read."""
    if len(data) < 13:
        return None
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    in_extension = False
    for _ in range(MOST_PARTS):
        if position >= len(data):
            return None
        byte = data[position]
        if in_extension:
            position += 1 + byte
            in_extension = byte > 0
        elif byte in b",;":  # a frame, or the end
            return None
        else:
            in_extension = byte == ord("!")
            position += 1 + in_extension
    return f"{MOST_PARTS} blocks before the first frame"


def _pnm(data: memoryview) -> str | None:
    """A header is read byte by byte. Comments may stand in it; in pictures written as text, everywhere."""
    plain = data[1] in b"123"
    if plain and len(data) > MOST_SLOW_BYTES:
        return f"{MOST_SLOW_BYTES} bytes as text"
    if plain and sum(1 for _ in islice(_PNM_COMMENT.finditer(data), MOST_COMMENTS + 1)) > MOST_COMMENTS:
        return f"{MOST_COMMENTS} comments"
    fields = 3 if data[1] in b"14" else 4
    header = _PNM_COMMENT.sub(b"", data[:LONGEST_HEADER])
    if len(data) > LONGEST_HEADER and len(header.split(maxsplit=fields)) < fields:
        return f"{LONGEST_HEADER} bytes of header"
    return None


def _bmp(data: memoryview) -> str | None:
    is_slow = len(data) > MOST_SLOW_BYTES and int.from_bytes(data[30:34], "little") in _RUN_LENGTHS
    return f"{MOST_SLOW_BYTES} bytes in run lengths" if is_slow else None


def _tiff(data: memoryview) -> str | None:
    """Of the first directory's tags, all of which become numbers of Python."""
    order = "<" if data[0] == ord("I") else ">"
    big = data[2] == ord("+")
    offset, count, entry = (order + kind for kind in (("Q", "Q", "HHQ8x") if big else ("L", "H", "HHL4x")))
    size = struct.calcsize(entry)
    try:
        (position,) = struct.unpack_from(offset, data, 8 if big else 4)
        (entries,) = struct.unpack_from(count, data, position)
    except (struct.error, OverflowError):  # a damaged header, of which Pillow says so
        return None
    position += struct.calcsize(count)
    entries = min(entries, (len(data) - position) // size)
    if entries > MOST_PARTS:
        return f"{MOST_PARTS} tags"
    numbers = sum(
        many
        for _, kind, many in struct.iter_unpack(entry, data[position : position + max(entries, 0) * size])
        if kind not in _TIFF_BYTES and many <= len(data)
    )
    return f"{MOST_NUMBERS} numbers in its tags" if numbers > MOST_NUMBERS else None


def _avif(data: memoryview) -> str | None:
    """Its EXIF lies somewhere in it, and begins as a TIFF does."""
    starts = [match.start() for match in islice(_TIFF_HEAD.finditer(data), MOST_COMMENTS)]
    return next(filter(None, (_tiff(data[start:]) for start in starts)), None)
