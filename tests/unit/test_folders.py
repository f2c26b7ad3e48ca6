"""Which files of a folder are listed as pictures, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import as_nobody, refused
from PIL import Image

from magicap.images.folders import find_images
from magicap.images.formats import FORMATS, SUFFIXES


def test_folders_are_walked_in_natural_order(tmp_path: Path) -> None:
    names = ["b10.jpg", "b9.PNG", "a/2.webp", "a/10.gif", "a/deep/x.tiff", "B1.jpeg"]
    skipped = ["notes.txt", ".hidden.jpg", ".git/x.jpg", "a/.x/y.jpg", "x.pdf", "x.py", "jpg"]
    for name in names + skipped:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])]
    assert found == ["a/2.webp", "a/10.gif", "a/deep/x.tiff", "B1.jpeg", "b9.PNG", "b10.jpg"]
    assert list(find_images(tmp_path)) == list(find_images(str(tmp_path)))
    assert list(find_images(tmp_path / "empty")) == []


def test_paths_that_are_no_folder_stay_as_given(tmp_path: Path) -> None:
    odd = [
        tmp_path / "notes.txt",
        Path("missing.jpg"),
        Path(".hidden.png"),
        Path("a\0b"),
        tmp_path / "notes.txt",
    ]
    odd[0].touch()
    assert list(find_images(odd)) == odd
    assert list(find_images([])) == []


def test_loops_of_links_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "x.jpg").symlink_to("x.jpg")
    assert list(find_images(tmp_path)) == [tmp_path / "a" / "1.jpg", tmp_path / "x.jpg"]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_of_an_accepted_format(suffix: str) -> None:
    assert Image.registered_extensions()[suffix] in FORMATS


def test_unreadable_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0)
    with as_nobody(tmp_path), refused("unreadable", "folder"):
        list(find_images(tmp_path / "folder"))
    (tmp_path / "folder").chmod(0o755)  # so that it can be cleared away
