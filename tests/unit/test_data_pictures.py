"""Encoded pictures by name: tar files and folders answer alike, and nothing outside them is read."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from magicap.data import ImageFiles, read_captions
from magicap.errors import BadData, ImageNotFound


def make_folder(folder: Path, names: list[str]) -> Path:
    """Files whose bytes are their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def make_tar(path: Path, names: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            tar.addfile(info, io.BytesIO(name.encode()))
    return path


@pytest.fixture(params=["tar", "folder"])
def make(request, tmp_path):
    """Make a tar file or a folder of some pictures."""
    if request.param == "tar":
        return lambda name, pictures: make_tar(tmp_path / f"{name}.tar", pictures)
    return lambda name, pictures: make_folder(tmp_path / name, pictures)


def test_pictures_are_read_by_name_from_several_places(make):
    images = ImageFiles([make("one", ["one.jpg"]), make("two", ["two.JPG", "deep/er/three.png"])])
    assert set(images) == {"one.jpg", "two.JPG", "deep/er/three.png"}
    assert len(images) == 3
    assert images.read("two.JPG") == b"two.JPG"
    for name in ("deep/er/three.png", "er/three.png", "three.png", "./deep/er/three.png"):
        assert name in images
        assert images.read(name) == b"deep/er/three.png"


def test_tar_files_and_folders_go_together_and_one_path_needs_no_list(tmp_path):
    tar, folder = make_tar(tmp_path / "a.tar", ["a.jpg"]), make_folder(tmp_path / "b", ["b.jpg"])
    assert set(ImageFiles([str(tar), folder, str(folder)])) == {"a.jpg", "b.jpg"}
    assert list(ImageFiles(str(folder))) == list(ImageFiles(folder)) == ["b.jpg"]


def test_a_missing_picture_is_named_with_the_places_searched(make):
    path = make("one", ["one.jpg"])
    images = ImageFiles([path])
    assert "three.jpg" not in images
    with pytest.raises(KeyError, match=r"expected one picture 'three.jpg', found none among 1 pic") as caught:
        images.read("three.jpg")
    assert isinstance(caught.value, ImageNotFound)
    assert str(caught.value).startswith(str(path))


def test_another_folders_picture_of_the_same_name_is_never_taken(make):
    images = ImageFiles([make("set", ["val/0001.png", "test/0001.png", "val/0002.png"])])
    assert images.read("test/0001.png") == b"test/0001.png"
    for name, message in (
        ("train/0001.png", r"found val/0001.png, test/0001.png|found test/0001.png, val/0001.png"),
        ("train/0002.png", r"found val/0002.png; give the tar"),
        ("0001.png", r"name it by its path"),
        ("2.png", r"found none"),
    ):
        assert name not in images
        with pytest.raises(ImageNotFound, match=message):
            images.read(name)


def test_a_folder_given_itself_still_counts_in_the_name(tmp_path):
    make_folder(tmp_path, ["set/val/0001.png", "set/train/0001.png"])
    images = ImageFiles([tmp_path / "set" / "val"])
    assert images.read("val/0001.png") == images.read("0001.png") == b"set/val/0001.png"
    assert "train/0001.png" not in images


def test_one_name_in_two_places_is_refused(make):
    places = [make("one", ["a.jpg", "b.jpg"]), make("two", ["b.jpg"])]
    with pytest.raises(BadData, match=r"each name once, found 'b.jpg' in .*one.* and in .*two"):
        ImageFiles(places)


def test_only_pictures_count(make):
    images = ImageFiles([make("set", ["a.jpg", "metadata.jsonl", "._a.jpg", "a.txt"])])
    assert list(images) == ["a.jpg"]
    with pytest.raises(BadData, match="expected pictures, found none"):
        ImageFiles([make("empty", ["a.txt"])])
    with pytest.raises(BadData, match="no path: expected pictures"):
        ImageFiles([])


def test_tars_are_closed_at_the_end_of_a_with_block(tmp_path):
    with ImageFiles([make_tar(tmp_path / "one.tar", ["one.jpg"])]) as images:
        assert images.read("one.jpg") == b"one.jpg"
    with pytest.raises(OSError, match="closed"):
        images.read("one.jpg")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes_read_what_their_parent_reads(tmp_path, mode, method):
    names = [f"{number:03}.jpg" for number in range(40)]
    images = ImageFiles([make_tar(tmp_path / "a.tar", names, mode), make_folder(tmp_path / "b", ["b.jpg"])])
    names = ["b.jpg", *random.Random(0).sample(names, len(names))]
    images.read(names[1])  # the parent has read already, and goes on while the workers do
    loader = DataLoader(
        names, batch_size=2, num_workers=2, collate_fn=Readings(images), multiprocessing_context=method
    )
    seen = []
    for batch in loader:
        assert images.read(batch[0][0]) == batch[0][0].encode()
        seen += batch
    assert seen == [(name, name.encode()) for name in names]


class Readings:
    """From names to names and what is read under them; sent to spawned processes by pickle."""

    def __init__(self, images: ImageFiles) -> None:
        self.images = images

    def __call__(self, names: list[str]) -> list[tuple[str, bytes]]:
        return [(name, self.images.read(name)) for name in names]


def test_threads_read_a_plain_tar_together(tmp_path):
    names = [f"{number:03}.jpg" for number in range(200)]
    images = ImageFiles([make_tar(tmp_path / "a.tar", names)])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, names)) == [name.encode() for name in names]


