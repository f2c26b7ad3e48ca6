"""What open_image accepts as a source, what it refuses, and in which words."""

from __future__ import annotations

import io
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import WHITE, as_nobody, encode, noise, refused, same, samples
from PIL import Image
from repository import ROOT

from magicap.errors import BadImage, MagicapError
from magicap.images.reader import REASONS, ImageLimits, describe_source, open_image


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    data = encode(noise(), "PNG")
    path = tmp_path / "naïve 写真.png"
    path.write_bytes(data)
    with open(path, "rb") as file, Image.open(path) as lazy:
        sources = [
            path,
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            memoryview(data * 2)[: len(data)],
        ]
        sources += [io.BytesIO(data), file, lazy, noise(), np.asarray(noise())]
        sources += [memoryview(bytes(np.repeat(np.frombuffer(data, np.uint8), 2)))[::2]]
        sources += [torch.from_numpy(np.array(noise())).permute(2, 0, 1)]
        sources += [Image.open(io.BytesIO(encode(noise(), kind))) for kind in ("TIFF", "BMP")]
        for source in sources:
            assert same(open_image(source), noise()), describe_source(source)
        assert not file.closed


def test_the_suffix_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(noise(), "PNG"))
    assert same(open_image(path), noise())


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(encode(noise(), "PNG"))
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert same(open_image(tmp_path / "link.png"), noise())


def test_the_result_is_decoded_and_independent_of_its_source() -> None:
    image = noise()
    opened = open_image(image)
    opened.putpixel((0, 0), WHITE)
    assert same(image, noise())
    array = np.array(noise())
    opened = open_image(array)
    array[:] = 0
    assert same(opened, noise())


def test_file_objects_are_read_from_where_they_stand() -> None:
    file = io.BytesIO(b"header" + encode(noise(), "PNG"))
    file.seek(6)
    assert same(open_image(file), noise())
    with refused("empty", "at its end?"):
        open_image(file)


def test_file_objects_that_give_little_at_a_time() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 7))

    assert same(open_image(Trickle(encode(noise(), "PNG"))), noise())


def test_reading_a_file_object_stops_at_the_limit() -> None:
    class Endless(io.RawIOBase):
        total = 0

        def read(self, size: int = -1, /) -> bytes:
            self.total += size
            return bytes(size)

    endless = Endless()
    with refused("bytes"):
        open_image(endless, limits=ImageLimits(bytes=5_000_000))
    assert endless.total == 5_000_001


def test_file_objects_that_fail() -> None:
    closed = io.BytesIO(b"1")
    closed.close()
    with refused("unreadable"):
        open_image(closed)
    with refused("type", "'rb'"):
        open_image(io.StringIO("text"))  # type: ignore[arg-type]
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with open(reader, "rb", buffering=0) as file, refused("type"):
        open_image(file)
    os.close(writer)


@pytest.mark.parametrize("source", [7, None, [], [b"x"], {}, object(), 1.5, Path, np.uint8(3), int])
def test_other_types_are_refused(source: Any) -> None:
    with refused("type"):
        open_image(source)


