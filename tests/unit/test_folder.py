"""A captioner as a folder: its parts by name, older and later formats, saving beside and putting in place."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from magicap import (
    BadModel,
    BadSettings,
    BeamMagicSearch,
    Captioner,
    CaptionMemory,
    MagicSearch,
    SupervisedCaptioner,
)
from magicap.captioners.folder import SETTINGS_FILE, Part, read_settings
from magicap.captioners.presets import BASELINE, EMBEDDED
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.models.fingerprint import fingerprint
from magicap.settings_io import former_names

TEXTS = ["A dog runs.", "Two children play on a beach.", "A man climbs a rock."]
PICTURES = tiny.pictures(2)


@pytest.fixture(scope="module")
def captioner():
    """With a soft prompt and a memory."""
    made = tiny.with_soft_prompt(1)
    memory = CaptionMemory.from_texts(made.scorer, TEXTS)
    decoding = BeamMagicSearch(top_k=6, beam_size=2, neighbours=3, max_new_tokens=6, soft_prompt=True)
    return Captioner(made.language_model, made.scorer, decoding, memory)


@pytest.fixture
def saved(captioner, tmp_path):
    captioner.save_pretrained(tmp_path / "it")
    return tmp_path / "it"


def settings_of(folder):
    return json.loads((folder / SETTINGS_FILE).read_text())


def rewrite(folder, **changes):
    """Other settings; None removes one."""
    settings = {**settings_of(folder), **changes}
    settings = {name: value for name, value in settings.items() if value is not None}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_fine_grained(folder):
    """Add fine-grained matching with random weights to a captioner's folder, as its recipe does."""
    fine = FineGrainedScorer(Captioner.from_pretrained(folder).scorer)
    fine.save_pretrained(folder / "fine_grained")
    return fine


def test_the_settings_name_every_part_with_its_fingerprint(captioner, saved):
    settings = settings_of(saved)
    assert list(settings) == ["format", "kind", "decoding", "parts"]
    assert (settings["format"], settings["kind"]) == (2, "zero-shot")
    assert settings["decoding"]["soft_prompt"] is True
    parts = settings["parts"]
    assert {name: part["path"] for name, part in parts.items()} == {
        "language_model": "language_model",
        "scorer": "scorer",
        "soft_prompt": "language_model/soft_prompt.safetensors",
        "memory": "memory",
    }
    assert parts["scorer"]["fingerprint"] == captioner.scorer.fingerprint
    assert all(len(part["fingerprint"]) == 12 for part in parts.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", None])
def test_the_fingerprints_are_those_of_what_is_loaded(captioner, tmp_path, dtype):
    captioner.save_pretrained(tmp_path / "it", dtype=dtype)
    parts, loaded = settings_of(tmp_path / "it")["parts"], Captioner.from_pretrained(tmp_path / "it")
    assert parts["scorer"]["fingerprint"] == loaded.scorer.fingerprint
    assert parts["language_model"]["fingerprint"] == fingerprint(loaded.language_model.model)
    assert parts["soft_prompt"]["fingerprint"] == fingerprint(loaded.language_model.soft_prompt)
    loaded.save_pretrained(tmp_path / "again", dtype=dtype)
    assert settings_of(tmp_path / "again") == settings_of(tmp_path / "it")


def test_a_supervised_captioner_names_its_network(tmp_path):
    supervised = tiny.supervised()
    supervised.save_pretrained(tmp_path / "it", dtype="float16")
    assert settings_of(tmp_path / "it")["parts"] == {
        "network": {
            "path": "network.safetensors",
            "fingerprint": SupervisedCaptioner.from_pretrained(tmp_path / "it").fingerprint,
        }
    }
    os.remove(tmp_path / "it" / "network.safetensors")
    with pytest.raises(BadModel, match=r"names a network in network\.safetensors, which is not there"):
        SupervisedCaptioner.from_pretrained(tmp_path / "it")


@pytest.mark.parametrize("part", ["language_model", "scorer", "soft_prompt", "memory"])
def test_a_part_that_is_named_and_missing_is_refused_by_its_name(saved, part):
    path = saved / settings_of(saved)["parts"][part]["path"]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BadModel, match=rf"names a {part} in .*, which is not there; copy the whole folder"):
        Captioner.from_pretrained(saved)


