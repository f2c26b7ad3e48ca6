"""Random views: distributed as they are asked for, made fast, equal to what is made slowly."""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from augmentation_reference import COLOURS, reference_view, shrunk_before
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from magicap.data import CaptionedImage, ImageFiles
from magicap.errors import BadSettings
from magicap.images.reader import open_image
from magicap.images.transform import ImageTransform
from magicap.training.augmentation import (
    Augmentation,
    Colours,
    RandomViews,
    View,
    names_a_side,
    random_view,
)
from magicap.training.pairs import Pairs, collate

SIZE = (224, 224)
SHAPED = Augmentation(coarse_share=0.4, coarsest=64, squashed_share=0.5)
PREPROCESS = {"size": 224, "mean": [0.48, 0.45, 0.4], "std": [0.27, 0.26, 0.28]}


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something like a photograph: large shapes, smaller ones on them, little noise."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells, weight in ((4, 60), (12, 30), (40, 12)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        picture += weight / 128 * (np.asarray(small.resize((width, height)), float) - 128)
    return Image.fromarray(np.clip(128 + picture, 0, 255).astype(np.uint8))


def views(settings: Augmentation, count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[View]:
    torch.manual_seed(seed)
    return [settings.draw(size) for _ in range(count)]


def difference(view: View, source: Image.Image | bytes) -> float:
    """Mean absolute difference of a view from the reference, in steps of 256."""
    made = view.of(open_image(source, at_least=view.short_side))
    assert made.shape == (3, *view.size)
    assert made.dtype == torch.uint8
    return float((made.float() - reference_view(view, source)).abs().mean())


@pytest.mark.parametrize(("width", "height"), [(224, 224), (500, 375), (299, 224), (128, 171), (64, 48)])
def test_a_view_equals_the_reference(width, height):
    image = scene(width, height)
    found = [difference(view, image) for view in views(SHAPED, 40)]
    assert max(found) < 2.5
    assert sum(found) / 40 < 1.0


def steepness(pixels: torch.Tensor) -> float:
    """Root mean square of the differences of neighbouring pixels: little in a blurred picture."""
    across, down = pixels.float().diff(dim=2), pixels.float().diff(dim=1)
    return float((across.square().mean() + down.square().mean()).sqrt())


def test_shrinking_only_what_was_cut_out_leaves_as_much_detail_as_shrinking_the_picture():
    settings = replace(SHAPED, coarse_share=1, brightness=0, contrast=0, saturation=0, mirrored_share=0)
    ratios = [
        steepness(view.of(image)) / steepness(shrunk_before(view, image))
        for seed, view in enumerate(views(settings, 40))
        for image in [scene(500, 375, seed)]
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [(1280, 960), (2000, 3000)])
def test_a_view_of_a_large_jpeg_equals_the_reference(size):
    encoded = encode(scene(*size), "JPEG", quality=90)
    drawn = views(SHAPED, 24)
    assert any(open_image(encoded, at_least=view.short_side).size != size for view in drawn)
    found = [difference(view, encoded) for view in drawn]
    assert max(found) < 2.5
    assert sum(found) / 24 < 1.2


def test_a_picture_on_its_side_is_cut_as_it_is_seen():
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    image = scene(960, 1280)
    turned = encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    for view in views(SHAPED, 10):
        made = view.of(open_image(turned, at_least=view.short_side)).float()
        assert (made - reference_view(view, image)).abs().mean() < 3


def test_views_of_another_shape_than_a_square():
    image = scene(300, 200)
    assert max(difference(view, image) for view in views(SHAPED, 10, (96, 160))) < 2.5


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(0, 2**32),
    st.sampled_from([Augmentation(), SHAPED, Augmentation(scale=(0.01, 0.05), ratio=(0.2, 5))]),
)
def test_crops_lie_inside_and_no_detail_is_lost_in_decoding(width, height, seed, settings):
    view = views(settings, 1, seed=seed)[0]
    left, top, right, bottom = view.box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # What Pillow's draft mode makes of that short side
    needed = view.short_side(width, height)
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(width, height) // needed >= f)
    for cut, coarse, seen in zip(
        view.box(width, height).size, view.coarse_size(width, height), SIZE, strict=True
    ):
        assert cut / factor >= min(coarse, seen) - 1e-6 or factor == 1


