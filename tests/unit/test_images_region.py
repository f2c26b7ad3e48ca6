"""Boxes of pictures: what is one, what lies in it, and how errors name it."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import encode, refused
from PIL import ExifTags, Image

from magicap import BadSettings
from magicap.images.reader import describe_source
from magicap.images.region import ImageRegion, outer_box, parts_of, read_box, require_box
from magicap.images.transform import ImageTransform, prepare


def test_a_box_may_hold_numpy_integers():
    assert require_box(np.array([1, 2, 3, 4])) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 5),
        (0, 5, 5, 5),
        (-1, 0, 5, 5),
        (5, 0, 1, 5),
        (0, 0, 5),
        (0, 0, 5, 5, 5),
        (0, 0, 1.5, 5),
        "0,0,5,5",
        7,
    ],
)
def test_what_is_no_box_is_refused(box):
    with pytest.raises(BadSettings, match=r"^region must"):
        require_box(box)


def test_a_box_is_read_from_a_command_line():
    assert read_box("40, 60,220,300", "--box") == (40, 60, 220, 300)
    for text in ("40,60,220", "a,b,c,d", "", "1,2,3,4.5", "5,5,5,9"):
        with pytest.raises(BadSettings, match=r"^--box must"):
            read_box(text, "--box")


def test_the_outer_box_lies_in_the_picture_and_is_never_empty():
    assert outer_box((0.5, 1.2, 7.1, 8.0), (20, 20)) == (0, 1, 8, 8)
    assert outer_box((-3, -4, 99, 98), (20, 10)) == (0, 0, 20, 10)
    assert outer_box((30, 30, 40, 40), (20, 10)) == (19, 9, 20, 10)
    assert outer_box((5, 5, 5, 5), (20, 10)) == (5, 5, 6, 6)


def test_views_are_of_the_upright_picture():
    pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned right by 90 degrees
    turned = encode(Image.fromarray(pixels), "PNG", exif=exif)
    crop, picture = ImageRegion(turned, (1, 2, 4, 6)).views()
    upright = np.rot90(pixels, -1)
    assert picture.size == (4, 6)
    assert np.array_equal(np.asarray(picture)[..., 0], upright)
    assert np.array_equal(np.asarray(crop)[..., 0], upright[2:6, 1:4])


def test_a_box_outside_the_picture_is_refused_by_its_name(tmp_path):
    path = tmp_path / "small.png"
    Image.new("RGB", (20, 10)).save(path)
    for box in ((0, 0, 21, 10), (0, 0, 20, 11), (50, 50, 60, 60)):
        with refused("region", f"{path}: expected a region inside 20 x 10 pixels"):
            ImageRegion(path, box).views()


def test_what_was_made_of_a_picture_is_called_as_it(tmp_path):
    path = tmp_path / "small.png"
    Image.new("RGB", (20, 10)).save(path)
    assert describe_source(ImageRegion(path, (0, 0, 1, 1))) == str(path)
    assert describe_source(prepare(path, ImageTransform())) == str(path)
    assert describe_source(ImageRegion(b"1234", (0, 0, 1, 1))) == "bytes (4 bytes)"


def test_pictures_have_one_region_or_one_each():
    box, other = (0, 0, 4, 4), (1, 1, 5, 5)
    assert parts_of(["a", "b"], None) == ["a", "b"]
    assert [(part.source, part.box) for part in parts_of(["a", "b"], box)] == [("a", box), ("b", box)]
    assert [part.box for part in parts_of(["a", "b"], list(box))] == [box, box]
    assert [part.box for part in parts_of(("a", "b"), [box, list(other)])] == [box, other]
    assert [part.box for part in parts_of(iter("ab"), box)] == [box, box]
    with pytest.raises(BadSettings, match="each of 2 pictures, found 1"):
        parts_of(["a", "b"], [box])
    with pytest.raises(BadSettings, match="four whole numbers"):
        parts_of(iter("ab"), [box, other])  # before the first picture is read
    assert list(parts_of([], [])) == []