def test_a_part_that_is_not_named_is_not_loaded(saved):
    parts = settings_of(saved)["parts"]
    rewrite(saved, parts={name: part for name, part in parts.items() if name != "memory"})
    assert Captioner.from_pretrained(saved).memory is None
    rewrite(saved, parts={name: part for name, part in parts.items() if name != "scorer"})
    with pytest.raises(BadModel, match="names no part scorer"):
        Captioner.from_pretrained(saved)


def test_a_part_may_lie_elsewhere_in_the_folder(captioner, saved):
    os.rename(saved / "scorer", saved / "clip")
    parts = settings_of(saved)["parts"]
    rewrite(saved, parts={**parts, "scorer": {**parts["scorer"], "path": "clip"}})
    assert Captioner.from_pretrained(saved).scorer.fingerprint == captioner.scorer.fingerprint


@pytest.mark.parametrize("parts", [None, {"class_vector": "scorer/open_clip_model.safetensors"}])
def test_a_folder_of_format_1_captions_the_same(captioner, saved, parts):
    expected = Captioner.from_pretrained(saved).caption(PICTURES)
    decoding = settings_of(saved)["decoding"]
    former = {name: decoding.pop(now) for name, now in former_names(BeamMagicSearch).items()}
    assert set(former) == {"finished", "memory_weight", "fit_weight", "prompted"}
    rewrite(saved, format=1, kind=None, decoding={**decoding, **former}, parts=parts)
    loaded = Captioner.from_pretrained(saved)
    assert loaded.decoding == captioner.decoding
    assert loaded.caption(PICTURES) == expected
    assert len(loaded.memory) == len(TEXTS)
    shutil.rmtree(saved / "memory")  # which format 1 does not name
    assert Captioner.from_pretrained(saved).memory is None


def test_what_format_1_names_must_be_there(saved):
    rewrite(saved, format=1, parts={"class_vector": "scorer/class_vector.safetensors"})
    with pytest.raises(BadModel, match=r"names a class_vector in scorer/class_vector\.safetensors"):
        Captioner.from_pretrained(saved)


def test_a_later_format_is_refused_whatever_else_it_holds(saved):
    rewrite(saved, format=3, parts=["of another form"])
    with pytest.raises(BadModel, match="of format 3, this version reads 1 and 2; update magicap"):
        Captioner.from_pretrained(saved)


def test_the_shipped_folders_are_read():
    settings = read_settings(EMBEDDED)
    assert settings.part(EMBEDDED, "memory") == EMBEDDED / "memory"
    assert settings.parts["class_vector"].path == "scorer/class_vector.safetensors"
    assert read_settings(BASELINE).kind == "supervised"


@pytest.mark.parametrize("stage", ["language_model", "scorer", "memory"])
def test_a_save_that_stops_leaves_the_old_captioner_whole(captioner, saved, monkeypatch, stage):
    before = contents(saved)
    other = Captioner(
        tiny.language_model(tiny.word_tokenizer(), 5), captioner.scorer, memory=captioner.memory
    )

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(getattr(other, stage)), "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        other.save_pretrained(saved)
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["it"]
    with pytest.raises(KeyboardInterrupt):
        other.save_pretrained(saved.parent / "new")
    assert os.listdir(saved.parent) == ["it"]


@pytest.mark.parametrize("count", [0, 3, 5, 6, 7])  # moved away: four; put in place: three
def test_a_stop_while_it_is_put_in_place_is_undone(captioner, saved, monkeypatch, count):
    from pathlib import Path

    before, rename, done = contents(saved), Path.rename, []
    other = Captioner(captioner.language_model, captioner.scorer, MagicSearch())
    other.save_pretrained(saved.parent / "other")

    def stop(source, target):
        if len(done) == count:
            done.append(None)
            raise KeyboardInterrupt
        done.append(source)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", stop)
    try:
        other.save_pretrained(saved)
    except KeyboardInterrupt:
        assert contents(saved) == before
    else:
        assert contents(saved) == contents(saved.parent / "other")
    assert sorted(os.listdir(saved.parent)) == ["it", "other"]


