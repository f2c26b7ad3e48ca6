"""Limits, and files made or damaged to hurt: bombs, fuzz, what they may cost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import RED, bombs, encode, noise, pixel, png_of, refused, same, samples
from PIL import Image
from repository import ROOT

from magicap.errors import BadImage, BadSettings
from magicap.images.reader import ImageLimits, open_image


def test_one_pixel_is_a_picture() -> None:
    assert pixel(encode(Image.new("RGB", (1, 1), RED), "PNG")) == RED


def test_each_limit_is_inclusive() -> None:
    data = encode(noise(20, 10), "PNG")
    open_image(data, limits=ImageLimits(bytes=len(data), pixels=200, side=20, aspect=2))
    for code, limits in {
        "bytes": ImageLimits(bytes=len(data) - 1),
        "pixels": ImageLimits(pixels=199),
        "side": ImageLimits(side=19),
        "aspect": ImageLimits(aspect=1.9),
    }.items():
        with refused(code):
            open_image(data, limits=limits)


def test_the_byte_limit_comes_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with refused("bytes"):
        open_image(path)


def test_limits_bind_arrays_and_pil_images_too() -> None:
    limits = ImageLimits(pixels=50)
    for source in (noise(), np.asarray(noise()), torch.zeros(3, 8, 8)):
        with refused("pixels"):
            open_image(source, limits=limits)
    with refused("shape"):
        open_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("field", ["bytes", "pixels", "side", "aspect"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_nonsense_limits_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadSettings, match=field):
        ImageLimits(**{field: value})


def test_counts_are_whole() -> None:
    with pytest.raises(BadSettings, match="side"):
        ImageLimits(side=1.5)  # type: ignore[arg-type]
    assert ImageLimits(aspect=1.5).aspect == 1.5


@pytest.mark.parametrize(
    "size", [(12000, 9000), (30000, 4000), (4000, 30000), (1170, 30000), (1, 1), (224, 3)]
)
def test_real_photos_and_panoramas_pass_the_limits(size: tuple[int, int]) -> None:
    """The header passes: the file, which has no pixels, is only found wanting while decoding."""
    with refused("damaged"):
        open_image(png_of(*size))


def test_pictures_that_pillow_warns_of_pass_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 - 1)
    for kind in ("PNG", "TIFF", "WEBP"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_image(encode(noise(), kind)).size == (24, 16)
        with refused("pixels", "Pillow"):
            open_image(encode(noise(48, 32), kind))


# --- bombs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["png", "webp", "gif", "bmp", "ppm", "tiff", "tile"])
def test_bombs_are_refused(name: str) -> None:
    with warnings.catch_warnings(), refused("pixels"):
        warnings.simplefilter("error")
        open_image(bombs()[name])


def test_a_thin_picture_that_would_grow_is_refused() -> None:
    data = png_of(20000, 1, bytes(20001))
    assert len(data) < 200
    with refused("aspect"):
        open_image(data)


def test_a_jpeg_that_repaints_itself_is_refused() -> None:
    data = encode(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    assert open_image(data[:-2] + scan * 20 + data[-2:]).size == (64, 64)
    with refused("scans"):
        open_image(data[:-2] + scan * 200 + data[-2:])


def test_a_jpeg_of_countless_segments_is_refused() -> None:
    with refused("scans"):
        open_image(b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000 + encode(noise(), "JPEG")[2:])


def test_scan_marks_inside_metadata_are_not_counted() -> None:
    data = encode(noise(), "JPEG", comment=b"\xff\xda" * 1000)
    assert open_image(data).size == (24, 16)


MEMORY = """
import resource, sys
from magicap.errors import BadImage
from magicap.images.reader import open_image
assert "torch" not in sys.modules and "numpy" not in sys.modules
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_image(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try:
        open_image(path)
    except BadImage:
        continue
    raise SystemExit(f"{path} was opened")
print(peak() - before)
"""


def test_refusing_costs_no_memory_and_importing_no_torch(tmp_path: Path) -> None:
    files = {"good": encode(noise(), "PNG"), **bombs(), "thin": png_of(20000, 1, bytes(20001))}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / name) for name in files)]
    grown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert grown.stderr == ""
    assert int(grown.stdout) < 30_000  # KiB


def test_pillows_globals_are_left_alone() -> None:
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with refused("pixels"):
        open_image(png_of(60000, 60000))
    open_image(encode(noise(), "PNG"))
    assert (before, filters) == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def test_threads_do_not_disturb_one_another() -> None:
    filters, sources = list(warnings.filters), list(samples().values()) * 8
    alone = [open_image(source).tobytes() for source in sources]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda source: open_image(source).tobytes(), sources)) == alone
    assert filters == list(warnings.filters)


# --- cut and damaged files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jpeg", "progressive", "png", "webp", "gif", "bmp", "tiff", "lzw", "ppm"])
def test_half_a_file_is_refused(name: str) -> None:
    data = samples()[name]
    with refused("damaged"):
        open_image(data[: len(data) // 2])


@settings(max_examples=100)
@given(st.data())
def test_a_shorter_file_is_refused_or_whole(data: st.DataObject) -> None:
    """Never half grey: what is left of a file gives the very picture, or BadImage."""
    encoded = samples()[data.draw(st.sampled_from(sorted(samples())))]
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with contextlib.suppress(BadImage):
        assert same(open_image(encoded[:cut]), open_image(encoded))


@settings(max_examples=100)
@given(st.data())
def test_damaged_files_give_rgb_or_bad_image(data: st.DataObject) -> None:
    broken = bytearray(samples()[data.draw(st.sampled_from(sorted(samples())))])
    for _ in range(data.draw(st.integers(1, 6))):
        where = min(data.draw(st.integers(0, 400) | st.integers(0, 10_000)), len(broken) - 1)
        broken[where] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        assert open_image(broken, limits=ImageLimits(pixels=1_000_000)).mode == "RGB"


@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0\x08\0\0\0", b"P5 "]
    ),
    st.binary(),
)
def test_random_bytes_give_rgb_or_bad_image(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(BadImage):
        assert open_image(magic + rest, limits=ImageLimits(pixels=1_000_000)).mode == "RGB"
