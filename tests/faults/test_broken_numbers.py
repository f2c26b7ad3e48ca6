"""Weights, memories and pictures whose numbers are broken: refused, tried anew in float32, or reported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from cases.make import rewrite
from PIL import Image
from torch import nn

from magicap import Captioner, CaptionMemory, Hypothesis, SupervisedCaptioner
from magicap.decoding.confidence import ConfidenceModel
from magicap.decoding.sampling import Nucleus
from magicap.errors import BadImage, BadModel, BadSettings, BrokenNumbers, MetricUnavailable
from magicap.evaluation.rows import caption_row
from magicap.metrics.spice import read_scores
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.models.finite import require_finite
from magicap.models.scorer import ImageTextScorer
from magicap.results import BROKEN, WORDLESS
from magicap.retrieval.index import RetrievalIndex
from magicap.retrieval.memory_files import VECTORS_FILE
from magicap.retrieval.memory_record import RECORD_FILE

TEXTS = [f"A {animal} {verb}." for animal in ("dog", "cat", "horse", "bird") for verb in ("runs", "sleeps")]


@pytest.fixture(scope="module")
def captioner():
    """With a soft prompt and a memory."""
    conditioned = tiny.with_soft_prompt(0)
    memory = CaptionMemory.from_texts(conditioned.scorer, TEXTS)
    return Captioner(conditioned.language_model, conditioned.scorer, memory=memory)


@pytest.fixture
def saved(captioner, tmp_path) -> Path:
    captioner.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def fill(value):
    """A change of a file: all weights of some name are a number."""
    return lambda name: (
        lambda tensors: tensors.update(
            {key: np.full_like(tensor, value) for key, tensor in tensors.items() if name in key}
        )
    )


@pytest.mark.parametrize(
    ("file", "name", "value", "said"),
    [
        ("scorer/open_clip_model.safetensors", "visual.", 0, "image tower"),
        ("scorer/open_clip_model.safetensors", "text_projection", 0, "text tower"),
        ("scorer/open_clip_model.safetensors", "visual.proj", 3e38, "image tower"),
        ("scorer/open_clip_model.safetensors", "token_embedding", np.inf, "token_embedding"),
        ("language_model/model.safetensors", "", 0, "GPT2LMHeadModel"),
        ("language_model/soft_prompt.safetensors", "memory", 0, "memory_projection"),
        ("language_model/soft_prompt.safetensors", "picture", np.nan, "soft prompt"),
    ],
)
def test_weights_that_give_no_vectors_are_refused_by_name(saved, file, name, value, said):
    rewrite(saved / file, fill(value)(name))
    with pytest.raises(BadModel, match=said):
        Captioner.from_pretrained(saved)


def test_a_supervised_network_and_a_fine_grained_scorer_have_finite_weights(captioner, tmp_path):
    tiny.supervised().save_pretrained(tmp_path / "one")
    rewrite(tmp_path / "one/network.safetensors", fill(np.nan)("encoder"))
    with pytest.raises(BadModel, match="supervised network"):
        SupervisedCaptioner.from_pretrained(tmp_path / "one")
    FineGrainedScorer(captioner.scorer).save_pretrained(tmp_path / "fine")
    rewrite(tmp_path / "fine/fine_grained.safetensors", fill(0)("text"))
    with pytest.raises(BadModel, match="fine-grained"):
        FineGrainedScorer.from_pretrained(tmp_path / "fine", captioner.scorer)


def test_weights_whose_sum_overflows_are_finite():
    layer = nn.Linear(4, 4)
    nn.init.constant_(layer.weight, 3e38)
    require_finite(layer, "layer")


def swap(tensors):
    tensors["vectors"][[0, 5]] = tensors["vectors"][[5, 0]]


def spoil(tensors):
    tensors["vectors"] = tensors["vectors"].astype(np.float32)
    tensors["vectors"][3, 0] = np.nan


def empty(tensors):
    tensors["vectors"][3] = 0


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("change", "said"), [(swap, "reordered"), (spoil, "int8"), (empty, "1 of 8 of zeros")]
)
def test_a_damaged_memory_is_refused_with_and_without_its_record(saved, change, said, recorded):
    if not recorded:  # as of earlier versions
        (saved / "memory" / RECORD_FILE).unlink()
        settings = json.loads((saved / "magicap.json").read_text())
        settings["parts"]["memory"]["fingerprint"] = ""
        (saved / "magicap.json").write_text(json.dumps(settings))
        assert len(Captioner.from_pretrained(saved).memory) == len(TEXTS)
    rewrite(saved / "memory" / VECTORS_FILE, change)
    with pytest.raises(BadModel, match=said):
        Captioner.from_pretrained(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_memory_of_another_scorer_or_captioner_is_refused(captioner, saved, dtype, tmp_path):
    other = tiny.scorer(seed=3)
    other.model.to(dtype)
    language_model = tiny.language_model(tiny.word_tokenizer())
    memory = CaptionMemory.from_texts(captioner.scorer, TEXTS)
    with pytest.raises(BadModel, match="another scorer"):
        Captioner(language_model, other, memory=memory)
    Captioner(language_model, captioner.scorer, memory=memory)
    memory = CaptionMemory.from_texts(captioner.scorer, [*TEXTS, "A fish swims."])
    memory.save_pretrained(saved / "memory")
    with pytest.raises(BadModel, match="names a memory with the fingerprint"):
        Captioner.from_pretrained(saved)


def test_a_captioner_loads_its_memory_in_fewer_bits_and_after_it_was_stored_in_fewer(captioner, tmp_path):
    captioner.save_pretrained(tmp_path / "half", dtype="float16")
    for dtype in ("float32", "bfloat16", "float16"):
        loaded = Captioner.from_pretrained(tmp_path / "half", dtype=dtype)
        loaded.save_pretrained(tmp_path / dtype)
        assert Captioner.from_pretrained(tmp_path / dtype).memory.texts == TEXTS


def test_vectors_of_a_memory_are_of_length_one():
    for vectors in (torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 3), math.nan)):
        with pytest.raises(BadSettings, match="found 2 of 2"):
            CaptionMemory(["a", "b"], vectors)


def broken_for(monkeypatch, kind, method, is_broken):
    """Let a model's method give NaN for the rows of its argument of which a predicate holds."""
    whole = getattr(kind, method)

    def partly(model, rows):
        output = whole(model, rows)
        return torch.where(is_broken(model, rows)[:, None], math.nan, output)

    monkeypatch.setattr(kind, method, partly)


