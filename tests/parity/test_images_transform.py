"""What towers read of pictures: as open_clip's own transform has it, within one grey level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from pictures import encode
from PIL import Image

from magicap.errors import BadImage
from magicap.images.transform import ImageTransform, PreparedImage, prepare

CONFIGS = [
    {"size": 32},
    {"size": [48, 48], "interpolation": "bilinear"},
    {"size": [32, 48], "resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"size": 32, "resize_mode": "longest", "fill_color": 9},
    {"size": [24, 40], "resize_mode": "longest"},
    {"size": [24, 40], "resize_mode": "shortest"},
]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours and some noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height))
    noise = generator.integers(-9, 10, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@given(width=st.integers(10, 300), height=st.integers(10, 300))
def test_within_a_grey_level_of_open_clip(config, width, height):
    image = picture(width, height)
    transform = ImageTransform.of(config)
    found = transform.normalise(transform.resize(image)[None])[0]
    expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(image)
    assert found.shape == expected.shape
    levels = ((found - expected).abs() * 255 * torch.tensor(transform.std)[:, None, None]).round()
    assert levels.max() <= 2
    assert (levels > 1).sum() <= 1
    assert levels.mean() < 0.3
    if height < 1.5 * min(transform.size) and width < 1.5 * min(transform.size):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_picture_of_the_right_size_is_left_as_it_is(config):
    transform = ImageTransform.of(config)
    image = picture(*transform.size[::-1])
    expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(image)
    assert torch.equal(transform.normalise(transform.resize(image)[None])[0], expected)


def test_floats_were_normalised_before():
    pixels = torch.rand(1, 3, 4, 4)
    assert ImageTransform().normalise(pixels) is pixels


def test_a_prepared_picture_knows_the_size_of_the_whole():
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    turned = encode(picture(900, 600), "JPEG", exif=exif)
    prepared = prepare(turned, ImageTransform((32, 32)))
    assert isinstance(prepared, PreparedImage)
    assert (prepared.width, prepared.height) == (600, 900)  # though it is decoded at an eighth
    assert prepared.pixels.shape == (3, 32, 32)
    assert prepared.pixels.dtype == np.uint8
    with pytest.raises(BadImage):
        prepare(b"none", ImageTransform())
