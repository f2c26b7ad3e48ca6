"""Which formats are read, and what others are called: by the first bytes of a file and by its suffix."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from PIL import features

_AVIF = ("AVIF",) if features.check("avif") else ()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", *_AVIF)
"""As Pillow calls them."""

_SUFFIXES = "jpg jpeg jpe jfif png apng webp gif bmp tif tiff ppm pgm pbm pnm mpo"
SUFFIXES = frozenset(f".{suffix.lower()}" for suffix in (*_SUFFIXES.split(), *_AVIF))
"""Of files in these formats."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P4", b"P5", b"P6")
"""How files in these formats begin, AVIF aside."""

_LONG_MAGIC = tuple(start for start in MAGIC if len(start) > 2)  # two letters begin other files too

HEIF = "HEIF"
"""What Pillow calls HEIC once the extra ``heif`` is installed."""


@dataclass(frozen=True)
class OtherFormat:
    """A format that is not read."""

    name: str
    """After an article: "a HEIC picture"."""

    fix: str = "convert it to JPEG or PNG"
    is_picture: bool = True


HEIC = OtherFormat("a HEIC picture", "pip install 'magicap[heif]', or convert it to JPEG")
"""The one that an extra reads."""

_AVIF_PICTURE = OtherFormat("an AVIF picture", "install a Pillow that reads AVIF, or convert it to JPEG")
RAW = OtherFormat("a camera's RAW picture", "develop it to JPEG or TIFF")
_VIDEO = OtherFormat("a video", "caption it with 'magicap video'", is_picture=False)
_PICTURES = {  # how they begin, what they are called, and their suffixes
    b"\0\0\0\x0cJXL ": ("a JPEG XL picture", "jxl"),
    b"\xff\x0a": ("a JPEG XL picture", ""),
    b"\0\0\0\x0cjP  ": ("a JPEG 2000 picture", "jp2 jpf jpx jpm"),
    b"\xff\x4f\xff\x51": ("a JPEG 2000 picture", "j2k j2c jpc"),
    b"8BPS": ("a Photoshop picture", "psd psb"),
    b"gimp xcf": ("a GIMP picture", "xcf"),
    b"\0\0\1\0": ("an icon", "ico"),
    b"icns": ("an icon", "icns"),
    b"v/1\x01": ("an OpenEXR picture", "exr"),
    b"#?RADIANCE": ("a Radiance HDR picture", "hdr"),
    b"DDS ": ("a DDS texture", "dds"),
    b"qoif": ("a QOI picture", "qoi"),
    b"BPG\xfb": ("a BPG picture", "bpg"),
    b"AT&TFORM": ("a DjVu document", "djvu"),
    b"%!PS": ("a PostScript drawing", "eps"),
}
_RAWS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")
_OTHER_SUFFIXES = "heic heif hif avif svg tga"
_RAW_SUFFIXES = "cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw x3f raw"
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
}


def _archive(name: str) -> OtherFormat:
    return OtherFormat(name, "unpack it and give the folder", is_picture=False)


_STARTS = {
    **{start: OtherFormat(name) for start, (name, _) in _PICTURES.items()},
    **{start: _archive(name) for start, name in _ARCHIVES.items()},
    b"%PDF": OtherFormat("a PDF document", "export its pages as pictures", is_picture=False),
    b"\x1aE\xdf\xa3": _VIDEO,
}
_SVG = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE\s+svg[^>]*>\s*)*<(\w+:)?svg[\s>]", re.DOTALL
)

UNREAD_SUFFIXES = (
    frozenset(
        f".{suffix}"
        for suffixes in (*(listed for _, listed in _PICTURES.values()), _RAW_SUFFIXES, _OTHER_SUFFIXES)
        for suffix in suffixes.split()
    )
    - SUFFIXES
)
"""Of pictures in formats that are not read, which are named and not passed over."""

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .3gp .3g2 .mkv .webm .avi .mpg .mpeg .mts .m2ts .flv .wmv .asf .ogv".split()
)
"""Of videos; .ts is not among them, which programs in TypeScript have, too."""

_HEAD = 512
# Of the files that lie beside pictures, those whose content need not be looked at.
_NO_PICTURES = frozenset(
    ".txt .caption .json .jsonl .csv .tsv .xml .yaml .yml .md .html .log .py .npy .npz .pt .safetensors "
    ".parquet .zip .tar .gz .tgz .pdf .mp4 .mov .avi .mkv .webm .mp3 .wav .db .ini .aae .xmp".split()
)


def has_picture_suffix(name: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture by its name, of a format that is read or not."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or suffix in UNREAD_SUFFIXES


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video by its name."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def is_picture_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture, of any format: by its name, or else by how it begins."""
    if has_picture_suffix(path):
        return True
    if os.path.splitext(path)[1].lower() in _NO_PICTURES or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
    except OSError:  # nobody said that it is one
        return False
    other = other_format(head)
    if other is not None:
        return other.is_picture
    return is_avif(head) or head.startswith(_LONG_MAGIC)


def other_format(head: bytes) -> OtherFormat | None:
    """What a file is that is in none of :data:`FORMATS`, by its first 512 bytes; None: in one, or unknown."""
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WAVE"):
        return _VIDEO
    if head.startswith(_RAWS) or (head[:4] == b"II*\0" and head[8:10] == b"CR"):
        return RAW
    if _SVG.match(head):
        return OtherFormat("an SVG drawing")
    if head[257:262] == b"ustar":
        return _archive("a tar archive")
    return next((other for start, other in _STARTS.items() if head.startswith(start)), None)


def _of_brands(head: bytes) -> OtherFormat | None:
    """What an ISO base media file is by the brands that it names, the major one first."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[place : place + 4] for place in range(16, size, 4))}
    if is_avif(head):
        return None if _AVIF else _AVIF_PICTURE
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return HEIC
    return RAW if head[8:12] == b"crx " else _VIDEO


def is_avif(head: bytes) -> bool:
    """Whether a file begins as AVIF does."""
    return head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")
