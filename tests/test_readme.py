"""What the README shows is run as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicap import Captioner
from magicap.presets import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the README names, and its hub preset standing in for itself."""
    for name in ("photo.jpg", "a.jpg", "holiday/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / "docs" / "sample.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "coco", PRESETS["embedded"])  # this machine may have no network
    return tmp_path


def test_the_python_of_the_readme_runs(desk, capsys):
    Captioner.from_pretrained().save_pretrained("mine")
    picture = Image.open("a.jpg")
    names = {"pil_image": picture, "array": np.asarray(picture), "paths": ["a.jpg"], "pictures": [picture]}
    for block in blocks("python"):
        exec(block, names)
    assert names["captioner"].caption("photo.jpg") in capsys.readouterr().out.splitlines()


def test_every_recipe_of_the_readme_explains_itself():
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("python ")]
    assert len(commands) == len(list((ROOT / "recipes").glob("*.py")))
    running = []
    for command in commands:
        words = shlex.split(command, comments=True)
        running.append(
            subprocess.Popen([sys.executable, *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        )
    for process in running:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert "--out" in out


def test_the_command_line_of_the_readme_runs(desk):
    commands = [
        line for block in blocks("bash") for line in block.splitlines() if line.startswith("magicap ")
    ]
    assert commands
    for command in commands:
        words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-m", "magicap.cli", *words[1:]], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 2


def test_what_the_readme_links_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
