"""What docs/video.md shows is run as it stands, on clips that are made of the package's own pictures."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from clips import steady, write_clip
from command import magicap
from PIL import Image
from repository import DOCS

pytest.importorskip("av", reason="the extra video is not installed")
PAGE = (DOCS / "video.md").read_text(encoding="utf-8")
PICTURES = ("astronaut", "cat", "coffee")


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with a picture, and a clip that shows three photographs, alone and in another folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(DOCS / "sample.jpg", "photo.jpg")
    pictures = [
        Image.open(DOCS / "pictures" / f"{name}.jpg").convert("RGB").resize((320, 240)) for name in PICTURES
    ]
    write_clip(tmp_path / "clip.mp4", steady(pictures, [3, 2.5, 4]), codec="libx264")
    Path("clips").mkdir()
    shutil.copyfile("clip.mp4", "clips/dogs.mp4")
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page_run(desk):
    block = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[0]
    lines = [
        shlex.split(line.partition(" #")[0]) for line in block.splitlines() if line.startswith("magicap")
    ]
    assert len(lines) == 4
    ended = [magicap(*words[1:]) for words in lines]
    assert [one.code for one in ended] == [0] * 4, ended
    scenes = [line.split("\t") for line in ended[0].out.splitlines()]
    assert [line[1] for line in scenes] == ["00:00:03.000", "00:00:05.500", "00:00:09.500"]
    assert "cat" in scenes[1][2]
    assert Path("subtitles/clip.srt").read_text().count(" --> ") == 3
    assert "clips/dogs.mp4#t=" in ended[3].out
    found = magicap("search", "a cup of coffee", "--index", "clips", "--top", "1", "--json")
    assert 5.5 <= json.loads(found.out)["time"] < 9.5


@pytest.mark.slow
def test_the_python_of_the_page_runs(desk):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert names["match"].item.path
