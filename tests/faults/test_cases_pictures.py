"""Pictures of every kind: read as they look, or refused by name, one row each."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest
import torch  # noqa: F401 - so that no fork imports it
from command import assert_refused, magicap
from PIL import Image

from magicap.captioners.load import load_captioner  # noqa: F401 - nor this
from magicap.errors import BadImage
from magicap.images.formats import other_format
from magicap.images.reader import open_image

# Picture, the one that it looks like, and how far a pixel may be off.
ALIKE = """
    grey16.png plain_grey.png 1       grey16.tif plain_grey.png 1     float01.tif plain_grey.png 1
    rgb16.png plain.png 1             rgb16.tif plain.png 1           rgba16.png rgba_half.png 1
    greyalpha16.png grey_alpha.png 1  cmyk.tif plain.png 1            cmyk_adobe.jpg plain.png 20
    ycck_adobe.jpg plain.png 30       lab.tif plain.png 6             palette.png plain.png 1
    animated.gif plain.png 1          animated.webp plain.png 1       animated.png plain.png 1
    pages.tif plain.png 1             stereo.mpo plain.jpg 1          stereo_as.jpg plain.jpg 1
    icc_srgb.jpg plain.jpg 1          icc_junk.jpg plain.jpg 1        exif_zero.jpg plain.jpg 1
    exif_junk.jpg plain.jpg 1         trailing_junk.jpg plain.jpg 1   png_inside.jpg plain.png 0
    jpeg_inside.png plain.jpg 0       webp_inside.jpg plain.jpg 40    UPPER.JPG plain.jpg 0
    UPPER2.JPEG plain.jpg 0           photo.jfif plain.jpg 0          photo.JPE plain.jpg 0
    dots.in.the.name.jpg plain.jpg 0  photo.avif plain.png 110        cut_iend.png plain.png 0
    no_usual_name/no_suffix plain.jpg 0                  no_usual_name/photo.jpg_large plain.jpg 0
""".split()
TURNED = """
    exif3.jpg plain.jpg 2 40  exif6.jpg plain.jpg 3 40  exif8.jpg plain.jpg 1 40
    exif6.png plain.png 3 0   exif6.webp plain.png 3 0  exif6.tif plain.png 3 0
""".split()
TRANSPARENT = "rgba_none.png palette_transparent.png palette_alpha_bytes.png rgb_colourkey.png".split()
HALF = ["rgba_half.png", "grey_alpha.png"]
OTHERS = "one_bit.png float_any.tif int32.tif grey12in16.png one.png ratio_100.png".split()
BROKEN = {
    "nan": "float_nan.tif",
    "damaged": "cut_half.jpg cut_last_40.jpg cut_last_two.jpg cut_half.png bad_crc.png cut_half.webp "
    "cut_half.gif only_soi.jpg zero_wide.png",
    "empty": "empty.jpg",
    "format": "zero_bytes.png unread/phone.heic unread/new.jxl unread/photo.jp2 unread/drawing.svg "
    "unread/inside.zip",
    "text": "html.jpg json.png pointer.jpg",
    "aspect": "thin_20000x1.png thin_1x20000.png",
    "pixels": "huge_header.png huge_header.gif wide_65535.jpg",
}
CODES = {name: code for code, names in BROKEN.items() for name in names.split()}
GOOD = [*ALIKE[::3], *TURNED[::4], *TRANSPARENT, *HALF, *OTHERS]


@pytest.fixture(scope="module", autouse=True)
def without_extra():
    """As where the extra for HEIC is not installed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "pillow_heif", None)
        yield patched


@pytest.fixture
def pictures(cases):
    return cases / "pictures"


def pixels(path) -> np.ndarray:
    return np.asarray(open_image(path), dtype=np.int16)


@pytest.mark.parametrize(
    ("name", "other", "most"), list(zip(ALIKE[::3], ALIKE[1::3], map(int, ALIKE[2::3]), strict=True))
)
def test_pictures_look_alike_in_every_format(pictures, name, other, most):
    assert np.abs(pixels(pictures / name) - pixels(pictures / other)).max() <= most


@pytest.mark.parametrize(
    ("name", "other", "quarters", "most"),
    list(zip(TURNED[::4], TURNED[1::4], map(int, TURNED[2::4]), map(int, TURNED[3::4]), strict=True)),
)
def test_pictures_stand_upright(pictures, name, other, quarters, most):
    upright = np.rot90(pixels(pictures / other), quarters)
    assert np.abs(pixels(pictures / name) - upright).max() <= most


