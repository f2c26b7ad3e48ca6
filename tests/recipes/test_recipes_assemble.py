"""assemble_captioner.py: a fine-grained part goes along, and some parts are written alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from repository import recipe
from tiny import SENTENCES

from magicap import Captioner, CaptionMemory, ImageTextScorer
from magicap.captioners.saving import folder_fingerprint
from magicap.errors import BadModel, BadSettings, ModelNotFound
from magicap.models.fine_grained.local_features import FineGrainedSettings
from magicap.models.fine_grained.scorer import FineGrainedScorer

assemble = recipe("assemble_captioner")


@pytest.fixture
def parts(tmp_path) -> dict[str, str]:
    """A language model, and a scorer in the precision in which it is to be stored."""
    tiny.language_model(tiny.word_tokenizer()).save_pretrained(tmp_path / "words")
    tiny.scorer().save_pretrained(tmp_path / "scorer", dtype=torch.float16)
    return {"language_model": str(tmp_path / "words"), "scorer": str(tmp_path / "scorer")}


def fine_grained(scorer: str | ImageTextScorer, folder: Path) -> Path:
    scorer = ImageTextScorer.from_pretrained(scorer) if isinstance(scorer, str) else scorer
    FineGrainedScorer(scorer, FineGrainedSettings(width=6, hidden=8)).save_pretrained(folder)
    return folder


def test_projections_go_along_with_their_fingerprint_and_stay(parts, tmp_path):
    fine = fine_grained(parts["scorer"], tmp_path / "fine")
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "it"), fine_grained=str(fine)))
    stored = json.loads((tmp_path / "it" / "magicap.json").read_text())["parts"]["fine_grained"]
    assert stored == {"path": "fine_grained", "fingerprint": folder_fingerprint(fine)}
    captioner = Captioner.from_pretrained(tmp_path / "it")
    FineGrainedScorer.from_pretrained(tmp_path / "it" / "fine_grained", captioner.scorer)
    captioner.save_pretrained(tmp_path / "again")
    assert folder_fingerprint(tmp_path / "again" / "fine_grained") == folder_fingerprint(fine)


def test_projections_of_another_scorer_are_refused_and_nothing_is_written(parts, tmp_path):
    config = assemble.Config(**parts, out=str(tmp_path / "it"), fine_grained=str(tmp_path / "fine"))
    with pytest.raises(ModelNotFound, match="fine: expected a fine-grained scorer"):
        assemble.main(config)
    for other in (tiny.scorer(seed=1), tiny.scorer()):  # another, and the same before it was rounded
        fine_grained(other, tmp_path / "fine")
        with pytest.raises(BadModel, match=r"fine: expected the scorer .* that it was trained on, found"):
            assemble.main(config)
    assert not (tmp_path / "it").exists()


def test_some_parts_are_written_alone(parts, tmp_path):
    memory_file = tmp_path / "memory.txt"
    memory_file.write_text("\n".join(SENTENCES))
    config = assemble.Config(
        scorer=parts["scorer"],
        base="no captioner is loaded where no language model is asked for",
        out=str(tmp_path / "it"),
        parts=["scorer", "memory"],
        memory_text=[str(memory_file)],
    )
    assemble.main(config)
    assert sorted(path.name for path in (tmp_path / "it").iterdir()) == ["memory", "scorer"]
    assert len(CaptionMemory.from_pretrained(tmp_path / "it" / "memory")) == len(SENTENCES)
    scorer = ImageTextScorer.from_pretrained(tmp_path / "it" / "scorer")
    assert scorer.fingerprint == ImageTextScorer.from_pretrained(parts["scorer"]).fingerprint


def test_a_language_model_is_a_part_too(parts, tmp_path):
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "it"), parts=["language_model"]))
    assert [path.name for path in (tmp_path / "it").iterdir()] == ["language_model"]


def test_parts_that_cannot_be_are_refused(parts, tmp_path):
    with pytest.raises(BadSettings, match="--parts are some of language_model, scorer, memory, found 'eyes'"):
        assemble.Config(**parts, out="x", parts=["eyes"])
    with pytest.raises(BadSettings, match="leave --parts out"):
        assemble.Config(**parts, out="x", parts=["scorer"], fine_grained="y")
    with pytest.raises(BadSettings, match="--parts memory needs captions"):
        assemble.main(assemble.Config(**parts, out=str(tmp_path / "it"), parts=["memory"]))


def test_a_memory_that_was_interrupted_is_gone_on_with(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "BLOCK", 1)
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    options = {**parts, "memory_text": [str(tmp_path / "text.txt")], "cpu": True}
    assemble.main(assemble.Config(**options, out=str(tmp_path / "whole")))
    encode = ImageTextScorer.encode_texts

    def interrupted(scorer: ImageTextScorer, texts: list[str]) -> torch.Tensor:
        if texts == [SENTENCES[2]]:
            raise KeyboardInterrupt
        return encode(scorer, texts)

    config = assemble.Config(**options, out=str(tmp_path / "it"))
    monkeypatch.setattr(ImageTextScorer, "encode_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assemble.main(config)
    monkeypatch.setattr(ImageTextScorer, "encode_texts", encode)
    assert len(list((tmp_path / "it" / assemble.KEPT).glob("vectors-*.pt"))) == 2
    assemble.main(config)
    assert not (tmp_path / "it" / assemble.KEPT).exists()
    assert folder_fingerprint(tmp_path / "it" / "memory") == folder_fingerprint(tmp_path / "whole" / "memory")