def test_a_copy_made_by_pickle_closes_what_it_opened_and_nothing_else(tmp_path):
    images = ImageFiles([make_tar(tmp_path / "one.tar", ["one.jpg"])])
    with pickle.loads(pickle.dumps(images)) as copy:
        assert copy.read("one.jpg") == b"one.jpg"
    with pytest.raises(OSError, match="closed"):
        copy.read("one.jpg")
    assert images.read("one.jpg") == b"one.jpg"


def test_a_tar_cut_short_after_it_was_opened_is_named(tmp_path):
    path = make_tar(tmp_path / "a.tar", ["a.jpg"])
    images = ImageFiles([path])
    os.truncate(path, 514)
    with pytest.raises(BadData, match=r"a.tar: expected 'a.jpg' whole, found the end of the file"):
        images.read("a.jpg")


def test_sparse_files_of_a_tar_are_read_with_their_holes(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"picture")
    done = subprocess.run(
        ["tar", "--sparse", "-cf", "a.tar", "a.jpg"], cwd=tmp_path, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this tar writes no sparse files")
    assert ImageFiles([tmp_path / "a.tar"]).read("a.jpg") == (tmp_path / "a.jpg").read_bytes()


def test_a_file_that_is_no_tar_or_cut_short_is_refused(tmp_path):
    whole = make_tar(tmp_path / "a.tar", ["a.jpg", "b.jpg"]).read_bytes()
    for name, content in (("text.tar", b"no tar"), ("cut.tar", whole[:1540])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadData, match=rf"{name}: expected a tar file or a folder, found"):
            ImageFiles([tmp_path / "a.tar", tmp_path / name])
    with pytest.raises(BadData, match="No such file"):
        ImageFiles([tmp_path / "none.tar"])


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "b/../../a.jpg"])
def test_a_tar_whose_names_lead_out_is_refused(tmp_path, name):
    with pytest.raises(BadData, match="names that stay inside"):
        ImageFiles([make_tar(tmp_path / "a.tar", [name])])


def test_links_in_a_tar_are_left_out(tmp_path):
    make_tar(tmp_path / "a.tar", ["a.jpg"])
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert list(ImageFiles([tmp_path / "a.tar"])) == ["a.jpg"]


def test_nothing_outside_a_folder_is_read(tmp_path):
    folder = make_folder(tmp_path / "in", ["a.jpg", "sub/b.jpg"])
    secret = make_folder(tmp_path / "out", ["secret.jpg"])
    (folder / "link.jpg").symlink_to(secret / "secret.jpg")
    (folder / "linked").symlink_to(secret)
    (folder / "own.jpg").symlink_to("sub/b.jpg")
    os.mkfifo(folder / "pipe.jpg")
    images = ImageFiles([folder])
    assert images.read("own.jpg") == b"sub/b.jpg"
    with pytest.raises(BadData, match=r"'link.jpg' to lie inside, found a link to .*secret.jpg"):
        images.read("link.jpg")
    with pytest.raises(BadData, match="no plain file"):
        images.read("pipe.jpg")
    for name in (
        "../out/secret.jpg",
        str(secret / "secret.jpg"),
        "linked/secret.jpg",
        "in/../a.jpg",
        "",
        ".",
    ):
        assert name not in images
        with pytest.raises(ImageNotFound):
            images.read(name)


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    folder = make_folder(tmp_path / "in", ["a.jpg"])
    (tmp_path / "link").symlink_to(folder)
    assert ImageFiles([tmp_path / "link"]).read("a.jpg") == b"a.jpg"


NAMES = st.lists(
    st.lists(st.text("ab é.", min_size=1).filter(lambda t: not t.startswith(".")), min_size=1, max_size=3),
    min_size=1,
    unique_by=tuple,
)


@given(NAMES)
def test_a_tar_and_a_folder_of_the_same_pictures_answer_alike(tmp_path_factory, names):
    files = ["/".join((*above, f"{last}.png")) for *above, last in names]
    folder = make_folder(tmp_path_factory.mktemp("folder"), files)
    tar = make_tar(tmp_path_factory.mktemp("tar") / "a.tar", files)
    one, other = ImageFiles([tar]), ImageFiles([folder])
    assert set(one) == set(other) == set(files)
    for name in {*files, *(name.rsplit("/", 1)[-1] for name in files)}:
        assert (name in one) == (name in other)
        if name in one:
            assert one.read(name) == other.read(name)


def test_the_real_pictures_have_the_names_of_their_rows(data_dir):
    with ImageFiles([data_dir / "coco" / "images-val.tar", data_dir / "coco" / "images-train.tar"]) as images:
        rows = read_captions(data_dir / "coco")
        assert {row.image for row in rows} == set(images)
        assert images.read(rows[0].image).startswith(b"\xff\xd8")
