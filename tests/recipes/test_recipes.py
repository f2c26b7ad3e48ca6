"""Every recipe runs for two steps on tiny data, and what comes out captions a picture."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from repository import recipe
from timm.layers import PatchDropout
from tiny import SENTENCES

from magicap import BadData, BadSettings, BeamMagicSearch, Captioner, ImageTextScorer, MagicSearch
from magicap.training.objectives.contrastive import inverse_temperature
from magicap.training.pairs import sample_pictures


@pytest.fixture(scope="module")
def language_model(data, tokenizer, tmp_path_factory) -> Path:
    tune = recipe("tune_language_model")
    out = tmp_path_factory.mktemp("language_model")
    captions = str(data / "captions.jsonl")
    shape = {"layers": 1, "width": 16, "heads": 2, "positions": 48}
    config = tune.Config(
        text=[captions],
        domain_text=[captions],
        validation_text=[captions],
        out=str(out),
        tokenizer=str(tokenizer / "language_model"),
        **shape,
        batch_size=4,
        contrastive=0.5,
        max_steps=2,
        cpu=True,
    )
    tune.main(config)
    return out


def scorer_settings(data: Path, tokenizer: Path) -> dict[str, Any]:
    return {
        "captions": [str(data / "captions.jsonl")],
        "images": [str(data / "images.tar")],
        "tokenizer": str(tokenizer / "scorer"),
        "image_model": "test_vit",
        "image_size": 160,
        "width": 16,
        "text_layers": 1,
        "text_heads": 2,
        "locked_epochs": 1,
        "finetune_epochs": 2,
        "locked_batch_size": 4,
        "finetune_batch_size": 4,
        "max_steps": 2,
        "cpu": True,
    }


@pytest.fixture(scope="module", params=["infonce", pytest.param("vse++", marks=pytest.mark.slow)])
def scorer(request, data, tokenizer, tmp_path_factory) -> Path:
    train = recipe("train_scorer")
    out = tmp_path_factory.mktemp("scorer")
    train.main(train.Config(**scorer_settings(data, tokenizer), out=str(out), loss=request.param))
    return out


def test_what_the_recipes_make_captions_a_picture(language_model, scorer, tmp_path):
    assemble = recipe("assemble_captioner")
    parts = {"language_model": str(language_model / "best"), "scorer": str(scorer / "best")}
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "it"), top_k=7, max_new_tokens=9))
    captioner = Captioner.from_pretrained(tmp_path / "it")
    assert captioner.decoding == MagicSearch(top_k=7, max_new_tokens=9)
    assert captioner.scorer.text_tower is not None
    caption = captioner.caption(np.zeros((30, 40, 3), np.uint8))
    assert 1 <= len(caption.steps) <= 9


def test_a_captioner_is_assembled_with_a_memory_and_moved_to_a_domain(
    language_model, scorer, data, tmp_path, capsys
):
    assemble, move = recipe("assemble_captioner"), recipe("adapt_domain")
    parts = {"language_model": str(language_model / "best"), "scorer": str(scorer / "best")}
    memory_file = tmp_path / "memory.txt"
    memory_file.write_text("\n".join(SENTENCES))
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "base"), memory_text=[str(memory_file)]))
    base = Captioner.from_pretrained(tmp_path / "base")
    assert len(base.memory) == len(SENTENCES)
    assert isinstance(base.decoding, BeamMagicSearch)

    text = tmp_path / "domain.txt"
    text.write_text("\n".join(f"A {a} runs over {b}." for a in ("dog", "man", "child") for b in "abcdefghi"))
    config = move.Config(
        captions=[str(text)],
        images=[str(data / "images.tar")],
        base=str(tmp_path / "base"),
        out=str(tmp_path / "domain"),
        max_steps=2,
        batch_size=4,
        samples=250,
    )
    move.main(config)
    card = (tmp_path / "domain" / "README.md").read_text()
    assert "26 different sentences learned, 1 held out" in card
    assert "Confidence of its captions: None" in card
    assert card in capsys.readouterr().out
    adapted = Captioner.from_pretrained(tmp_path / "domain")
    assert len(adapted.memory) >= 26
    assert adapted.caption(np.zeros((30, 40, 3), np.uint8))
    move.main(config)  # what is done is not done again
    with pytest.raises(BadSettings, match="choose another --out"):
        move.main(replace(config, batch_size=9))
    with pytest.raises(BadSettings, match="--captions FILE"):
        move.main(replace(config, captions=[]))


def test_a_memory_is_chosen_from_text_and_from_another_memory(language_model, scorer, data, tmp_path):
    assemble = recipe("assemble_captioner")
    parts = {"language_model": str(language_model / "best"), "scorer": str(scorer / "best")}
    memory_file, more = tmp_path / "memory.txt", tmp_path / "more.txt"
    memory_file.write_text("A red bus.\nA blue bus.")
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "base"), memory_text=[str(memory_file)]))
    more.write_text("\n".join([*(f"A cat sits on chair {number}." for number in range(30)), *SENTENCES]))
    chosen = {"memory_text": [str(more)], "memory_of": str(tmp_path / "base"), "memory_bits": 4}
    held_out = {"memory_held_out": [str(data / "captions.jsonl")], "memory_size": 20}
    beam = {"neighbours": 17, "temperature": 1.5, "ngram_weight": 0.3}
    assemble.main(assemble.Config(**parts, **chosen, **held_out, **beam, out=str(tmp_path / "it")))
    made = Captioner.from_pretrained(tmp_path / "it")
    assert len(made.memory) == 22
    assert {"A red bus.", "A blue bus."} < set(made.memory.texts)
    assert not set(made.memory.texts) & set(SENTENCES)  # captions of the dev split, word for word
    assert made.memory.bits == 4
    assert (made.decoding.neighbours, made.decoding.temperature, made.decoding.ngram_weight) == (
        17,
        1.5,
        0.3,
    )


def test_a_language_model_learns_a_soft_prompt(language_model, scorer, data, tmp_path):
    assemble, tune = recipe("assemble_captioner"), recipe("tune_prompted")
    parts = {"language_model": str(language_model / "best"), "scorer": str(scorer / "best")}
    memory_file = tmp_path / "memory.txt"
    memory_file.write_text("\n".join(SENTENCES))
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "base"), memory_text=[str(memory_file)]))
    config = tune.Config(
        text=[str(data / "captions.jsonl")],
        validation_text=[str(data / "captions.jsonl")],
        base=str(tmp_path / "base"),
        out=str(tmp_path / "conditioned"),
        batch_size=2,
        max_steps=2,
        cpu=True,
    )
    tune.main(config)
    conditioned = Captioner.from_pretrained(tmp_path / "conditioned")
    assert conditioned.decoding.soft_prompt
    assert conditioned.caption(np.zeros((30, 40, 3), np.uint8))
    assert "2 steps of 2" in (tmp_path / "conditioned" / "README.md").read_text()
    weights = conditioned.language_model.soft_prompt.image_projection[0].weight
    tune.main(config)  # what is done is not done again
    again = (
        Captioner.from_pretrained(tmp_path / "conditioned")
        .language_model.soft_prompt.image_projection[0]
        .weight
    )
    assert weights.equal(again)
    with pytest.raises(BadSettings, match="choose another --out"):
        tune.main(replace(config, greatest_noise=3.0))
    with pytest.raises(BadSettings, match="least_noise"):
        replace(config, least_noise=2.0)


def test_a_language_model_is_tuned_on_captioned_pictures(language_model, scorer, data, tmp_path):
    assemble, tune = recipe("assemble_captioner"), recipe("tune_on_pictures")
    parts = {"language_model": str(language_model / "best"), "scorer": str(scorer / "best")}
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "base")))
    config = tune.Config(
        captions=[str(data / "captions.jsonl")],
        images=[str(data / "images.tar")],
        base=str(tmp_path / "base"),
        out=str(tmp_path / "clipcap"),
        batch_size=4,
        epochs=30,
        learning_rate=3e-3,
        cpu=True,
    )
    tune.main(config)
    log = (tmp_path / "clipcap" / "training" / "log.jsonl").read_text()
    bits = [
        row["validation"]["bits_per_character"]
        for row in map(json.loads, log.splitlines())
        if "validation" in row
    ]
    assert min(bits) < bits[0]
    captioner = Captioner.from_pretrained(tmp_path / "clipcap")
    assert captioner.memory is None
    assert captioner.decoding.soft_prompt
    assert captioner.caption(np.zeros((30, 40, 3), np.uint8))
    tune.main(config)  # what is done is not done again
    assert (tmp_path / "clipcap" / "training" / "log.jsonl").read_text() == log


def test_logs_hold_loss_and_validation(language_model, scorer):
    for log in (language_model, *(scorer / stage for stage in ("locked", "finetune"))):
        rows = [json.loads(line) for line in (log / "log.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 2
        assert "score" in rows[-1]["validation"]


def test_a_recipe_that_is_done_does_nothing_more(language_model, data, tokenizer):
    tune = recipe("tune_language_model")
    settings = json.loads((language_model / "config.json").read_text())
    log = (language_model / "log.jsonl").read_text()
    tune.main(tune.Config(**settings))
    assert (language_model / "log.jsonl").read_text() == log


def test_a_folder_begun_with_other_settings_is_refused(language_model, scorer):
    for name, out in (("tune_language_model", language_model), ("train_scorer", scorer)):
        module = recipe(name)
        settings = json.loads((out / "config.json").read_text())
        with pytest.raises(BadSettings, match=r"seed to be 1 .* found 2; choose another --out"):
            module.main(module.Config(**settings | {"seed": 2}))
        assert json.loads((out / "config.json").read_text()) == settings


def test_the_temperature_learns_under_either_loss(scorer):
    learned = ImageTextScorer.from_pretrained(scorer / "best").logit_scale
    assert learned != pytest.approx(1 / 0.07, rel=1e-4)
    assert learned < 100


def test_the_temperature_stays_within_its_bound():
    hot = tiny.scorer()
    hot.model.logit_scale.data.fill_(9.0)
    assert inverse_temperature(hot).item() == pytest.approx(100)
    assert hot.logit_scale == pytest.approx(100)


def test_fewer_pictures_than_a_batch_and_a_trunk_without_blocks_still_train(data, tokenizer, tmp_path):
    train = recipe("train_scorer")
    settings = scorer_settings(data, tokenizer) | {"image_model": "test_resnet", "pool": "avg"}
    settings |= {"locked_batch_size": 99, "finetune_batch_size": 99, "finetune_epochs": 1}
    train.main(train.Config(**settings, out=str(tmp_path)))
    log = [json.loads(line) for line in (tmp_path / "finetune" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 1


def test_an_empty_split_is_named(data, tokenizer, tmp_path):
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows if r["split"] == "train"))
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(r) for r in rows if r["split"] == "dev"))
    score, tune, tokens = map(recipe, ("train_scorer", "tune_language_model", "train_tokenizer"))
    for file, split in (("train.jsonl", "dev or val"), ("dev.jsonl", "train")):
        path, message = str(tmp_path / file), rf"{file}: .* split {split}, found none"
        settings = scorer_settings(data, tokenizer) | {"captions": [path], "out": str(tmp_path / "out")}
        with pytest.raises(BadData, match=message):
            score.main(score.Config(**settings))
        with pytest.raises(BadData, match=message):
            tune.main(
                tune.Config([path], [path], settings["out"], tokenizer=str(tokenizer / "language_model"))
            )
    with pytest.raises(BadData, match=r"dev.jsonl: .* split train"):
        tokens.main(tokens.Config([str(tmp_path / "dev.jsonl")], settings["out"]))
    assert not (tmp_path / "out").exists()


def test_recipes_read_other_forms_of_data_sets_too(data, tokenizer, tmp_path):
    """Pictures and captions from an imagefolder; text from Karpathy's JSON."""
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    with tarfile.open(data / "images.tar") as tar, open(tmp_path / "metadata.jsonl", "w") as metadata:
        for row in rows:
            name = f"{row['split']}/{row['image']}"
            (tmp_path / row["split"]).mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(tar.extractfile(row["image"]).read())
            metadata.write(json.dumps({"file_name": name, "text": row["captions"]}) + "\n")
    images = [
        {"filename": row["image"], "split": split, "sentences": [{"raw": text} for text in row["captions"]]}
        for row, split in zip(rows, ["restval"] * 4 + ["train"] * 4 + ["val"] * 4, strict=True)
    ]
    karpathy = tmp_path / "dataset_flickr8k.json"
    karpathy.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    tokens, tune, score = map(recipe, ("train_tokenizer", "tune_language_model", "train_scorer"))
    tokens.main(tokens.Config([str(karpathy)], str(tmp_path / "tokenizer"), vocabulary_size=300))
    one, other = (folder / "scorer" / "tokenizer.json" for folder in (tokenizer, tmp_path / "tokenizer"))
    assert one.read_text() == other.read_text()
    texts = {"text": [str(karpathy)], "validation_text": [str(karpathy)], "out": str(tmp_path / "text")}
    shape = {"layers": 1, "width": 16, "heads": 2, "max_steps": 1, "cpu": True}
    tune.main(tune.Config(**texts, **shape, tokenizer=str(tokenizer / "language_model")))
    pictures = {
        "captions": [str(tmp_path / "metadata.jsonl")],
        "images": [str(tmp_path)],
        "finetune_epochs": 0,
    }
    score.main(score.Config(**scorer_settings(data, tokenizer) | pictures, out=str(tmp_path / "pairs")))
    assert (tmp_path / "text" / "best").is_dir()
    assert (tmp_path / "pairs" / "best").is_dir()


