"""From a sentence encoder and a classifier to a scorer: both recipes, and training that starts from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny
import torch
from repository import recipe
from safetensors.torch import save_file
from tiny import SENTENCES, save_bert

from magicap import BeamMagicSearch, Captioner, ImageTextScorer
from magicap.errors import BadData, BadModel, BadSettings
from magicap.training.teacher import TeacherVectors

NAMES = ["dog", "child, kid", "red shirt", "café wall", "mountain bike"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A tiny sentence encoder with random weights, in the form of sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    words = (word for text in (*SENTENCES, *NAMES, "a photo of") for word in text.lower().split())
    save_bert(folder / "bert", words, width=32, num_hidden_layers=1)
    body = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[body, Pooling(32)]).save(str(folder / "whole"))
    return str(folder / "whole")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> str:
    """Six hundred different sentences."""
    file = tmp_path_factory.mktemp("text") / "sentences.txt"
    things = [text.rstrip(".") for text in SENTENCES]
    file.write_text("\n".join(f"{thing} {number}" for number in range(150) for thing in things))
    return str(file)


@pytest.fixture(scope="module")
def text_tower(encoder, data, tokenizer, sentences, tmp_path_factory) -> Path:
    distil = recipe("distill_text_tower")
    out = tmp_path_factory.mktemp("text_tower")
    config = distil.Config(
        text=[sentences, str(data / "captions.jsonl")],
        validation=[str(data / "captions.jsonl")],
        tokenizer=str(tokenizer / "scorer"),
        out=str(out),
        teacher=encoder,
        image_model="test_vit",
        image_size=160,
        width=16,
        text_layers=1,
        text_heads=2,
        batch_size=32,
        max_steps=3,
        cpu=True,
    )
    distil.main(config)
    log = (out / "training" / "log.jsonl").read_text()
    distil.main(config)  # what is done is not done again
    assert (out / "training" / "log.jsonl").read_text() == log
    return out


@pytest.fixture(scope="module")
def unpaired(encoder, sentences, text_tower, tmp_path_factory) -> Path:
    build = recipe("build_classifier_scorer")
    folder = tmp_path_factory.mktemp("unpaired")
    torch.manual_seed(1)
    save_file(
        timm.create_model("test_vit", num_classes=len(NAMES)).state_dict(), folder / "weights.safetensors"
    )
    (folder / "names.txt").write_text("\n".join(NAMES))
    build.main(
        build.Config(
            text=[sentences],
            out=str(folder / "scorer"),
            base=str(text_tower / "best"),
            classifier="test_vit",
            weights=str(folder / "weights.safetensors"),
            class_names=str(folder / "names.txt"),
            sentence_encoder=encoder,
        )
    )
    return folder / "scorer"


def test_the_student_is_compared_with_its_teacher(text_tower):
    rows = [json.loads(line) for line in (text_tower / "training" / "log.jsonl").read_text().splitlines()]
    assert -1 <= rows[-1]["validation"]["score"] <= 1
    teacher = TeacherVectors.load(text_tower)
    assert len(teacher.texts) == 600 + len(SENTENCES)
    assert ImageTextScorer.from_pretrained(text_tower / "best").text_tower is not None


def test_a_scorer_teaches_its_own_text_tower_what_prefixes_become(text_tower, data, sentences, tmp_path):
    distil = recipe("distill_text_tower")
    base = text_tower / "best"
    settings = {
        "text": [sentences],
        "validation": [str(data / "captions.jsonl")],
        "out": str(tmp_path),
        "base": str(base),
        "cut_share": 0.5,
    }
    distil.main(distil.Config(**settings, batch_size=64, learning_rate=1e-3, max_steps=20, cpu=True))
    rows = [json.loads(line) for line in (tmp_path / "training" / "log.jsonl").read_text().splitlines()]
    first, last = (row["validation"] for row in (rows[0], rows[-1]))
    assert last["prefixes"] > first["prefixes"]
    before, after = (ImageTextScorer.from_pretrained(folder) for folder in (base, tmp_path / "best"))
    teacher = TeacherVectors.load(tmp_path)
    assert torch.allclose(teacher.of(teacher.texts[:9])[1], before.encode_texts(teacher.texts[:9]), atol=1e-3)
    weights = before.model.state_dict()
    changed = {name for name, t in after.model.state_dict().items() if not torch.equal(t, weights[name])}
    assert changed
    assert not any(name.startswith(("visual.", "logit_scale")) for name in changed)
    with pytest.raises(BadSettings, match="not both"):
        distil.Config(**settings, tokenizer="words")


def test_a_classifier_becomes_a_scorer_and_a_captioner(unpaired, text_tower, sentences, tmp_path, data):
    scorer = ImageTextScorer.from_pretrained(unpaired)
    assert scorer.class_vector.classifier.out_features == len(NAMES)
    base = ImageTextScorer.from_pretrained(text_tower / "best")
    assert torch.equal(scorer.encode_texts(SENTENCES), base.encode_texts(SENTENCES))
    pixels = torch.stack([scorer.pixels(np.full((30, 40, 3), shade, np.uint8)) for shade in (0, 99)])
    pooled = scorer.model.visual.trunk(scorer.transform.normalise(pixels))
    assert not scorer.model.visual.head.projection(pooled).any()  # until it learns from pairs


def test_names_are_required_where_the_classifier_has_none(encoder, sentences, text_tower, tmp_path):
    build = recipe("build_classifier_scorer")
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    settings = {
        "out": str(tmp_path / "scorer"),
        "base": str(text_tower / "best"),
        "classifier": "test_vit",
        "weights": str(tmp_path / "seven.safetensors"),
        "sentence_encoder": encoder,
    }
    with pytest.raises(BadModel, match="give --class_names"):
        build.main(build.Config(text=[sentences], **settings))
    (tmp_path / "names.txt").write_text("dog\ncat")
    with pytest.raises(BadModel, match="each of 7 classes, found 2"):
        build.main(build.Config(text=[sentences], **settings, class_names=str(tmp_path / "names.txt")))
    (tmp_path / "few.txt").write_text("A dog runs.\nA cat sits.")
    with pytest.raises(BadData, match=r"few.txt: expected at least 500 .* found 2"):
        build.main(
            build.Config(
                text=[str(tmp_path / "few.txt")], **settings, class_names=str(tmp_path / "names.txt")
            )
        )


def test_training_on_pairs_starts_from_it(unpaired, text_tower, data, tmp_path):
    train = recipe("train_scorer")
    captions = str(data / "captions.jsonl")
    other = tmp_path / "other.jsonl"
    lines = [json.loads(line) for line in Path(captions).read_text().splitlines()]
    other.write_text("\n".join(json.dumps(row) for row in lines if row["split"] == "train"))
    settings = {
        "captions": [captions, str(other)],
        "validation": [captions],
        "shares": [0.25, 0.75],
        "images": [str(data / "images.tar")],
        "base": str(unpaired),
        "teacher": str(text_tower),
        "locked_epochs": 1,
        "finetune_epochs": 1,
        "locked_batch_size": 4,
        "finetune_batch_size": 4,
        "max_steps": 2,
        "cpu": True,
    }
    train.main(train.Config(**settings, out=str(tmp_path / "scorer")))
    trained = ImageTextScorer.from_pretrained(tmp_path / "scorer" / "best")
    assert trained.class_vector is not None
    assert trained.fingerprint != ImageTextScorer.from_pretrained(unpaired).fingerprint
    with pytest.raises(BadSettings, match="--shares must name one share a data set"):
        train.Config(**settings | {"shares": [0.5]}, out="x")


def test_scorers_of_one_origin_are_averaged(unpaired, text_tower, tmp_path):
    average = recipe("average_scorers")
    other = ImageTextScorer.from_pretrained(unpaired)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.2)
    other.save_pretrained(tmp_path / "other")
    average.main(average.Config([str(unpaired), str(tmp_path / "other")], str(tmp_path / "soup")))
    first = ImageTextScorer.from_pretrained(unpaired).model.state_dict()
    mean = ImageTextScorer.from_pretrained(tmp_path / "soup").model.state_dict()
    name = "visual.head.class_vector.matrix.weight"
    torch.testing.assert_close(mean[name], first[name] + 0.1)
    with pytest.raises(BadSettings, match="two scorers or more"):
        average.Config([str(unpaired)], "x")
    tiny.scorer().save_pretrained(tmp_path / "clip")
    with pytest.raises(BadModel, match="shapes"):
        average.main(average.Config([str(unpaired), str(tmp_path / "clip")], str(tmp_path / "soup")))


def test_a_captioner_is_assembled_from_it(unpaired, sentences, tokenizer, data, tmp_path):
    tune, assemble = recipe("tune_language_model"), recipe("assemble_captioner")
    tune.main(
        tune.Config(
            text=[sentences],
            validation_text=[str(data / "captions.jsonl")],
            out=str(tmp_path / "words"),
            tokenizer=str(tokenizer / "language_model"),
            layers=1,
            width=16,
            heads=2,
            max_steps=1,
            cpu=True,
        )
    )
    parts = {"language_model": str(tmp_path / "words" / "best"), "scorer": str(unpaired)}
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "it"), memory_text=[sentences]))
    captioner = Captioner.from_pretrained(tmp_path / "it")
    assert isinstance(captioner.decoding, BeamMagicSearch)
    assert captioner.caption(np.zeros((30, 40, 3), np.uint8))
