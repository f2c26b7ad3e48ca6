"""The one reader that makes pictures of bytes, files and arrays.

Limits are checked before pixels are decoded, nothing is downloaded, and only the decoders of ``FORMATS`` run.
Colour profiles are not applied. A program that sets Pillow's global ``ImageFile.LOAD_TRUNCATED_IMAGES`` makes
Pillow, and so this module, accept files that are cut short.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from magicap.checks import require_int, require_number
from magicap.errors import BadImage, MissingPackage
from magicap.extras import require
from magicap.images.formats import FORMATS, HEIC, HEIF, MAGIC, RAW, OtherFormat, is_avif, other_format
from magicap.images.parts import excess
from magicap.images.pixels import from_array, from_tensor, over_white
from magicap.printable import escape
from magicap.reading import SpecialFile, open_regular

if TYPE_CHECKING:
    import torch

    from magicap.images.pixels import Array

FilePath: TypeAlias = "str | os.PathLike[str]"
Encoded: TypeAlias = "bytes | bytearray | memoryview | IO[bytes]"
AtLeast: TypeAlias = "int | Callable[[int, int], int]"
ImageSource: TypeAlias = "FilePath | Encoded | Image.Image | Array | torch.Tensor"

REASONS: dict[str, str] = {
    "type": "not a path, bytes, binary file object, PIL image, numpy array or torch tensor",
    "url": "an address; nothing is ever downloaded",
    "path": "an unusable path: a NUL byte, too long, a loop of links",
    "missing": "no file at that path",
    "directory": "a folder",
    "special": "a pipe, socket or device",
    "unreadable": "a file, file object or folder that could not be read",
    "empty": "no bytes",
    "bytes": "more bytes than the limit",
    "text": "text, for example the HTML page of a failed download",
    "format": "not one of the accepted picture formats",
    "damaged": "a picture cut short or corrupted",
    "scans": "so many scans, segments, chunks, comments or tags that decoding could take hours",
    "pixels": "more pixels than the limit, possibly a decompression bomb",
    "side": "a side longer than the limit",
    "aspect": "a picture too long and thin",
    "region": "a region that does not lie in the picture",
    "shape": "not the shape of one picture",
    "dtype": "array elements of a type that is not accepted",
    "range": "array values that fit neither [0, 1] nor [0, 255]",
    "nan": "values that are NaN or infinite",
}
_LOG = logging.getLogger(__name__)
_WARNINGS_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not inherit it locked by a thread it does not have
    os.register_at_fork(before=_WARNINGS_LOCK.acquire, after_in_parent=_WARNINGS_LOCK.release)
    os.register_at_fork(after_in_child=_WARNINGS_LOCK.release)
_DECODERS = [name for name in FORMATS if name != "MPO"]  # which the decoder of JPEG reads
_CHUNK = 1 << 20
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SUBFILE_TYPE, _THUMBNAIL = 254, 1  # a TIFF that begins with a thumbnail is a camera's RAW picture
_ON_ITS_SIDE = range(5, 9)  # EXIF orientations that exchange width and height
_URL = re.compile(r"\s*(data:|[a-z][a-z0-9+.-]+://|(https?|ftps?|s3|gs|file):/)", re.IGNORECASE)
_TEXT = re.compile(rb"[\t-\r\x20-\x7e\xef][\t-\r\x20-\x7e\x80-\xff]*")
_ERRNO = {errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.ENAMETOOLONG: "path", errno.ELOOP: "path"}


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost, limits included.

    Raises:
        BadSettings: a limit is below 1, not finite, or (aspect aside) not whole.
    """

    bytes: int = 128 << 20
    """Largest encoded size of a file, file object or bytes, in bytes. A crafted one may take Pillow a
    second per megabyte to read: serve strangers with a smaller limit."""
    pixels: int = 120_000_000
    """Largest width x height: 4 bytes each once decoded, two or three times over for a moment. Pillow's own
    ceiling for files (178,956,970) stays in force above it."""
    side: int = 30_000
    """Longest width or height, in pixels."""
    aspect: float = 100.0
    """Largest long side / short side (need not be whole): resizing the short side to 224 pixels magnifies the
    long one as much, so that a 141-byte file of 20,000 x 1 pixels would cost 4 GiB."""

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "side"):
            require_int(f"ImageLimits.{name}", getattr(self, name))
        require_number("ImageLimits.aspect", self.aspect, lambda ratio: ratio >= 1, "finite and at least 1")


