"""Regions: a box captioned in its surroundings, boxes proposed, and what says nothing new left out."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import tiny
import torch
from command import assert_refused, magicap
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from magicap import (
    BadImage,
    BadModel,
    BadSettings,
    BeamMagicSearch,
    Caption,
    Captioner,
    DecodingContext,
    ModelNotFound,
    Proposal,
    RegionCaption,
    RegionCaptions,
    YoloxNano,
)
from magicap.captioners.regions import caption_regions
from magicap.decoding.searches import search_of
from magicap.regions.captions import shared_words, without_near_copies
from magicap.regions.clusters import PatchClusters, merged_boxes
from magicap.regions.proposals import overlap, without_overlaps
from magicap.regions.vectors import SURROUNDINGS
from magicap.regions.yolox import SIDE, YoloxNetwork

BOX, OTHER = (0, 0, 20, 30), (15, 10, 40, 40)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny.captioner(0)


@pytest.fixture(scope="module")
def embedded() -> Captioner:
    return Captioner.from_pretrained()


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return tiny.pictures(3)


def slowly(captioner: Captioner, picture: np.ndarray, box: tuple[int, int, int, int]) -> Caption:
    """The caption of a region from its definition."""
    left, top, right, bottom = box
    crop, whole = captioner.scorer.encode_images([picture[top:bottom, left:right], picture])
    mean = (1 - SURROUNDINGS) * crop + SURROUNDINGS * whole
    context = DecodingContext(captioner.cache, (mean / mean.norm())[None], [0])
    return search_of(captioner.decoding).captions(context, captioner.decoding)[0]


class Boxes:
    """Proposes what it was given."""

    def __init__(self, *boxes: tuple[int, int, int, int]) -> None:
        self.boxes = boxes

    def propose(self, picture: Image.Image, max_regions: int) -> list[Proposal]:
        return [Proposal(box, 0.5, "thing") for box in self.boxes[:max_regions]]


# ---- one region ----


def test_a_region_is_captioned_from_the_mean_of_crop_and_picture(captioner, pictures):
    for picture in pictures:
        for box in (BOX, OTHER):
            caption = captioner.caption(picture, region=box)
            expected = slowly(captioner, picture, box)
            assert caption == expected
            assert caption.score == pytest.approx(expected.score, abs=1e-5)


def test_lists_and_iterators_have_one_region_or_one_each(captioner, pictures):
    one = [captioner.caption(picture, region=BOX) for picture in pictures]
    assert captioner.caption(pictures, region=BOX) == one
    assert list(captioner.caption(iter(pictures), region=BOX, batch_size=2)) == one
    boxes = [BOX, OTHER, BOX]
    each = [captioner.caption(picture, region=box) for picture, box in zip(pictures, boxes, strict=True)]
    assert captioner.caption(pictures, region=boxes) == each


def test_regions_may_be_searched_side_by_side(captioner):
    pictures, search = (
        tiny.pictures(8, seed=3),
        BeamMagicSearch(beam_size=2, num_finished=2, max_new_tokens=4),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        captions = captioner.caption(pictures, search, region=OTHER)
    finally:
        torch.set_num_threads(threads)
    assert captions == [captioner.caption(picture, search, region=OTHER) for picture in pictures]


@pytest.mark.parametrize("region", [5, "5", (1, 2, 3)])
def test_what_is_no_box_is_refused(captioner, pictures, region):
    for images in (pictures[0], pictures):
        with pytest.raises(BadSettings, match="region must be four whole numbers"):
            captioner.caption(images, region=region)


def test_a_region_outside_is_an_error_of_its_picture_alone(captioner, pictures):
    captions = captioner.caption([pictures[0], tiny.pictures(1)[0][:20]], region=BOX)
    assert captions[0] == captioner.caption(pictures[0], region=BOX)
    assert (captions[1], captions[1].error.code) == ("", "region")
    with pytest.raises(BadImage, match="inside 40 x 40 pixels, found 0,0,41,9"):
        captioner.caption(pictures[0], region=(0, 0, 41, 9))


def test_the_whole_picture_as_a_region_has_its_vector(captioner, pictures):
    caption = captioner.caption(pictures[0], region=(0, 0, 40, 40))
    assert caption.score == pytest.approx(captioner.caption(pictures[0]).score, abs=1e-5)


def test_a_supervised_captioner_captions_the_crop():
    captioner, picture = tiny.supervised(), tiny.pictures(1)[0]
    assert captioner.caption(picture, region=BOX) == captioner.caption(picture[:30, :20])


def test_a_region_has_no_confidence(embedded):
    picture = tiny.pictures(1)[0]
    assert embedded.caption(picture).confidence is not None
    assert embedded.caption(picture, region=BOX).confidence is None


# ---- all regions of a picture ----


def test_regions_come_with_the_caption_of_the_whole(captioner, pictures):
    regions = captioner.regions(pictures[0], detector=Boxes(BOX, OTHER))
    assert regions.caption == captioner.caption(pictures[0])
    assert regions.regions
    for region in regions.regions:
        assert region.caption == captioner.caption(pictures[0], region=region.box)
        assert region.label == "thing"
    values = json.loads(json.dumps(regions.as_json(), allow_nan=False))
    assert values["size"] == [40, 40]
    assert values["caption"] == regions.caption
    assert [tuple(region["box"]) for region in values["regions"]] == [r.box for r in regions.regions]


def test_at_most_so_many_boxes_are_looked_at(captioner, pictures):
    assert captioner.regions(pictures[0], detector=Boxes()).regions == ()
    few = captioner.regions(pictures[0], detector=Boxes(BOX, OTHER), max_regions=1)
    assert [region.box for region in few.regions] == [BOX]
    with pytest.raises(BadSettings, match="max_regions"):
        captioner.regions(pictures[0], max_regions=0)


def test_a_region_that_cannot_be_captioned_is_left_out_with_a_warning(captioner, pictures, caplog):
    regions = captioner.regions(pictures[0], detector=Boxes((0, 0, 41, 9), OTHER))
    assert [region.box for region in regions.regions] == [OTHER]
    assert "the region 0,0,41,9 is left out" in caplog.text


def test_near_copies_are_left_out_in_order():
    whole = Caption("A man rides a wave on a surfboard.")
    texts = [
        "a man rides a wave on top of a surfboard",  # of the whole
        "a dog on a beach",
        "A dog on the beach.",  # of the one before
        "a red kite",
    ]
    regions = [RegionCaption(BOX, Caption(text)) for text in texts]
    assert [region.caption for region in without_near_copies(whole, regions)] == [texts[1], texts[3]]


def test_shared_words_are_a_share_of_those_in_either():
    assert shared_words("A dog, a dog!", "a dog") == 1
    assert shared_words("a dog", "a cat") == pytest.approx(1 / 3)
    assert (shared_words("", "a"), shared_words("", "")) == (0, 1)


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_drawing_is_written_alike_each_time(tmp_path, ending):
    regions = tuple(RegionCaption(BOX, Caption(f"{number} $x$ " * 30)) for number in range(3))
    captions = RegionCaptions(Image.new("RGB", (60, 40), "green"), Caption("a green field"), regions)
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    captions.save(first)
    captions.save(second)
    assert first.stat().st_size > 5000
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("size", [(3000, 30), (30, 3000)])
def test_a_drawing_of_a_long_picture_stays_small(size):
    captions = RegionCaptions(Image.new("RGB", size), Caption("a line"), (RegionCaption(BOX, Caption("it")),))
    assert max(captions.draw().get_size_inches()) < 12


# ---- proposals ----


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (2, 2, 3, 3)) == 0
    assert without_overlaps([(0, 0, 4, 4), (0, 0, 4, 3), (3, 3, 6, 6)]) == [(0, 0, 4, 4), (3, 3, 6, 6)]


def test_clusters_are_merged_by_wards_criterion():
    vectors = np.random.default_rng(0).normal(size=(4, 5, 3))
    clusters = [frozenset([(row, column)]) for row in range(4) for column in range(5)]
    expected = []
    while len(clusters) > 1:
        costs = {
            (one, other): spread(vectors, one | other) - spread(vectors, one) - spread(vectors, other)
            for number, one in enumerate(clusters)
            for other in clusters[:number]
            if any(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a in one for b in other)
        }
        pair = min(costs, key=costs.__getitem__)
        expected.append({box_around(cluster) for cluster in pair})
        clusters = [cluster for cluster in clusters if cluster not in pair] + [pair[0] | pair[1]]
    boxes = [tuple(box.tolist()) for box in merged_boxes(vectors)]
    assert [set(boxes[step : step + 2]) for step in range(0, len(boxes), 2)] == expected


def spread(vectors: np.ndarray, cluster: frozenset[tuple[int, int]]) -> float:
    rows = np.array([vectors[place] for place in cluster])
    return float(((rows - rows.mean(axis=0)) ** 2).sum())


def box_around(cluster: frozenset[tuple[int, int]]) -> tuple[int, int, int, int]:
    rows, columns = zip(*cluster, strict=True)
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def test_a_thing_before_a_plain_ground_is_proposed(embedded):
    picture = Image.new("RGB", (448, 224), (70, 140, 60))
    ImageDraw.Draw(picture).ellipse((256, 48, 384, 176), fill=(220, 30, 30), outline="white", width=8)
    proposals = PatchClusters(embedded.scorer).propose(picture, 5)
    assert 1 <= len(proposals) <= 5
    assert max(overlap(proposal.box, (256, 48, 384, 176)) for proposal in proposals) > 0.5
    assert [p.score for p in proposals] == sorted((p.score for p in proposals), reverse=True)


def test_a_tower_without_patches_is_refused(captioner):
    scorer = tiny.captioner(1).scorer
    scorer.model.visual = torch.nn.Identity()
    with pytest.raises(BadModel, match="shows its patches"):
        PatchClusters(scorer)


# ---- the detector ----


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file in the form of the released one, with random weights."""
    path = tmp_path_factory.mktemp("detector") / "yolox.safetensors"
    torch.manual_seed(0)
    network = YoloxNetwork()
    tensors, number = {}, 1000
    for name, tensor in network.state_dict().items():
        if ".conv." in name:
            tensors[str(number)] = tensor
            number += 1
    for level, module in enumerate(network.levels):
        for kind, layer in (("cls", module.classes), ("reg", module.box), ("obj", module.objectness)):
            bias = layer.bias + torch.tensor([0, 0, 2, 2] if kind == "reg" else 3)  # large, and sure
            tensors[f"head.{kind}_preds.{level}.weight"] = layer.weight.detach().contiguous()
            tensors[f"head.{kind}_preds.{level}.bias"] = bias.detach()
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path)
    return str(path)


