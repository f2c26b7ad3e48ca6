"""A CNN and a BERT as a scorer: trained, saved, loaded without a hub, and steering a captioner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
from reference import reference_caption
from repository import recipe
from safetensors.torch import load_file, save_file
from tiny import SENTENCES, save_bert
from transformers import GPT2Config, GPT2Model

from magicap import Captioner, ImageTextScorer, MagicSearch
from magicap.errors import BadModel, BadSettings, ModelNotFound
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.training.objectives.contrastive import Contrastive
from magicap.training.parameter_groups import EncoderRates, layerwise


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A tiny BERT of three blocks with random weights, and its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    words = (word for text in SENTENCES for word in text.lower().replace(".", " .").split())
    save_bert(folder, words, width=16, num_hidden_layers=3, initializer_range=0.3)
    return folder


def options(data: Path, bert: Path, **more: Any) -> dict[str, Any]:
    return {
        "captions": [str(data / "captions.jsonl")],
        "images": [str(data / "images.tar")],
        "text_model": str(bert),
        "text_blocks": 1,
        "image_model": "test_efficientnet",
        "image_size": 64,
        "pool": "avg",
        "width": 24,
        "locked_epochs": 1,
        "finetune_epochs": 1,
        "locked_batch_size": 4,
        "finetune_batch_size": 4,
        "max_steps": 2,
        "cpu": True,
        **more,
    }


@pytest.fixture(scope="module")
def cnn(tmp_path_factory) -> Path:
    """A tiny CNN with random weights, its classifier included."""
    file = tmp_path_factory.mktemp("cnn") / "cnn.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model("test_efficientnet", num_classes=7).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def run(data, bert, cnn, tmp_path_factory) -> Path:
    train = recipe("train_scorer")
    out = tmp_path_factory.mktemp("runs")
    train.main(train.Config(**options(data, bert), image_weights=str(cnn), trunk_blocks=1, out=str(out)))
    return out


@pytest.fixture(scope="module")
def scorer(run) -> ImageTextScorer:
    return ImageTextScorer.from_pretrained(run / "best")


def test_what_is_trained_lies_in_one_folder_that_names_no_other(run, bert, scorer, tmp_path):
    text = json.loads((run / "best" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert (text["hf_model_name"], text["hf_tokenizer_name"]) == ("local", "local")
    assert str(bert) not in json.dumps(text)
    moved = tmp_path / "moved"
    (run / "best").rename(moved)
    try:
        again = ImageTextScorer.from_pretrained(f"local-dir:{moved}")
    finally:
        moved.rename(run / "best")
    assert again.fingerprint == scorer.fingerprint
    again.save_pretrained(tmp_path / "again")
    third = ImageTextScorer.from_pretrained(tmp_path / "again")
    assert torch.equal(third.encode_texts(SENTENCES), scorer.encode_texts(SENTENCES))


def test_texts_are_encoded_whole_and_as_with_all_their_padding(scorer):
    assert scorer.text_tower is None
    texts = ["", "a dog", *SENTENCES, "[CLS] a man [PAD] climbs", " ".join(["children"] * 99)]
    padded = scorer.tokenizer([scorer.without_specials(text) for text in texts])
    with torch.no_grad():
        expected = F.normalize(scorer.model.encode_text(padded), dim=-1)
    assert torch.allclose(scorer.encode_texts(texts), expected, atol=1e-5)


def test_only_the_upper_blocks_of_both_towers_learned(run, bert, cnn, scorer):
    now = scorer.model.state_dict()
    for file, tower, upper in (
        (bert / "model.safetensors", "text.transformer.", "encoder.layer.2."),
        (cnn, "visual.trunk.", ("blocks.4.", "conv_head.", "bn2.")),
    ):
        before = {name: tensor for name, tensor in load_file(file).items() if f"{tower}{name}" in now}
        changed = {name for name, tensor in before.items() if not torch.equal(now[f"{tower}{name}"], tensor)}
        assert changed
        assert all(name.startswith(upper) for name in changed)
    for stage in ("locked", "finetune"):
        rows = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
        assert "score" in rows[-1]["validation"]


def test_it_steers_magic_search_as_the_slow_reference_has_it(scorer, tmp_path):
    parts = tiny.language_model(tiny.word_tokenizer()), scorer
    captioner = Captioner(*parts, MagicSearch(top_k=5, alpha=0.1, beta=2.0, max_new_tokens=6))
    pictures = tiny.pictures(3)
    captions = captioner.caption(pictures)
    for picture, caption in zip(pictures, captions, strict=True):
        tokens = [step.token_id for step in caption.steps]
        assert tokens == reference_caption(captioner, picture, captioner.decoding)
    captioner.save_pretrained(tmp_path)
    assert Captioner.from_pretrained(tmp_path).caption(pictures) == captions


def test_what_is_frozen_keeps_its_statistics_and_drops_nothing_out(scorer):
    rates = {"rate": 1.0, "trunk_rate": 0.1, "trunk_decay": 0.5, "trunk_blocks": 1, "decay": 0.0}
    groups = layerwise(scorer.model, **rates, encoder=EncoderRates(2, 0.01))
    objective = Contrastive(scorer).train()
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    blocks, trunk = scorer.model.text.transformer.encoder.layer, scorer.model.visual.trunk
    of_block = [{rate.get(id(p)) for p in block.parameters()} for block in blocks]
    assert of_block == [{None}, {0.01}, {0.01}]
    assert [block.training for block in blocks] == [False, True, True]
    assert not any(p.requires_grad for p in scorer.model.text.transformer.embeddings.parameters())
    assert rate[id(trunk.conv_head.weight)] == 0.1  # it lies above the blocks
    assert id(trunk.conv_stem.weight) not in rate
    assert not any(m.training for m in trunk.modules() if isinstance(m, torch.nn.BatchNorm2d))
    objective.eval()


def test_what_cannot_be_a_text_tower_is_refused(bert, data, tmp_path, scorer):
    train = recipe("train_scorer")
    GPT2Model(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    settings = options(data, bert, out=str(tmp_path / "out"))
    with pytest.raises(BadModel, match=r"one of the kinds bert, .*, found 'gpt2'"):
        train.main(train.Config(**settings | {"text_model": str(tmp_path / "gpt2")}))
    with pytest.raises(ModelNotFound, match="no text tower at"):
        train.main(train.Config(**settings | {"text_model": str(tmp_path / "none")}))
    with pytest.raises(
        BadSettings, match="--text_model starts afresh, by its own tokenizer: leave --tokenizer out"
    ):
        train.Config(**settings, tokenizer="words")
    with pytest.raises(BadSettings, match="--text_blocks must be 0 or more, found -1"):
        train.Config(**settings | {"text_blocks": -1})
    with pytest.raises(BadModel, match="expected a causal text tower"):
        FineGrainedScorer(scorer)
