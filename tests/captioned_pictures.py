"""A small data set of captioned pictures, as recipes read them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def captioned_pictures(
    folder: Path, captions_of: Callable[[int], list[str]], train: int = 8, dev: int = 4
) -> Path:
    """Captioned pictures of noise, to train on and to validate with."""
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "images.tar", "w") as tar, open(folder / "captions.jsonl", "w") as captions:
        for number in range(train + dev):
            encoded = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8)).save(encoded, "JPEG")
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = encoded.tell()
            encoded.seek(0)
            tar.addfile(member, encoded)
            split = "train" if number < train else "dev"
            row = {"image": member.name, "split": split, "captions": captions_of(number)}
            captions.write(json.dumps(row) + "\n")
    return folder
