"""What tests of recipes share: a small data set, and a tokenizer learned from it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import recipe
from tiny import SENTENCES


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve captioned pictures: eight to train on, four to validate with."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "images.tar", "w") as tar, open(folder / "captions.jsonl", "w") as captions:
        for number in range(12):
            encoded = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8)).save(encoded, "JPEG")
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = encoded.tell()
            encoded.seek(0)
            tar.addfile(member, encoded)
            row = {"image": member.name, "split": "train" if number < 8 else "dev", "captions": SENTENCES}
            captions.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(data, tmp_path_factory) -> Path:
    train = recipe("train_tokenizer")
    out = tmp_path_factory.mktemp("tokenizer")
    train.main(train.Config(text=[str(data / "captions.jsonl")], out=str(out), vocabulary_size=300))
    return out
