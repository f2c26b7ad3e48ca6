"""Matching: a shift is seen as one, blank pictures match nowhere, and the command says what it needs."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny
import torch
from command import assert_refused, magicap
from PIL import Image, ImageDraw

from magicap import (
    BadImage,
    BadModel,
    BadSettings,
    Captioner,
    MatchSettings,
    MissingPackage,
    ModelNotFound,
    match_pictures,
)
from magicap.cli import main
from magicap.images.transform import ImageTransform
from magicap.matching.features import DenseFeatures, FeatureSettings, ImageTower, dense_features
from magicap.matching.neighbours import mutual_nearest

SHIFT = 24
SIDE = 224
FAST = MatchSettings(features=FeatureSettings(shifts=2))

cv2 = pytest.importorskip("cv2", reason="the extra match is not installed")


def drawn(seed: int = 0, side: int = SIDE + SHIFT) -> Image.Image:
    """A picture of many coloured shapes."""
    generator = np.random.default_rng(seed)
    picture = Image.new("RGB", (side, side), (90, 120, 150))
    pen = ImageDraw.Draw(picture)
    for number in range(140):
        x, y = generator.integers(-10, side, 2).tolist()
        w, h = generator.integers(8, 40, 2).tolist()
        colour = tuple(generator.integers(0, 256, 3).tolist())
        shape = (pen.ellipse, pen.rectangle)[number % 2]
        shape((x, y, x + w, y + h), fill=colour)
    return picture


@pytest.fixture(scope="module")
def scorer():
    return Captioner.from_pretrained().scorer


@pytest.fixture(scope="module")
def shifted() -> tuple[Image.Image, Image.Image]:
    """Two windows of one picture, the second moved right by SHIFT pixels."""
    whole = drawn()
    return whole.crop((0, 0, SIDE, SIDE)), whole.crop((SHIFT, 0, SIDE + SHIFT, SIDE))


@pytest.fixture(scope="module")
def matches(scorer, shifted):
    return match_pictures(*shifted, scorer, FAST)


# ---- what is found ----


def test_a_shift_is_found(matches):
    assert matches.inliers.sum() > 100
    moves = (matches.second_points - matches.first_points)[matches.inliers]
    assert np.abs(np.median(moves, axis=0) - (-SHIFT, 0)).max() < 1
    assert np.abs(moves - (-SHIFT, 0)).max() < 16
    ends = np.array([(40, 40, 1), (200, 40, 1), (120, 200, 1)]) @ matches.homography.T
    expected = np.array([(40, 40), (200, 40), (120, 200)]) - (SHIFT, 0)
    assert np.abs(ends[:, :2] / ends[:, 2:] - expected).max() < 3


def test_places_are_in_pixels_of_the_picture_itself(scorer, shifted):
    wide = shifted[0].resize((672, 448))
    matches = match_pictures(wide, shifted[1], scorer, FAST)
    moves = (matches.second_points * (3, 2) - matches.first_points)[matches.inliers]
    assert matches.first.size == (672, 448)
    assert np.abs(np.median(moves, axis=0) - (-3 * SHIFT, 0)).max() < 4


def test_a_fundamental_matrix_is_found(scorer, shifted):
    matches = match_pictures(*shifted, scorer, MatchSettings(geometry="fundamental", features=FAST.features))
    assert matches.inliers.sum() > 100
    assert matches.homography is None
    first, second = (
        np.column_stack([points[matches.inliers], np.ones(matches.inliers.sum())])
        for points in (matches.first_points, matches.second_points)
    )
    lines = first @ matches.matrix.T  # in the second picture, of all places that the first may be seen at
    away = np.abs((second * lines).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(away) < 3


def test_the_same_call_finds_the_same(scorer, shifted, matches):
    again = match_pictures(*shifted, scorer, FAST)
    assert again.as_json() == matches.as_json()


def test_scores_fall_and_the_surest_are_kept(scorer, shifted, matches):
    assert (np.diff(matches.scores) <= 0).all()
    few = match_pictures(*shifted, scorer, MatchSettings(max_matches=20, features=FAST.features))
    assert len(few) == 20
    assert np.array_equal(few.first_points, matches.first_points[:20])


@pytest.mark.parametrize("other", [Image.new("RGB", (64, 48), (10, 200, 30)), drawn()])
def test_a_blank_picture_matches_nowhere(scorer, other):
    blank = Image.new("RGB", (80, 60), (120, 130, 140))
    for pair in ((blank, other), (other, blank)):
        matches = match_pictures(*pair, scorer, FAST)
        assert (len(matches), matches.inliers.sum(), matches.matrix) == (0, 0, None)
        assert len(matches.draw().axes) == 1


def test_different_pictures_share_no_geometry(scorer):
    matches = match_pictures(drawn(1), drawn(2), scorer, FAST)
    assert matches.inliers.sum() == 0
    assert matches.homography is None


def test_json_is_valid_and_counts_itself(matches):
    values = json.loads(json.dumps(matches.as_json(), allow_nan=False))
    assert values["matches"] == len(values["points"]) == len(matches)
    assert values["inliers"] == sum(point["inlier"] for point in values["points"])
    assert values["first_size"] == [SIDE, SIDE]
    assert np.allclose(values["matrix"], matches.matrix)


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_drawing_is_written_alike_each_time(matches, tmp_path, ending):
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    matches.save(first)
    matches.save(second)
    assert first.stat().st_size > 5000
    assert first.read_bytes() == second.read_bytes()


# ---- features ----


def test_vectors_have_length_one_and_places_lie_evenly(scorer, shifted):
    features = dense_features(scorer, shifted[0], FeatureSettings(shifts=2))
    assert features.vectors.shape[:2] == (28, 28)
    assert torch.allclose(features.vectors[features.seen].norm(dim=-1), torch.tensor(1.0), atol=1e-5)
    assert np.allclose(np.diff(features.x), 8)
    assert features.places.shape == (28 * 28, 2)
    assert np.allclose(features.places.mean(axis=0), SIDE / 2)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_any_timm_network_that_shows_its_features_will_do(name):
    torch.manual_seed(0)
    tower = ImageTower.of_timm(name, pretrained=False)
    features = dense_features(tower, drawn(), FeatureSettings(shifts=2))
    assert features.seen.any()
    matches = match_pictures(drawn(), drawn(), tower, FAST)
    assert np.abs(matches.first_points - matches.second_points).max() < 1e-6 + 2 * np.ptp(features.x) / 8


def test_towers_of_both_kinds_of_open_clip_will_do():
    for scorer in (tiny.scorer(), tiny.timm_scorer()):
        features = dense_features(scorer, drawn(), FeatureSettings(shifts=1))
        assert features.seen.float().mean() > 0.9


def test_a_network_that_shows_nothing_is_refused():
    with pytest.raises(BadModel, match="shows its patches"):
        ImageTower(torch.nn.Identity(), ImageTransform())


def test_an_unknown_network_is_refused():
    with pytest.raises((BadModel, ModelNotFound), match="no_such_network"):
        ImageTower.of_timm("no_such_network", pretrained=False)


# ---- neighbours, against the plain way ----


def features_of(vectors: torch.Tensor) -> DenseFeatures:
    rows, columns = vectors.shape[:2]
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return DenseFeatures(vectors, np.arange(columns) + 0.5, np.arange(rows) + 0.5, (columns, rows))


@pytest.mark.parametrize("ratio", [0.8, 0.95, 1.0])
def test_mutual_nearest_neighbours_are_those_of_the_plain_way(ratio):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(6, 7, 5, generator=generator)
    second = torch.randn(5, 8, 5, generator=generator)
    second[:3, :6] += 3 * first[1:4, 1:7]
    first[0, 0] = 0
    one, other = features_of(first), features_of(second)
    expected = set()
    flat, other_flat = one.vectors.flatten(0, 1), other.vectors.flatten(0, 1)
    for place in range(1, len(flat)):
        cosines = [float(flat[place] @ vector) for vector in other_flat]
        best = max(range(len(cosines)), key=cosines.__getitem__)
        back = [float(vector @ other_flat[best]) if vector.any() else -1.0 for vector in flat]
        if max(range(len(back)), key=back.__getitem__) != place:
            continue
        row, column = divmod(best, 8)
        second_best = max(
            cosine
            for index, cosine in enumerate(cosines)
            if max(abs(index // 8 - row), abs(index % 8 - column)) > 1
        )
        if (2 - 2 * cosines[best]) ** 0.5 <= ratio * (2 - 2 * second_best) ** 0.5 or ratio == 1:
            expected.add((place % 7 + 0.5, place // 7 + 0.5, column, row))
    pairs = mutual_nearest(one, other, ratio, apart=1)
    # moved by at most half a step from the middle of the place
    ends = pairs.second - 0.5
    assert len(pairs.first) == len(expected) > 5
    for (x, y), end in zip(pairs.first.tolist(), ends.tolist(), strict=True):
        column, row = next(place[2:] for place in expected if place[:2] == (x, y))
        assert max(abs(end[0] - column), abs(end[1] - row)) <= 0.5


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ratio": 0}, "ratio"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"least": 3}, "least"),
        ({"seed": -1}, "seed"),
        ({"max_matches": 0}, "max_matches"),
        ({"geometry": "affine"}, "geometry"),
    ],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(BadSettings, match=named):
        MatchSettings(**settings)


@pytest.mark.parametrize(("settings", "named"), [({"depth": 0}, "depth"), ({"shifts": 9}, "shifts")])
def test_features_out_of_range_are_refused(settings, named):
    with pytest.raises(BadSettings, match=named):
        FeatureSettings(**settings)


def test_a_picture_that_cannot_be_read_is_refused(scorer, tmp_path):
    with pytest.raises(BadImage) as caught:
        match_pictures(drawn(), tmp_path / "none.png", scorer)
    assert caught.value.code == "missing"


def test_without_the_extra_the_error_says_what_to_install(scorer, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackage, match=r"pip install 'magicap\[match\]'"):
        match_pictures(drawn(), drawn(), scorer)


# ---- the command ----


@pytest.fixture(scope="module")
def files(shifted, tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("match")
    for name, picture in zip("ab", shifted, strict=True):
        picture.save(folder / f"{name}.png")
    return str(folder / "a.png"), str(folder / "b.png")


def test_the_command_prints_counts_and_a_matrix_and_draws(files, tmp_path, capsys):
    out = tmp_path / "lines.png"
    assert main(["match", *files, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "matches" in lines[0]
    assert "inliers" in lines[0]
    assert lines[1] == "homography, from A to B:"
    matrix = np.array([list(map(float, line.split())) for line in lines[2:]])
    assert matrix.shape == (3, 3)
    assert matrix[0, 2] / matrix[2, 2] == pytest.approx(-SHIFT, abs=3)
    assert Image.open(out).width > 800


def test_the_command_prints_json(files, capsys):
    assert main(["match", *files, "--json", "--max-matches", "50", "--geometry", "fundamental"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["first"], values["second"]) == files
    assert (values["matches"], values["geometry"]) == (50, "fundamental")


def test_no_match_is_no_error(files, tmp_path, capsys):
    blank = tmp_path / "blank.png"
    Image.new("RGB", (50, 40)).save(blank)
    assert main(["match", files[0], str(blank)]) == 0
    printed = capsys.readouterr()
    assert printed.out == "0 matches, 0 inliers\nno homography: too few matches agree on one\n"
    assert printed.err == ""


def test_bad_calls_are_refused_in_one_line_before_a_model_is_loaded(files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    for words, said in [
        ((files[0], tmp_path / "none.png"), "none.png"),
        ((broken, files[1]), "broken.png"),
        ((*files, "--out", "lines.bmp"), ".png, .svg, .pdf"),
        ((*files, "--out", tmp_path / "no" / "lines.png"), "cannot be written"),
        ((*files, "--out", files[0]), "must not be written over"),
        ((*files, "--max-matches", "0"), "--max-matches"),
        ((*files, "--seed", "-1"), "--seed"),
        ((*files, "--preset", "nothing"), "nothing"),
        ((*files, "--preset", "cnn-lstm"), "scorer"),
    ]:
        assert_refused(magicap("match", *words), said)


def test_the_command_says_what_to_install(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(["match", *files]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip install 'magicap[match]'" in printed.err
