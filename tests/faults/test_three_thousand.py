"""Three thousand pictures through the default captioner: memory stays flat, and nothing is left behind."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import pytest

from magicap import Captioner
from magicap.data import ImageFiles

PICTURES, EVERY = 3000, 250
WARM_UP = 1500
"""Pictures after which the prefix cache has been full for a while."""


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_three_thousand_pictures_leave_memory_flat_and_nothing_behind(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    captioner = Captioner.from_pretrained()
    with ImageFiles([data_dir / "flickr8k" / "images-train.tar"]) as pictures:
        names = list(itertools.islice(pictures, PICTURES))
        opened, memory = len(os.listdir("/proc/self/fd")), []
        captions = captioner.caption((pictures.read(name) for name in names), batch_size=16)
        for number, caption in enumerate(captions, start=1):
            assert caption.error is None
            if number % EVERY == 0:
                memory.append(resident())
                print(f"{number} pictures: {memory[-1] / 1e6:.0f} MB")
        assert number == PICTURES
        assert len(os.listdir("/proc/self/fd")) == opened
    warm = memory[WARM_UP // EVERY - 1 :]
    assert max(warm) < 1.05 * warm[0]
    assert list(tmp_path.iterdir()) == []
