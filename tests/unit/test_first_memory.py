"""A memory is sampled for two models that have none: once, resumed where it was stopped, grown from there."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event, Thread
from time import sleep

import pytest
import tiny
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from magicap import BadModel, BadSettings, BeamMagicSearch, Captioner, MagicSearch
from magicap.captioners import first_memory as module
from magicap.retrieval import sampled_captions


@pytest.fixture
def parts(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Folders of a language model and of a scorer, beside a cache of their own."""
    monkeypatch.setenv("MAGICAP_CACHE", str(tmp_path / "cache"))
    for place in (module, sampled_captions):
        monkeypatch.setattr(place, "BATCH", 50)
    captioner = tiny.captioner()
    language_model = captioner.language_model
    likely = int(language_model.probabilities(language_model.start().last).topk(2).indices[0, 1])
    embeddings = language_model.model.get_input_embeddings().weight
    with torch.no_grad():  # the head has them too: the model now likes to end
        embeddings[[language_model.end_id, likely]] = embeddings[[likely, language_model.end_id]]
    captioner.save_pretrained(tmp_path / "captioner")
    return tmp_path / "captioner" / "language_model", tmp_path / "captioner" / "scorer"


def test_a_stopped_memory_goes_on_and_is_sampled_once(parts, tmp_path, monkeypatch):
    sampled = []

    def counted(*arguments):
        sampled.append(None)
        return sample(*arguments)

    def interrupted(*arguments):
        if sampled:
            raise KeyboardInterrupt
        return counted(*arguments)

    sample = module.sample_batch
    monkeypatch.setattr(module, "sample_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Captioner.from_parts(*parts, memory=60)
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")
    written = kept.read_bytes()
    monkeypatch.setattr(module, "sample_batch", counted)

    captioner = Captioner.from_parts(*parts, memory=60)
    assert kept.read_bytes() == written
    assert len(set(captioner.memory.texts)) == len(captioner.memory) == 60
    assert isinstance(captioner.decoding, BeamMagicSearch)
    assert captioner.caption(tiny.pictures(1)[0])

    so_far = len(sampled)
    again = Captioner.from_parts(*parts, memory=60)
    assert len(sampled) == so_far
    assert list(again.memory.texts) == list(captioner.memory.texts)
    assert again.decoding == captioner.decoding
    grown = Captioner.from_parts(*parts, memory=80)
    assert list(grown.memory.texts[:60]) == list(captioner.memory.texts)


def test_none_is_sampled_where_none_is_wanted(parts, tmp_path):
    captioner = Captioner.from_parts(*parts, memory=0)
    assert captioner.memory is None
    assert isinstance(captioner.decoding, MagicSearch)
    assert not (tmp_path / "cache").exists()


def test_a_captioner_with_a_memory_refuses_the_size_of_one():
    with pytest.raises(BadSettings, match=r"--memory.*embedded has a memory of its own"):
        Captioner.from_pretrained(memory=100)


def test_another_scorer_leaves_the_presets_soft_prompt_behind(parts):
    assert Captioner.from_parts(scorer=parts[1], memory=0).language_model.soft_prompt is None


def test_a_scorer_without_a_tag_is_told_of_one():
    with pytest.raises(BadSettings, match=r"name a tag: ViT-B-32:openai$"):
        Captioner.from_parts(scorer="ViT-B-32")


@pytest.mark.parametrize("names", [("", None), (None, "")])
def test_an_empty_name_is_refused(names):
    with pytest.raises(BadSettings, match=r"expected .*, found an empty name"):
        Captioner.from_parts(*names)


def test_a_damaged_batch_is_named(parts, tmp_path):
    Captioner.from_parts(*parts, memory=20)
    batch = min((tmp_path / "cache").rglob("*.safetensors"))
    batch.write_bytes(b"no weights")
    with pytest.raises(BadModel, match=f"{batch.name} holds no captions"):
        Captioner.from_parts(*parts, memory=20)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "magic"}', '{"kind": "beam_magic", "x": 1}'])
def test_a_broken_calibration_is_made_anew(parts, tmp_path, content):
    expected = Captioner.from_parts(*parts, memory=20).decoding
    (path,) = (tmp_path / "cache").rglob("decoding-20.json")
    whole = path.read_text()
    path.write_text(content)
    assert Captioner.from_parts(*parts, memory=20).decoding == expected
    assert path.read_text() == whole


@pytest.mark.parametrize(
    ("texts", "shape"), [(["a", 1], (2, 32)), (["a"], (2, 32)), (["a"], (1, 7)), ("a", (1, 32))]
)
def test_a_foreign_batch_is_named(parts, tmp_path, texts, shape):
    Captioner.from_parts(*parts, memory=20)
    batch = min((tmp_path / "cache").rglob("*.safetensors"))
    save_file({"vectors": torch.zeros(shape)}, batch, metadata={"texts": json.dumps(texts)})
    with pytest.raises(BadModel, match=f"{batch.name}: expected captions"):
        Captioner.from_parts(*parts, memory=20)


def test_a_whole_memory_is_read_without_writing(parts, monkeypatch):
    Captioner.from_parts(*parts, memory=20)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(Captioner.from_parts(*parts, memory=20).memory) == 20
    with pytest.raises(BadSettings, match=r"cannot be written \(Read-only file system\).*MAGICAP_CACHE"):
        Captioner.from_parts(*parts, memory=80)


def test_a_full_disk_is_said(parts, tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(BadSettings, match=r"cache.*\(No space left on device\).*MAGICAP_CACHE"):
        Captioner.from_parts(*parts, memory=20)


def test_a_model_of_few_captions_is_sampled_once(parts, monkeypatch, caplog):
    monkeypatch.setattr(module, "sample_batch", lambda *_: ["a cat", "a dog"])
    assert list(Captioner.from_parts(*parts, memory=20).memory.texts) == ["a cat", "a dog"]
    monkeypatch.setattr(module, "sample_batch", None)
    caplog.clear()
    assert len(Captioner.from_parts(*parts, memory=30).memory) == 2
    assert not caplog.records


def test_int8_has_a_memory_of_its_own(parts, tmp_path):
    for dtype in ("float32", "int8"):
        Captioner.from_parts(*parts, memory=20, dtype=dtype)
    names = sorted(folder.name for folder in (tmp_path / "cache" / "memories").iterdir())
    assert [name.count("int8") for name in names] == [0, 2]


def test_waiting_for_another_process_is_said(parts, tmp_path, caplog):
    Captioner.from_parts(*parts, memory=20)
    (folder,) = (tmp_path / "cache" / "memories").iterdir()
    held = Event()

    def hold():
        with FileLock(folder / module.LOCK):
            held.set()
            while not any(message.startswith("waiting for") for message in caplog.messages):
                sleep(0.05)

    other = Thread(target=hold, daemon=True)
    other.start()
    held.wait()
    caplog.clear()
    Captioner.from_parts(*parts, memory=80)
    other.join()
    assert "waiting for another process" in caplog.messages[0]


def test_another_language_model_keeps_the_presets_memory(parts):
    captioner = Captioner.from_parts(parts[0])
    assert len(captioner.memory) > 200_000
    assert not captioner.decoding.soft_prompt
    assert captioner.language_model.width == 32