def test_a_fresh_model_needs_a_position_for_every_token():
    tune = recipe("tune_language_model")
    with pytest.raises(BadSettings, match="found 20 and 40"):
        tune.Config(["text"], ["text"], "out", positions=20)
    tune.Config(["text"], ["text"], "out", positions=20, base="gpt2")


def test_a_base_needs_a_position_for_every_token_of_a_story(language_model, tmp_path):
    tune = recipe("tune_language_model")
    stories = tmp_path / "stories.txt"
    stories.write_text("A day out. We went to the lake. A dog was there. It swam.\n" * 4)
    wanted = {"text": [str(stories)], "validation_text": [str(stories)], "batch_size": 2, "max_steps": 1}
    wanted |= {"base": str(language_model / "best"), "cpu": True, "out": str(tmp_path / "out")}
    with pytest.raises(BadSettings, match="at most the 48 positions of --base, found 100"):
        tune.main(tune.Config(**wanted, max_tokens=100))
    tune.main(tune.Config(**wanted, max_tokens=48))
    assert (tmp_path / "out" / "best").is_dir()


def test_a_recipe_starts_from_a_tuned_model_just_as_well(language_model, data, tmp_path):
    tune = recipe("tune_language_model")
    captions = str(data / "captions.jsonl")
    config = tune.Config(
        text=[captions],
        validation_text=[captions],
        out=str(tmp_path / "more"),
        base=str(language_model / "best"),
        learning_rate=0.0,
        max_steps=1,
        cpu=True,
    )
    tune.main(config)
    first, second = (
        json.loads((p / "log.jsonl").read_text().splitlines()[-1])
        for p in (language_model, tmp_path / "more")
    )
    assert second["validation"]["score"] == pytest.approx(first["validation"]["score"], rel=1e-5)