def test_what_is_no_part_survives_and_parts_of_before_do_not(captioner, saved):
    (saved / "README.md").write_text("# A captioner")
    (saved / "training").mkdir()
    (saved / "training" / "log.jsonl").write_text("{}")
    Captioner(captioner.language_model, captioner.scorer, MagicSearch()).save_pretrained(saved)
    assert (saved / "README.md").read_text() == "# A captioner"
    assert (saved / "training" / "log.jsonl").read_text() == "{}"
    assert not (saved / "memory").exists()
    assert Captioner.from_pretrained(saved).memory is None


def test_the_fine_grained_part_survives_loading_and_saving(saved, tmp_path):
    fine = with_fine_grained(saved)
    rewrite(saved, format=1, parts=None)
    loaded = Captioner.from_pretrained(saved)  # in format 1 the part is known by being there
    for folder in (tmp_path / "copy", saved):  # elsewhere, and over the folder that it came from
        loaded.save_pretrained(folder)
        part = settings_of(folder)["parts"]["fine_grained"]
        assert part["path"] == "fine_grained"
        assert len(part["fingerprint"]) == 12
        again = FineGrainedScorer.from_pretrained(folder / "fine_grained", loaded.scorer)
        for name, weight in fine.heads.state_dict().items():
            assert torch.equal(again.heads.state_dict()[name], weight)
    Captioner.from_pretrained(saved).save_pretrained(tmp_path / "third")
    assert settings_of(tmp_path / "third")["parts"] == settings_of(saved)["parts"]
    shutil.rmtree(saved / "fine_grained")
    with pytest.raises(BadModel, match="names a fine_grained in fine_grained, which is not there"):
        Captioner.from_pretrained(saved)
    with pytest.raises(BadModel, match="expected the captioner's fine-grained part at"):
        loaded.save_pretrained(tmp_path / "fourth")
    assert not (tmp_path / "fourth").exists()


def test_a_folder_is_written_through_a_link_and_from_within_itself(captioner, saved, tmp_path, monkeypatch):
    os.symlink(saved, tmp_path / "link")
    (saved / "README.md").write_text("card")
    captioner.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    monkeypatch.chdir(saved)
    captioner.save_pretrained(".")
    assert os.path.samefile(".", saved)
    assert sorted(os.listdir(".")) == ["README.md", "language_model", SETTINGS_FILE, "memory", "scorer"]


def test_what_cannot_be_written_is_one_sentence(captioner, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadSettings, match=r"cannot be written .* name another folder"):
            captioner.save_pretrained(folder)
    assert os.listdir(tmp_path) == ["file"]


def test_who_may_read_the_folder_may_read_its_weights(saved, tmp_path):
    tiny.supervised().save_pretrained(tmp_path / "supervised")
    for folder in (saved, tmp_path / "supervised"):
        modes = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
        assert len(modes) == 1


def test_a_part_outside_the_folder_is_refused(saved):
    for path in ("/etc/passwd", "../it/scorer", "scorer/../../it"):
        rewrite(saved, parts={"scorer": {"path": path, "fingerprint": ""}})
        with pytest.raises(BadModel, match="inside the folder"):
            read_settings(saved)
    assert Part("scorer").fingerprint == ""


def test_a_captioner_pickles(captioner):
    captioner.cache.start(4)
    twin = pickle.loads(pickle.dumps(captioner))
    assert (len(captioner.cache), len(twin.cache)) == (1, 0)
    assert twin.decoding == captioner.decoding
    assert twin.fingerprint == captioner.fingerprint
    assert twin.caption(PICTURES) == captioner.caption(PICTURES)


def test_a_supervised_captioner_pickles():
    supervised = tiny.supervised()
    twin = pickle.loads(pickle.dumps(supervised))
    assert twin.fingerprint == supervised.fingerprint
    assert twin.caption(PICTURES) == supervised.caption(PICTURES)


def test_damaged_weights_are_refused_whatever_the_settings_name(saved):
    weights = saved / "scorer" / "open_clip_model.safetensors"
    state = load_file(weights)
    state.popitem()
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(BadModel):
        Captioner.from_pretrained(saved)
