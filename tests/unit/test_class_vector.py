"""A class vector: its formula, on disk, beside open_clip, and in magic search."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import reference
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from magicap import Captioner, MagicSearch
from magicap.errors import BadModel
from magicap.models.class_vector import CLASS_VECTOR_FILE, ClassVector, attach_class_vector
from magicap.models.fine_grained.local_features import FineGrainedSettings
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.models.scorer import ImageTextScorer

CLASSES, TOP = 13, 3


def class_vector(width: int = 24, features: int = 64, seed: int = 5) -> ClassVector:
    torch.manual_seed(seed)
    made = ClassVector(nn.Linear(features, CLASSES), torch.randn(CLASSES, width), TOP)
    nn.init.normal_(made.matrix.weight, std=0.3)
    return made


@pytest.fixture
def scorer() -> ImageTextScorer:
    """A timm trunk under a projection, with a class vector added."""
    made = tiny.timm_scorer()
    attach_class_vector(made.model, class_vector())
    return made


def by_hand(scorer: ImageTextScorer, pixels: torch.Tensor) -> torch.Tensor:
    """The image vector of one picture, written from the definition: one class at a time."""
    visual, added = scorer.model.visual, scorer.class_vector
    pooled = visual.trunk(pixels[None])[0]
    probability = added.classifier(pooled).softmax(dim=0)
    total = torch.zeros(added.names.shape[1])
    for number in probability.argsort(descending=True)[:TOP].tolist():
        total += probability[number] ** 0.5 * added.names[number]
    return F.normalize(visual.head.projection(pooled[None])[0] + added.matrix.weight @ total, dim=0)


def test_an_image_vector_is_the_projection_and_the_named_classes(scorer):
    pixels = torch.stack([scorer.pixels(picture) for picture in tiny.pictures(4)])
    expected = torch.stack([by_hand(scorer, each) for each in scorer.transform.normalise(pixels)])
    torch.testing.assert_close(scorer.encode_pixels(pixels), expected.detach(), atol=1e-5, rtol=0)


def test_names_are_centred_and_the_matrix_starts_as_the_identity():
    made = ClassVector(nn.Linear(4, 2), torch.tensor([[3.0, 0.0], [1.0, 2.0]]))
    assert made.names.tolist() == [[1.0, -1.0], [-1.0, 1.0]]
    assert made.matrix.weight.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert made.top == 2  # no more classes than there are


def test_it_comes_back_from_disk_and_open_clip_reads_the_rest(scorer, tmp_path):
    pictures = tiny.pictures(3)
    scorer.save_pretrained(tmp_path)
    again = ImageTextScorer.from_pretrained(tmp_path)
    assert torch.equal(again.encode_images(pictures), scorer.encode_images(pictures))
    assert again.fingerprint == scorer.fingerprint
    plain, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    bare = scorer.model.visual.head.projection
    pixels = scorer.transform.normalise(torch.stack([scorer.pixels(picture) for picture in pictures]))
    torch.testing.assert_close(plain.encode_image(pixels), bare(scorer.model.visual.trunk(pixels)))


def test_half_precision_on_disk_changes_cosines_little(scorer, tmp_path):
    scorer.save_pretrained(tmp_path, dtype=torch.float16)
    assert load_file(tmp_path / CLASS_VECTOR_FILE)["names"].dtype == torch.float16
    pictures = tiny.pictures(3)
    again = ImageTextScorer.from_pretrained(tmp_path).encode_images(pictures)
    assert float((again * scorer.encode_images(pictures)).sum(dim=1).min()) > 0.999


def test_a_scorer_without_one_leaves_no_class_vector_of_another_behind(scorer, tmp_path):
    scorer.save_pretrained(tmp_path)
    tiny.timm_scorer().save_pretrained(tmp_path)
    assert not (tmp_path / CLASS_VECTOR_FILE).exists()
    assert ImageTextScorer.from_pretrained(tmp_path).class_vector is None


def test_a_captioner_names_it_and_is_refused_without_it(scorer, tmp_path):
    words = tiny.language_model(tiny.word_tokenizer())
    captioner = Captioner(words, scorer, MagicSearch(8, 0.2, 1.0, 6))
    captioner.save_pretrained(tmp_path)
    named = json.loads((tmp_path / "magicap.json").read_text())["parts"]
    assert named["class_vector"]["path"] == f"scorer/{CLASS_VECTOR_FILE}"
    (picture,) = tiny.pictures(1)
    assert Captioner.from_pretrained(tmp_path).caption(picture) == captioner.caption(picture)
    (tmp_path / "scorer" / CLASS_VECTOR_FILE).unlink()
    with pytest.raises(
        BadModel, match=r"class_vector in scorer/class_vector.safetensors, which is not there"
    ):
        Captioner.from_pretrained(tmp_path)


def test_magic_search_with_it_is_what_the_definition_says(scorer):
    words = tiny.language_model(tiny.word_tokenizer())
    captioner = Captioner(words, scorer, MagicSearch(8, 0.2, 1.5, 8))
    pictures = tiny.pictures(4, seed=2)
    for picture, caption in zip(pictures, captioner.caption(pictures), strict=True):
        expected = reference.reference_caption(captioner, picture, captioner.decoding)
        assert [step.token_id for step in caption.steps] == expected


def test_fine_grained_matching_sees_the_same_image_vectors(scorer):
    settings = FineGrainedSettings(width=6, hidden=8, region=1, image_block=-1, text_block=-1, weight=0.5)
    fine = FineGrainedScorer(scorer, settings)
    pictures = tiny.pictures(3)
    torch.testing.assert_close(fine.encode_images(pictures).vectors, scorer.encode_images(pictures))


def broken(name: str, file: Path) -> None:
    state = load_file(file)
    if name == "no safetensors":
        file.write_bytes(b"nothing")
    elif name == "not a number":
        state["names"][0, 0] = float("nan")
        save_file(state, file, metadata={"top": "3"})
    elif name == "a name too few":
        save_file({**state, "names": state["names"][1:].contiguous()}, file, metadata={"top": "3"})
    elif name == "no count":
        save_file(state, file)
    else:
        del state["matrix.weight"]
        save_file(state, file, metadata={"top": "3"})


@pytest.mark.parametrize(
    "name", ["no safetensors", "not a number", "a name too few", "no count", "no matrix"]
)
def test_a_damaged_file_is_refused_by_name(scorer, tmp_path, name):
    scorer.save_pretrained(tmp_path)
    broken(name, tmp_path / CLASS_VECTOR_FILE)
    with pytest.raises(BadModel, match=CLASS_VECTOR_FILE):
        ImageTextScorer.from_pretrained(tmp_path)


def test_a_tower_without_a_trunk_or_of_other_features_is_refused():
    with pytest.raises(BadModel, match="timm trunk"):
        attach_class_vector(tiny.scorer().model, class_vector())
    with pytest.raises(BadModel, match="classifier of 64 features"):
        attach_class_vector(tiny.timm_scorer().model, class_vector(features=32))