def test_a_detector_proposes_boxes_of_the_picture(weights):
    picture = Image.fromarray(tiny.pictures(1)[0]).resize((300, 200))
    proposals = YoloxNano(weights, score_threshold=0.1).propose(picture, 7)
    assert 1 <= len(proposals) <= 7
    for proposal in proposals:
        left, top, right, bottom = proposal.box
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        assert 0.1 <= proposal.score <= 1
        assert proposal.label
    assert all(overlap(a.box, b.box) <= 0.5 for a in proposals for b in proposals if a is not b)
    assert YoloxNano(weights, score_threshold=1.0).propose(picture, 7) == []


def test_other_weights_are_refused_by_name(weights, tmp_path):
    with pytest.raises(ModelNotFound, match=r"none\.safetensors"):
        YoloxNano(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BadModel, match="text"):
        YoloxNano(tmp_path / "text")
    tensors = load_file(weights)
    for change in ({"1000": torch.zeros(3)}, {"more": torch.zeros(3)}):
        save_file({**tensors, **change}, tmp_path / "changed")
        with pytest.raises(BadModel, match="of another network"):
            YoloxNano(tmp_path / "changed")
    save_file({**tensors, "1001": torch.full_like(tensors["1001"], math.nan)}, tmp_path / "changed")
    with pytest.raises(BadModel, match="NaN"):
        YoloxNano(tmp_path / "changed")