LIMITS = ImageLimits()
"""What a picture may cost where nothing else is said."""


def open_image(
    source: ImageSource, *, limits: ImageLimits = LIMITS, at_least: AtLeast | None = None
) -> Image.Image:
    """Turn one picture into RGB: decoded, first frame, upright by its EXIF, transparency over white.

    Args:
        source: a path; encoded bytes; a binary file object (read from where it stands, left open); a PIL
            image (its current frame; never changed); a numpy array, HW or HWC; a torch tensor, HW or CHW, on
            any device. Arrays have 1 (grey), 2 (grey + alpha), 3 (RGB) or 4 (RGBA) channels of bool, uint8,
            uint16 (65535 is white) or floats: in [0, 1] if their maximum is at most 1, in [0, 255] if it is
            at least 2, and refused in between, where a picture in [0, 1] that overshoots would turn black.
        limits: what the picture may cost.
        at_least: the short side that the caller needs, in pixels, or a function that gives it for a width and
            height (of the whole picture, upright). To save time a large JPEG is then decoded at a half, a
            quarter or an eighth of its size, as far as its short side stays that long.

    Returns:
        A new "RGB" image without metadata. In 16-bit grey files 65535 is white, whatever their own maximum;
        wider integers, and floats that an array may not hold, are stretched from minimum to maximum.

    Raises:
        BadImage: ``code`` is a key of ``REASONS``.
    """
    return open_sized(source, limits=limits, at_least=at_least)[0]


