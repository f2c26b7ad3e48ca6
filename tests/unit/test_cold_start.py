"""What a fresh process imports before its first caption: libraries that take seconds come on demand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from repository import ROOT

HEAVY = (
    "transformers",
    "open_clip",
    "timm",
    "torchvision",
    "torch._dynamo",
    "scipy",
    "datasets",
    "matplotlib",
)
PICTURE = ROOT / "docs" / "sample.jpg"


def imported(program: str) -> list[str]:
    """Which of HEAVY are imported in a process that has run a program."""
    ending = f"\nimport json, sys; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program + ending], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            f"from magicap import caption; assert caption({str(PICTURE)!r})", marks=pytest.mark.slow
        ),
        f"from magicap.cli import main; assert main(['caption', '--json', {str(PICTURE)!r}]) == 0",
        pytest.param(
            "from magicap import Captioner; import copy, pickle\n"
            "captioner = Captioner.from_pretrained(); copy.deepcopy(captioner.language_model)\n"
            "scorer = pickle.loads(pickle.dumps(captioner.scorer))\n"
            f"assert len(scorer.encode_images([{str(PICTURE)!r}])) == 1",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["caption", "command", "copies"],
)
def test_the_embedded_captioner_needs_neither_transformers_nor_open_clip(program):
    assert imported(program) == []


@pytest.mark.parametrize(
    ("asked", "library"), [("language_model.tokenizer", "transformers"), ("scorer.preprocess", "open_clip")]
)
@pytest.mark.slow
def test_they_are_imported_when_something_of_theirs_is_asked_for(asked, library):
    program = f"from magicap import Captioner; Captioner.from_pretrained().{asked}"
    assert library in imported(program)