# --- paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.jpg",
        "HTTPS://example.com/a.jpg",
        " https://example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "s3://bucket/a.jpg",
        "gs://bucket/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,iVBOR" + "A" * 100_000,
        Path("https://example.com/a.jpg"),
    ],
)
def test_addresses_are_refused(url: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    with refused("url", "download it"):
        open_image(url)


def test_missing_file(tmp_path: Path) -> None:
    with refused("missing", "nothing.jpg"):
        open_image(tmp_path / "nothing.jpg")
    with refused("missing"):
        open_image("")
    (tmp_path / "file").write_bytes(b"x")
    with refused("missing"):
        open_image(tmp_path / "file" / "below.jpg")
    (tmp_path / "dangling").symlink_to("nowhere")
    with refused("missing"):
        open_image(tmp_path / "dangling")


def test_directory(tmp_path: Path) -> None:
    with refused("directory", "find_images"):
        open_image(tmp_path)


@pytest.mark.parametrize("path", ["a\0b.jpg", "x" * 5000, "\ud800.jpg"])
def test_unusable_paths(path: str) -> None:
    with refused("path"):
        open_image(path)


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    with refused("path"):
        open_image(tmp_path / "a.jpg")


def test_pipes_sockets_and_devices_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jpg")
        for path in (tmp_path / "pipe.jpg", tmp_path / "s.jpg", "/dev/zero", "/dev/null"):
            with refused("special"):
                open_image(path)


def test_a_file_swapped_for_a_pipe_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    regular = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with refused("empty"):
        open_image(tmp_path / "pipe.jpg")


def test_control_characters_of_a_path_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with refused("missing", "\\x1b[31m"):
        open_image(tmp_path / "\x1b[31m\n.jpg")


def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(encode(noise(), "PNG"))
    path.chmod(0)
    with as_nobody(tmp_path), refused("unreadable", "locked.png"):
        open_image(path)


# --- files that are no picture ------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
def test_empty_bytes(empty: bytes, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(empty)
    for source in (empty, tmp_path / "empty.jpg", io.BytesIO(empty)):
        with refused("empty"):
            open_image(source)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "text"),
        (b"\xef\xbb\xbf<html>\xc3\xa9t\xc3\xa9", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch /tmp/x) run\n", "format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "format"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "format"),
        (bytes(1000), "format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"GIF89a", "damaged"),
        (b"RIFF\x10\0\0\0WEBPVP8 \0\0\0\0", "damaged"),
        (b"II*\0\xff\xff\xff\x7f", "damaged"),
        (b"MM\0*\0\0\0\x08\xff\xff", "damaged"),
    ],
)
def test_bytes_that_are_no_picture(data: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(data)
    with refused(code):
        open_image(tmp_path / "picture.jpg")
    with warnings.catch_warnings(), refused(code):
        warnings.simplefilter("error")
        open_image(data)


@pytest.mark.parametrize("kind", ["EPS", "JPEG2000", "ICO", "TGA", "PCX", "SGI", "DDS", "IM", "PDF"])
def test_decoders_off_the_list_are_never_run(kind: str) -> None:
    with pytest.raises(BadImage) as caught:
        open_image(encode(noise(), kind))
    assert caught.value.code in ("format", "text", "damaged")


def test_lazy_pil_images_of_each_format_are_accepted() -> None:
    for name, data in samples().items():
        assert same(open_image(Image.open(io.BytesIO(data))), open_image(data)), name


def test_lazy_pil_images_of_other_formats_are_refused() -> None:
    lazy = Image.open(io.BytesIO(encode(noise(), "EPS")))
    with refused("format", "EPS"):
        open_image(lazy)
    lazy = Image.open(io.BytesIO(encode(noise(), "ICO")))
    assert open_image(lazy.convert("RGB")).mode == "RGB"


# --- names and reasons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("some/picture.jpg", "some/picture.jpg"),
        (Path("some/picture.jpg"), "some/picture.jpg"),
        (bytes(123), "bytes (123 bytes)"),
        (bytearray(3), "bytes (3 bytes)"),
        (memoryview(bytes(8)).cast("I"), "bytes (8 bytes)"),
        (Image.new("RGB", (2, 2)), "PIL image"),
        (np.zeros((4, 5, 3)), "numpy array of shape (4, 5, 3)"),
        (torch.zeros(3, 4, 5), "torch tensor of shape (3, 4, 5)"),
        (None, "object of type NoneType"),
        (io.BytesIO(), "object of type BytesIO"),
    ],
)
def test_names_for_people(source: Any, name: str) -> None:
    assert describe_source(source) == name


@given(st.text())
def test_names_are_short_and_printable(text: str) -> None:
    for source in (text, text * 1000):
        assert describe_source(source).isprintable()
        assert len(describe_source(source)) <= 2200


def test_errors_are_of_the_family() -> None:
    with pytest.raises(BadImage) as caught:
        open_image(b"nothing")
    assert isinstance(caught.value, MagicapError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.source == "bytes (7 bytes)"
    assert caught.value.__cause__ is not None


def test_the_table_of_reasons_is_exact() -> None:
    """Every code of the table is met by a test of pictures, every code met is in the table (see refused)."""
    files = sorted((ROOT / "tests").glob("*/test_images*.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert all(f'"{code}"' in text for code in REASONS)
    assert all(meaning and "\n" not in meaning for meaning in REASONS.values())