@pytest.mark.data
def test_the_released_weights_find_what_the_reference_finds(data_dir):
    folder = data_dir.parent / "weights"
    if not (folder / "yolox_torch.py").is_file():
        pytest.skip("no detector beside the data")
    spec = importlib.util.spec_from_file_location("yolox_torch", folder / "yolox_torch.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    path = folder / "yolox_nano_fp16.safetensors"
    plain, ours = reference.YoloxNano(str(path)), YoloxNano(path)
    pixels, _ = reference.letterbox(tiny.pictures(1)[0])
    with torch.inference_mode():
        boxes, scores = plain.decode(plain(pixels[None]))
        network = YoloxNetwork()
        network.load_state_dict(ours.network.state_dict())
        found, sure = network(pixels[None])
    assert pixels.shape[1:] == (SIDE, SIDE)
    assert torch.allclose(found, boxes, atol=1e-3)
    assert torch.allclose(sure, scores, atol=1e-5)


# ---- the command ----


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{number}.png") for number in range(2)]
    for path, picture in zip(paths, tiny.pictures(2), strict=True):
        Image.fromarray(picture).save(path)
    return paths


def test_caption_takes_a_box_for_all_pictures(preset, files, tmp_path):
    captioner = Captioner.from_pretrained(preset)
    expected = captioner.caption(files, region=BOX)
    ended = magicap("caption", *files, "--box", "0,0,20,30", "--preset", preset)
    assert ended.out.splitlines() == [
        f"{path}\t{' '.join(caption.split())}" for path, caption in zip(files, expected, strict=True)
    ]
    small = tmp_path / "small.png"
    Image.new("RGB", (8, 8)).save(small)
    ended = magicap("caption", "--json", files[0], small, "--box", "0,0,20,30", "--preset", preset)
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert (rows[0]["caption"], rows[0]["region"], rows[1]["error"]) == (expected[0], [*BOX], "region")
    assert ended.code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--box", "1,2,3"], "--box must be four whole numbers"),
        (["--box", "5,5,5,9"], "left below right"),
        (["--box", "0,0,9,9", "--out", "rows.jsonl"], "--box: for captions that are printed"),
        (["--box", "0,0,9,9", "--mark-unsure"], "--mark-unsure: for whole pictures"),
        (["--box", "0,0,9,9", "--explain", "why.svg"], "--explain: for whole pictures"),
    ],
)
def test_a_box_that_cannot_be_captioned_is_refused(files, more, said, tmp_path):
    assert_refused(magicap("caption", files[0], *more, cwd=tmp_path), said)