@pytest.mark.parametrize(("width", "height"), [(640, 480), (400, 1000), (224, 224)])
def test_crops_are_distributed_as_torchvisions(width, height):
    image = torch.zeros(3, height, width)
    theirs_of = v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0), ratio=(0.8, 1.25))
    theirs, ours = [], []
    for view in views(Augmentation(), 3000):
        ours.append(view.box(width, height))
        box = theirs_of.make_params([image])
        left, top = box["left"], box["top"]
        theirs.append((left, top, left + box["width"], top + box["height"]))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        found, expected = (np.quantile(np.array(boxes), share, axis=0) for boxes in (ours, theirs))
        assert np.abs(found - expected).max() < 0.04 * max(width, height)


def test_shares_and_ranges_are_those_asked_for():
    drawn = views(replace(SHAPED, mirrored_share=0.25), 4000)
    sides = [view.long_side for view in drawn if view.long_side is not None]
    assert len(sides) / 4000 == pytest.approx(0.4, abs=0.03)
    assert (min(sides), max(sides)) == (64, 224)
    assert np.mean(sides) == pytest.approx(144, abs=4)
    assert np.mean([view.is_squashed for view in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([view.is_mirrored for view in drawn]) == pytest.approx(0.25, abs=0.03)
    colours = np.array([view.colours for view in drawn])
    assert colours.min(axis=0) == pytest.approx([0.8] * 3, abs=0.01)
    assert colours.max(axis=0) == pytest.approx([1.2] * 3, abs=0.01)
    assert np.abs(np.corrcoef(colours.T) - np.eye(3)).max() < 0.06


def test_a_squashed_picture_is_seen_as_if_it_came_squashed():
    view = replace(views(Augmentation(coarse_share=0, squashed_share=1), 1)[0], colours=Colours(1, 1, 1))
    image = scene(600, 300)
    square = image.resize((300, 300), Image.Resampling.BOX)
    assert (view.of(image).float() - view.of(square).float()).abs().mean() < 3


def test_small_pictures_are_never_enlarged_before_they_are_cut():
    for view in views(replace(SHAPED, coarse_share=1.0, coarsest=160), 20):
        assert view.coarse_size(100, 64) == view.box(100, 64).size


def test_colours_change_as_torchvision_changes_them_in_any_order():
    pixels = torch.from_numpy(np.array(scene(64, 64))).permute(2, 0, 1).float()
    pixels = (64 + pixels / 2).round()  # far enough from black and white that nothing is cut off
    for factors in itertools.product((0.8, 1.0, 1.2), repeat=3):
        made = Colours(*factors).apply(pixels.to(torch.uint8)).float()
        for order in itertools.permutations(COLOURS):
            expected = pixels / 255
            for name in order:
                change = getattr(v2.functional, f"adjust_{name}")
                expected = change(expected, factors[COLOURS.index(name)])
            assert (
                made - 255 * expected
            ).abs().max() < 0.75  # half a step, and grey weights that add to 0.9999


def test_no_change_of_colours_changes_nothing():
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    assert torch.equal(Colours(1, 1, 1).apply(pixels), pixels)
    assert torch.equal(Colours(1, 1, 1 + 1e-9).apply(pixels), pixels)
    plain = Augmentation(brightness=0, contrast=0, saturation=0)
    assert all(view.colours == (1, 1, 1) for view in views(plain, 5))


def test_captions_that_name_a_side_keep_the_picture_as_it_is():
    assert names_a_side(["a dog", "The LEFT one"])
    assert not names_a_side(["leftovers on a brightly lit table"])
    image, settings = scene(224, 224), Augmentation(mirrored_share=1.0)
    made = []
    for caption in ("a dog", "a dog on the right"):
        torch.manual_seed(5)
        made.append(random_view(image, [caption], SIZE, settings))
    assert torch.equal(made[0].flip(2), made[1])


def test_everything_random_follows_from_torchs_default_generator():
    image = scene(300, 224)
    made = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        made.append(random_view(image, [], SIZE, SHAPED))
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


def test_bytes_become_what_open_clip_would_make_of_them():
    batch = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = v2.Normalize(PREPROCESS["mean"], PREPROCESS["std"])(batch.float() / 255)
    normalise = ImageTransform.of(PREPROCESS).normalise
    torch.testing.assert_close(normalise(batch), expected, rtol=1e-6, atol=1e-6)
    assert normalise(expected) is expected


@pytest.mark.parametrize(
    "options",
    [
        {"coarse_share": 1.5},
        {"squashed_share": -0.1},
        {"coarsest": 0},
        {"coarsest": 64.0},
        {"scale": (0.0, 1.0)},
        {"scale": (0.8, 0.5)},
        {"scale": (0.5, 1.5)},
        {"ratio": (1.25, 0.8)},
        {"ratio": (1.0,)},
        {"brightness": 2},
        {"contrast": math.nan},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(BadSettings, match=next(iter(options))):
        Augmentation(**options)


def test_settings_are_read_from_a_recipes_options():
    class Options:
        coarsest, scale, seed = 64, [0.6, 1.0], 3

    assert Augmentation.of(Options()) == Augmentation(coarsest=64, scale=(0.6, 1.0))


def folder_of(path: Path, count: int) -> list[CaptionedImage]:
    for number in range(count):
        name = f"{number}.{'png' if number % 2 else 'jpg'}"
        scene(100 + 20 * number, 120, number).save(path / name)
    return [CaptionedImage(file.name, "train", ("a dog", "a cat")) for file in sorted(path.iterdir())]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_make_the_views_that_one_process_makes(tmp_path, method):
    rows = folder_of(tmp_path, 12)
    pairs = Pairs(rows, RandomViews(ImageFiles(tmp_path), PREPROCESS, SHAPED), 2, seed=3)
    assert isinstance(pickle.loads(pickle.dumps(pairs)), Pairs)
    loader = partial(DataLoader, pairs, batch_size=4, collate_fn=collate)
    for alone, shared in zip(loader(), loader(num_workers=2, multiprocessing_context=method), strict=True):
        assert torch.equal(alone["images"], shared["images"])
        assert alone["images"].dtype == torch.uint8
        assert alone["texts"] == shared["texts"]


def test_views_of_real_pictures_equal_the_reference(data_dir):
    tars = [data_dir / "flickr8k" / "images-dev.tar", data_dir / "coco_more" / "images-dev.tar"]
    with ImageFiles(tars) as images:
        names = [name for number, name in enumerate(images) if number % 30 == 0]
        pictures = [open_image(images.read(name)) for name in names]
    found = [difference(view, image) for view, image in zip(views(SHAPED, len(names)), pictures, strict=True)]
    assert len(found) >= 40
    assert max(found) < 2
    assert sum(found) / len(found) < 0.5


def test_real_pictures_decoded_small_keep_their_detail(data_dir):
    plain = replace(SHAPED, coarse_share=1, brightness=0, contrast=0, saturation=0)
    ratios = []
    with ImageFiles(data_dir / "flickr8k" / "images-dev.tar") as images:
        for view, name in zip(views(plain, 100), images, strict=False):
            small = open_image(images.read(name), at_least=view.short_side)
            if small.size != SIZE:
                ratios.append(steepness(view.of(small)) / steepness(view.of(open_image(images.read(name)))))
    assert len(ratios) > 20
    assert np.mean(ratios) > 0.95
