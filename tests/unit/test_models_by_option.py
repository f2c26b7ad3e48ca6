"""Commands with another scorer, or another language model, than the preset's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from clip_folder import tiny_clip, write_clip
from PIL import Image

from magicap import BadSettings, Captioner, ImageTextScorer
from magicap.cli import main
from magicap.commands.model_options import MemoryOptions, ModelOptions
from magicap.commands.serve import served_presets
from magicap.service.presets import ServedPresets


@pytest.fixture
def scorer(tmp_path, monkeypatch) -> Path:
    """A CLIPModel of transformers beside two pictures, in the folder that we are in."""
    for name, picture in zip(["1.png", "2.png"], tiny.pictures(2), strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return write_clip(tiny_clip(), tmp_path / "clip")


@pytest.fixture
def run(capsys):
    """Runs a command that must end with a code; gives stdout, or stderr where it failed."""

    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        return err if code else out

    return run


def test_an_index_remembers_the_scorer_that_was_named(scorer, preset, run):
    run("index", "1.png", "2.png", "--scorer", "clip", "--out", "index")
    assert json.loads(Path("index/index.json").read_text())["scorer_name"] == str(scorer)
    rows = run("search", "A red dog.", "--index", "index", "--json").splitlines()
    cosine = ImageTextScorer.from_pretrained(scorer).similarity(["1.png", "2.png"], ["A red dog."])
    assert json.loads(rows[0])["cosine"] == pytest.approx(cosine.max().item(), abs=1e-4)
    assert "2 unchanged" in run("index", "1.png", "2.png", "--out", "index")
    err = run("search", "A red dog.", "--index", "index", "--preset", preset, code=2)
    assert f"({scorer}); name that scorer with --scorer" in err
    err = run("index", "1.png", "--out", "index", "--revision", "a/b@main", code=2)
    assert "no revision of a/b can be loaded" in err


def test_an_index_of_a_preset_is_refused_to_another_scorer(scorer, preset, run):
    run("index", "1.png", "2.png", "--preset", preset, "--out", "index")
    err = run("search", "A red dog.", "--index", "index", "--scorer", "clip", code=2)
    assert "name the preset that made it with --preset" in err


def test_clipscore_and_matches_are_by_the_scorer_that_was_named(scorer, run):
    rows = [{"image": name, "caption": "a dog", "references": ["a dog runs"]} for name in ("1.png", "2.png")]
    Path("captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = run(
        "eval", "captions.jsonl", "--references", "captions.jsonl", "--images", ".",
        "--metrics", "clipscore", "--scorer", "clip", "--json",
    )  # fmt: skip
    cosine = ImageTextScorer.from_pretrained(scorer).similarity(["1.png", "2.png"], ["A photo depicts a dog"])
    expected = 2.5 * cosine.clamp(min=0).mean().item()
    assert json.loads(out)["scores"]["CLIPScore"]["value"] == pytest.approx(expected, abs=1e-4)
    assert "match" in run("match", "1.png", "2.png", "--scorer", "clip")


def test_stories_and_regions_take_other_models(scorer, preset, run):
    tiny.language_model(tiny.word_tokenizer(), seed=3).save_pretrained("words")
    story = "story", "1.png", "--title", "A dog", "--max-new-tokens", 5, "--preset", preset
    assert run(*story, "--scorer", "clip", "--language-model", "words") != run(*story)
    regions = "regions", "1.png", "--max-regions", 2, "--preset", preset
    assert run(*regions, "--language-model", "words") != run(*regions)
    plain = run("caption", "1.png", "--preset", preset, "--no-memory")
    assert run(*regions, "--no-memory").splitlines()[0] == plain.strip()


def test_a_revision_is_of_a_repository_that_the_captioner_is_made_of(preset):
    with pytest.raises(BadSettings, match=r"no revision of else/where .* is made of someone/words$"):
        Captioner.from_parts("someone/words", preset=preset, revision={"else/where": "main"})


def test_a_service_of_other_models_says_which(scorer, preset):
    models, memory = ModelOptions(scorer=str(scorer)), MemoryOptions(no_memory=True)
    names, parts = served_presets([preset], models, memory)
    (offer,) = ServedPresets(names, lambda name: models.load(name, memory.samples), parts=parts).offers
    assert offer.origin.endswith("; but scorer clip, no memory")
    assert offer.decoding["kind"] == "magic"


def test_a_service_takes_other_models_of_one_captioner(scorer, run):
    named = "--preset", "embedded", "--preset", "unpaired"
    err = run("serve", "--port", 0, *named, "--scorer", "clip", code=2)
    assert "apply to a single captioner, found 2 presets" in err