def test_regions_are_printed_drawn_and_written_as_json(preset, files, weights, tmp_path):
    out = tmp_path / "boxes.svg"
    words = ("regions", files[0], "--preset", preset, "--detector", weights)
    ended = magicap(*words, "--out", out, "--max-regions", "3")
    picture = Image.open(files[0])
    expected = caption_regions(Captioner.from_pretrained(preset), picture, YoloxNano(weights), max_regions=3)
    lines = ended.out.splitlines()
    assert expected.regions
    assert lines[0] == " ".join(expected.caption.split())
    assert [line.split("\t")[0] for line in lines[1:]] == [
        ",".join(map(str, region.box)) for region in expected.regions
    ]
    assert out.stat().st_size > 1000
    ended = magicap(*words, "--json", "--max-regions", "3")
    assert json.loads(ended.out) == {"image": files[0], **expected.as_json()}


def test_what_regions_cannot_do_is_refused(files, preset, supervised, tmp_path):
    assert_refused(magicap("regions", tmp_path / "none.png"), "none.png")
    assert_refused(magicap("regions", files[0], "--max-regions", "0"), "--max-regions must be")
    assert_refused(magicap("regions", files[0], "--out", ""), "--out: expected a file")
    assert_refused(magicap("regions", files[0], "--out", "boxes.txt"), "boxes.txt", ".png")
    assert_refused(magicap("regions", files[0], "--preset", supervised), "name a --detector")
    assert_refused(
        magicap("regions", files[0], "--preset", preset, "--detector", "no"), "no detector at 'no'"
    )
