"""What tests of recipes share: a small data set, and a tokenizer learned from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from captioned_pictures import captioned_pictures
from repository import recipe
from tiny import SENTENCES


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return captioned_pictures(tmp_path_factory.mktemp("data"), lambda number: SENTENCES)


@pytest.fixture(scope="module")
def tokenizer(data, tmp_path_factory) -> Path:
    train = recipe("train_tokenizer")
    out = tmp_path_factory.mktemp("tokenizer")
    train.main(train.Config(text=[str(data / "captions.jsonl")], out=str(out), vocabulary_size=300))
    return out