def reddish(scorer, pixels):
    return pixels.float().mean(dim=(2, 3)).argmax(dim=1) == 0


def test_a_picture_for_which_numbers_break_is_an_error_row_and_the_rest_go_on(captioner, monkeypatch):
    pictures = [np.full((40, 40, 3), colour, np.uint8) for colour in ([9, 200, 9], [200, 9, 9], [9, 9, 200])]
    expected = captioner.caption(pictures)
    broken_for(monkeypatch, ImageTextScorer, "encode_pixels", reddish)
    captions = captioner.caption(pictures)
    assert [caption.error and caption.error.code for caption in captions] == [None, BROKEN, None]
    assert [captions[0], captions[2]] == [expected[0], expected[2]]
    row = caption_row("red.png", captions[1], None)
    assert row == {"image": "red.png", "error": BROKEN, "message": str(captions[1].error)}
    for call in (captioner.caption, captioner.stream, captioner.explain):
        with pytest.raises(BadImage, match="finite"):
            call(pictures[1])


def test_a_model_in_fewer_bits_is_tried_in_float32(saved, captioner, monkeypatch):
    loaded = Captioner.from_pretrained(saved, dtype="bfloat16")
    pictures = tiny.pictures(3)
    broken_for(
        monkeypatch,
        ImageTextScorer,
        "encode_pixels",
        lambda scorer, pixels: torch.full((len(pixels),), scorer.dtype == torch.bfloat16),
    )
    captions = loaded.caption(pictures)
    assert all(math.isfinite(caption.score) for caption in captions)


def test_an_index_leaves_such_a_picture_out_and_names_it(captioner, monkeypatch, tmp_path):
    for name, colour in (("green", (9, 200, 9)), ("red", (200, 9, 9))):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    broken_for(monkeypatch, ImageTextScorer, "encode_pixels", reddish)
    errors = []
    index = RetrievalIndex(captioner.scorer)
    index.update_images(sorted(tmp_path.glob("*.png")), on_error=errors.append)
    assert [Path(item.path).name for item in index.items] == ["green.png"]
    assert (errors[0].code, "red.png" in str(errors[0])) == (BROKEN, True)


def test_logits_that_are_not_finite_are_never_read(captioner):
    with pytest.raises(BrokenNumbers, match="logits"):
        captioner.language_model.probabilities(torch.full((2, 32), math.inf))


def test_a_caption_without_words_has_its_reason_and_can_be_scored(captioner):
    class Silent:
        def search(self, context):
            return [[Hypothesis(" ")] for _ in range(len(context))]

    caption = captioner.caption(tiny.pictures(1)[0], Silent())
    row = caption_row("1.png", caption, None)
    assert (row["caption"], row["error"], caption.error.code) == ("", WORDLESS, WORDLESS)
    assert captioner.steered_by(Nucleus()) == ""


def test_a_confidence_that_overflows_is_refused(captioner):
    term = {"mean": 0.0, "std": 1e-300, "weight": 1e300}
    values = {
        "format": 1,
        "captioner": "",
        "decoding": {"kind": "beam-magic"},
        "bias": 0.0,
        "terms": {"beam_gap": term},
    }
    with pytest.raises(BadModel, match="finite odds"):
        ConfidenceModel.from_json(json.dumps(values))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-0.5"])
def test_spice_that_is_no_score_is_absent(value, tmp_path):
    (tmp_path / "out.json").write_text(f'[{{"image_id": 0, "scores": {{"All": {{"f": {value}}}}}}}]')
    with pytest.raises(MetricUnavailable, match="0 to 1"):
        read_scores(tmp_path / "out.json", 1)
