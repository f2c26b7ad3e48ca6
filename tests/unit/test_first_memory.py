"""A memory is sampled for two models that have none: once, resumed where it was stopped, grown from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

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
    with pytest.raises(BadSettings, match="memory of its own"):
        Captioner.from_pretrained(memory=100)


def test_a_damaged_batch_is_named(parts, tmp_path):
    Captioner.from_parts(*parts, memory=20)
    batch = min((tmp_path / "cache").rglob("*.safetensors"))
    batch.write_bytes(b"no weights")
    with pytest.raises(BadModel, match=f"{batch.name} holds no captions"):
        Captioner.from_parts(*parts, memory=20)


def test_another_language_model_keeps_the_presets_memory(parts):
    captioner = Captioner.from_parts(parts[0])
    assert len(captioner.memory) > 200_000
    assert not captioner.decoding.soft_prompt
    assert captioner.language_model.width == 32