@pytest.mark.parametrize("name", [*TRANSPARENT, *HALF])
def test_what_is_transparent_is_white(pictures, name):
    image = pixels(pictures / name)
    white = (image == 255).all(axis=2)
    if name in HALF:
        assert white[:, image.shape[1] // 2 :].all()
    elif name == "rgba_none.png":
        assert white.all()
    else:
        assert white.any()


@pytest.mark.parametrize("name", ["float_any.tif", "int32.tif"])
def test_wide_numbers_are_stretched(pictures, name):
    image = pixels(pictures / name)
    assert (image.min(), image.max()) == (0, 255)


@pytest.fixture(scope="module")
def captioned(cases, preset, without_extra):
    """Rows and complaints of one command over all pictures."""
    ended = magicap("caption", *GOOD, *CODES, "--json", "--preset", preset, cwd=cases / "pictures")
    assert ended.code == 2
    return {row["image"]: row for row in map(json.loads, ended.out.splitlines())}, ended.complaints


@pytest.mark.parametrize("name", GOOD)
def test_pictures_are_captioned(captioned, name):
    rows, complaints = captioned
    assert "caption" in rows[name]
    assert not [line for line in complaints if line.startswith(f"magicap: {name}:")]


@pytest.mark.parametrize("name", CODES)
def test_broken_pictures_are_error_rows(captioned, name):
    rows, complaints = captioned
    assert rows[name]["error"] == CODES[name]
    assert rows[name]["message"].startswith(f"{name}: ")
    assert len([line for line in complaints if line.startswith(f"magicap: {name}: ")]) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_pictures_of_other_formats_are_named_and_counted(cases, preset, as_json):
    unread = ["drawing.svg", "new.jxl", "phone.heic", "photo.jp2"]
    ended = magicap("caption", "pictures/unread", "--preset", preset, *["--json"] * as_json, cwd=cases)
    assert ended.code == 2
    for name, line in zip(unread, ended.complaints, strict=False):
        assert line.startswith(f"magicap: pictures/unread/{name}: expected JPEG")
    assert ended.complaints[4:] == [
        "magicap: 4 pictures are in formats that magicap does not read, as said of each"
    ]
    lines = ended.out.splitlines()
    if not as_json:
        assert [line.partition("\t")[0] for line in lines] == ["pictures/unread/plain.jpg"]
        return
    rows = {row["image"].removeprefix("pictures/unread/"): row for row in map(json.loads, lines)}
    assert sorted(rows) == sorted([*unread, "plain.jpg"])
    assert {rows[name]["error"] for name in unread} == {"format"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("phone.heic", ["HEIC", "magicap[heif]"]),
        ("new.jxl", ["JPEG XL", "convert"]),
        ("photo.jp2", ["JPEG 2000", "convert"]),
        ("drawing.svg", ["SVG", "convert"]),
        ("inside.zip", ["ZIP archive", "unpack"]),
    ],
)
def test_a_format_that_is_not_read_is_named_with_what_to_do(pictures, preset, name, said):
    assert_refused(magicap("caption", f"unread/{name}", "--preset", preset, cwd=pictures), name, *said)


def test_pictures_without_a_usual_suffix_are_found_by_their_content(pictures, preset):
    ended = magicap("caption", "no_usual_name", "--preset", preset, cwd=pictures)
    assert (ended.code, ended.err) == (0, ""), ended
    names = [line.partition("\t")[0] for line in ended.out.splitlines()]
    assert names == ["no_usual_name/no_suffix", "no_usual_name/photo.jpg_large"]


@pytest.mark.parametrize("name", ["loop.jpg", "ring"])
def test_links_in_circles_and_to_nothing(made_cases, preset, name):
    ended = magicap("caption", name, "--json", "--preset", preset, cwd=made_cases("links"))
    rows = {row["image"]: row.get("error") for row in map(json.loads, ended.out.splitlines())}
    assert ended.code == 2
    assert rows == (
        {name: "path"} if name == "loop.jpg" else {"ring/a.jpg": None, "ring/dangling.jpg": "missing"}
    )


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheix" + bytes(8), "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "RAW"),
        (b"II*\0\x10\0\0\0CR\2\0", "RAW"),
        (b"8BPS\0\1", "Photoshop"),
        (b"<!-- a --><svg xmlns='...'>", "SVG"),
        (b"Rar!\x1a\x07\0", "RAR archive"),
        (b"name.jpg".ljust(257, b"\0") + b"ustar", "tar archive"),
        (b"%PDF-1.7", "PDF"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
    ],
)
def test_other_formats_are_known_by_their_first_bytes(head, name):
    assert name in other_format(head).name
    with pytest.raises(BadImage, match=name) as refused:
        open_image(head)
    assert refused.value.code == "format"


def test_a_thumbnail_is_not_taken_for_its_raw_picture():
    tags = [(254, 4, 1), (256, 4, 4), (257, 4, 4), (258, 3, 8), (262, 3, 1), (273, 4, 122), (277, 3, 1)]
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*tags, (279, 4, 16)]
    )
    raw = b"II*\0\x08\0\0\0" + struct.pack("<H", 8) + entries + bytes(4) + bytes(range(20))
    with pytest.raises(BadImage, match="RAW"):
        open_image(raw)


def test_heic_is_read_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pillow_heif")
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(np.full((40, 60, 3), (200, 30, 30), np.uint8))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=90)
    read = pixels(tmp_path / "a.heic")
    assert read.shape == (40, 60, 3)
    assert np.abs(read - np.asarray(image, dtype=np.int16)).max() < 12
    data = (tmp_path / "a.heic").read_bytes()
    with pytest.raises(BadImage, match="HEIC") as refused:
        open_image(data[:40])
    assert refused.value.code == "damaged"