def test_the_scorer_recipe_starts_from_a_clip_just_as_well(data, tmp_path):
    tiny.scorer().save_pretrained(tmp_path / "clip")
    train = recipe("train_scorer")
    pictures = {"captions": [str(data / "captions.jsonl")], "images": [str(data / "images.tar")]}
    out = tmp_path / "out"
    config = train.Config(
        **pictures, out=str(out), base=str(tmp_path / "clip"), finetune_batch_size=4, max_steps=2, cpu=True
    )
    train.main(config)
    assert not (out / "locked").exists()
    before, after = (ImageTextScorer.from_pretrained(folder) for folder in (tmp_path / "clip", out / "best"))
    assert (before.encode_texts(SENTENCES) - after.encode_texts(SENTENCES)).abs().max() > 1e-4


def test_the_scorer_recipe_learns_from_fewer_pictures_that_are_among_those_of_more():
    sets = [list("pqrst"), list("xyz")]
    previous: set[str] = set()
    for count in (2, 4, 7):
        chosen = sample_pictures(sets, count, seed=1)
        pictures = {row for rows in chosen for row in rows}
        assert len(pictures) == count
        assert previous < pictures
        assert all(set(rows) <= set(all_rows) for rows, all_rows in zip(chosen, sets, strict=True))
        previous = pictures
    assert sample_pictures(sets, 8, seed=1) == sets
    with pytest.raises(BadSettings, match="--pictures"):
        recipe("train_scorer").Config(["a", "b"], ["c"], "d", pictures=0)