def open_sized(
    source: ImageSource, *, limits: ImageLimits = LIMITS, at_least: AtLeast | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """:func:`open_image`, and width and height of the whole picture, upright, however small it is decoded."""
    return _Reader(describe_source(source), limits).open(source, at_least)


def describe_source(source: object) -> str:
    """Name a source, or what was made of one, for people: printable, and never longer than a few lines."""
    source = getattr(source, "source", source)  # of a PreparedImage or an ImageRegion
    if isinstance(source, str | os.PathLike):
        return _short(os.fsdecode(source)) or "the empty path"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"bytes ({memoryview(source).nbytes} bytes)"
    if isinstance(source, Image.Image):
        return "PIL image"
    for module, kind, noun in (("numpy", "ndarray", "array"), ("torch", "Tensor", "tensor")):
        if _is_instance(source, module, kind):
            return _short(f"{module} {noun} of shape {tuple(cast(Any, source).shape)}")
    return _short(f"object of type {type(source).__name__}")


def _short(text: str) -> str:
    """Cut the middle out of a long text, and escape what a terminal would obey or could not print."""
    cut = text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"
    return "".join(sign if sign.isprintable() else escape(sign) for sign in cut)


def _is_instance(source: object, module: str, kind: str) -> bool:
    """``isinstance`` without importing: no array exists before its library was imported."""
    return isinstance(source, getattr(sys.modules.get(module), kind, ()))


@contextlib.contextmanager
def refusing(code: str, message: str, name: str) -> Iterator[None]:
    """Turn whatever is raised inside into ``BadImage``: decoders raise nearly every kind of exception."""
    try:
        yield
    except BadImage:
        raise
    except Exception as error:
        if isinstance(error, Image.DecompressionBombError):
            code, message = "pixels", "expected a picture that Pillow accepts, found a larger one; shrink it"
        message = f"{message} ({type(error).__name__}: {_short(str(error))})"
        raise BadImage(code, message, source=name) from error


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow, which warns of large pictures. Filters are global to the process: hence the lock."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class _Reader:
    """One source on its way in: its name for people, and what it may cost."""

    name: str
    limits: ImageLimits

    def bad(self, code: str, message: str) -> BadImage:
        return BadImage(code, message, source=self.name)

    def refusing(self, code: str, message: str) -> contextlib.AbstractContextManager[None]:
        return refusing(code, message, self.name)

    def open(self, source: object, at_least: AtLeast | None) -> tuple[Image.Image, tuple[int, int]]:
        image = self.lazy(source)
        self.check_size(*image.size)
        whole = image.size
        if at_least is not None and image is not source:  # a caller's own picture is never changed
            if callable(at_least):
                at_least = at_least(*self.upright_size(image))
            image.draft(None, (at_least, at_least))
        with self.refusing("damaged", "the picture is cut short or corrupted; fetch it again"):
            self.check_tiles(image)
            warns = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
            with _no_warnings() if warns else contextlib.nullcontext():
                image.load()
            rgb = over_white(image, self)
            rgb.info.clear()
            rgb.getexif()[ExifTags.Base.Orientation] = orientation = self.orientation(image)
            ImageOps.exif_transpose(rgb, in_place=True)
            rgb.getexif().clear()
        return rgb, whole[::-1] if orientation in _ON_ITS_SIDE else whole

    def lazy(self, source: object) -> Image.Image:
        """Return a PIL image that may still have to be decoded."""
        if _is_instance(source, "numpy", "ndarray"):
            return from_array(cast("Array", source), self)
        if _is_instance(source, "torch", "Tensor"):
            return from_tensor(cast("torch.Tensor", source), self)
        if not isinstance(source, Image.Image):
            return self.identify(self.read(source))
        if isinstance(source, ImageFile.ImageFile) and source.format not in (*FORMATS, HEIF):
            raise self.bad("format", f"expected {FORMATS}, found {source.format}; pass image.convert('RGB')")
        return source

    def read(self, source: object) -> io.BytesIO:
        if isinstance(source, str | os.PathLike):
            return self.read_path(os.fsdecode(source))
        if isinstance(source, bytes | bytearray | memoryview):
            self.check_bytes(memoryview(source).nbytes)
            return io.BytesIO(bytes(source))
        if hasattr(source, "read"):
            return self.read_file(cast("IO[bytes]", source))
        accepted = "a path, bytes, a binary file object, a PIL image, a numpy array or a torch tensor"
        raise self.bad("type", f"expected {accepted}, found {_short(repr(type(source)))}; convert it")

    def read_path(self, path: str) -> io.BytesIO:
        if _URL.match(path):
            raise self.bad("url", "expected a local path, found an address; download it and pass the file")
        try:
            return self.read_regular(path)
        except BadImage:
            raise
        except IsADirectoryError as error:
            advice = "expected a file, found a folder; list it with find_images"
            raise self.bad("directory", advice) from error
        except SpecialFile as error:
            advice = "expected a file, found a pipe, socket or device; pass its bytes"
            raise self.bad("special", advice) from error
        except (OSError, ValueError) as error:
            code = _ERRNO.get(error.errno or 0, "unreadable") if isinstance(error, OSError) else "path"
            reason = getattr(error, "strerror", None) or str(error)
            raise self.bad(code, f"expected a file, found {REASONS[code]} ({reason}); check it") from error

    def read_regular(self, path: str) -> io.BytesIO:
        with open_regular(path) as file:
            self.check_bytes(os.fstat(file.fileno()).st_size)
            return self.read_file(file)

    def read_file(self, file: IO[bytes]) -> io.BytesIO:
        buffer = io.BytesIO()
        with self.refusing("unreadable", "reading failed; check that the file is open and readable"):
            while (room := self.limits.bytes + 1 - buffer.tell()) > 0:
                chunk = file.read(min(_CHUNK, room))
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    kind = type(chunk).__name__
                    raise self.bad("type", f"expected bytes from read(), found {kind}; open it with 'rb'")
                if not chunk:
                    break
                buffer.write(chunk)
        self.check_bytes(buffer.tell())
        return buffer

    def check_bytes(self, count: int) -> None:
        if count > self.limits.bytes:
            raise self.bad("bytes", f"expected at most {self.limits.bytes} bytes, found {count}; shrink it")

    def check_size(self, width: int, height: int) -> None:
        size, limits = f"found {width} x {height}; crop or resize it", self.limits
        if not width or not height:
            raise self.bad("shape", f"expected at least one pixel, {size}")
        if width * height > limits.pixels:
            raise self.bad("pixels", f"expected at most {limits.pixels} pixels, {size}")
        if max(width, height) > limits.side:
            raise self.bad("side", f"expected sides of at most {limits.side} pixels, {size}")
        if max(width, height) > limits.aspect * min(width, height):
            raise self.bad("aspect", f"expected sides in a ratio of at most {limits.aspect}, {size}")

    def check_tiles(self, image: Image.Image) -> None:
        """Check the tiles of a TIFF, which may be larger than the picture, and are decoded whole."""
        tags = getattr(image, "tag_v2", {})
        if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0) > self.limits.pixels:
            raise self.bad(
                "pixels", f"expected tiles of at most {self.limits.pixels} pixels; export it again"
            )

    def identify(self, buffer: io.BytesIO) -> Image.Image:
        """Read the header alone."""
        head = bytes(buffer.getbuffer()[:512])
        if not head:
            raise self.bad("empty", "expected a picture, found no bytes (is a file object at its end?)")
        if limit := excess(buffer.getbuffer()):
            raise self.bad("scans", f"expected a picture of at most {limit}, found more; export it again")
        decoders = _DECODERS
        if (other := other_format(head)) is not None:
            decoders = [self.decoder_of(other)]
        with self.refusing("damaged", "the header is corrupted; fetch the file again"), _no_warnings():
            try:
                image = Image.open(buffer, formats=decoders)
            except UnidentifiedImageError as error:
                raise self.unidentified(head) from error
            if getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & _THUMBNAIL:
                raise self.bad("format", f"expected a picture, found {RAW.name}; {RAW.fix}")
        return image

    def decoder_of(self, other: OtherFormat) -> str:
        """The decoder that an extra brings for a format; refused where there is none."""
        message = f"expected {', '.join(FORMATS)}, found {other.name}; {other.fix}"
        if other != HEIC:
            raise self.bad("format", message)
        try:
            require("pillow_heif").register_heif_opener()
        except MissingPackage as error:
            raise self.bad("format", message) from error
        return HEIF

    def unidentified(self, head: bytes) -> BadImage:
        beginning = f"found {head[:16]!r}..."
        if head.startswith(MAGIC) or is_avif(head):
            return self.bad("damaged", f"expected a whole header, {beginning}; fetch it again")
        if (other := other_format(head)) is not None:
            return self.bad(
                "damaged", f"expected {other.name} with a whole header, {beginning}; fetch it again"
            )
        if _TEXT.fullmatch(head):
            return self.bad("text", f"expected a picture, found text: {beginning}; is it a failed download?")
        return self.bad("format", f"expected {', '.join(FORMATS)}, {beginning}; convert it to one of these")

    def upright_size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height once the picture is turned, as far as its header tells; that of a JPEG does."""
        width, height = image.size
        return (height, width) if self.orientation(image) in _ON_ITS_SIDE else (width, height)

    def orientation(self, image: Image.Image) -> int:
        """Return the EXIF orientation, or 1 (upright) if the EXIF is broken: the pixels are still good."""
        try:
            # Of a file that is no JPEG, EXIF may be as large as the file.
            exif = image.info.get("exif") or b""
            if limit := excess(memoryview(exif.removeprefix(b"Exif\0\0"))):
                raise ValueError(f"more than {limit}")
            with _no_warnings():
                return int(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception as error:
            _LOG.warning("%s: broken EXIF, orientation unknown (%s)", self.name, _short(repr(error)))
            return 1