def test_only_the_last_passes_see_whole_pictures(data, tokenizer, tmp_path, monkeypatch):
    train = recipe("train_scorer")
    rates = []
    forward = PatchDropout.forward

    def spy(dropout, tokens):
        if dropout.training:
            rates.append(dropout.prob)
        return forward(dropout, tokens)

    monkeypatch.setattr(PatchDropout, "forward", spy)
    settings = scorer_settings(data, tokenizer) | {
        "locked_epochs": 0,
        "finetune_epochs": 3,
        "max_steps": None,
    }
    train.main(train.Config(**settings | {"patch_dropout": 0.25}, out=str(tmp_path)))
    assert rates == [0.25, 0.25, 0.25, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("setting", [{"patch_dropout": 1.0}, {"locked_views": 0}, {"loss": "l2"}])
def test_settings_that_cannot_be_are_refused(setting):
    name = next(iter(setting))
    with pytest.raises(BadSettings, match=rf"--{name} must be .*found"):
        recipe("train_scorer").Config("captions", ["images"], "out", **setting)


def test_a_share_that_is_less_than_a_picture_is_refused():
    train = recipe("train_scorer")
    small = {"locked_batch_size": 8, "finetune_batch_size": 96}
    config = train.Config(["a", "b"], ["images"], "out", shares=[0.95, 0.05], **small)
    with pytest.raises(BadSettings, match=r"one picture of a step of 8, found 0\.05; use a larger batch"):
        train.domains(config, [[], []])
