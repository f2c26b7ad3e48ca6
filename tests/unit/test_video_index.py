"""Videos in an index: a sentence or a picture finds the moment, and unchanged videos are not read again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import tiny
from clips import pattern, steady, write_clip
from pyarrow import parquet

from magicap import BadImage, BadIndex, MissingPackage, RetrievalIndex
from magicap.cli import main
from magicap.retrieval import moments

pytest.importorskip("av", reason="the extra video is not installed")


@pytest.fixture(scope="module")
def scorer():
    return tiny.scorer(seed=0)


@pytest.fixture
def album(tmp_path, monkeypatch) -> Path:
    """A folder with two pictures and a video of two scenes, which the folder we are in holds."""
    folder = tmp_path / "album"
    folder.mkdir()
    pattern(3).save(folder / "c.png")
    pattern(4).save(folder / "d.png")
    write_clip(folder / "clip.mp4", steady([pattern(1), pattern(2)], [2, 2]))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def run(capsys, preset):
    """A command with a tiny captioner: exit code, stdout, stderr."""

    def run(command: str, *words: str):
        code = main([command, *map(str, words), *(["--preset", preset] if command == "index" else [])])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return run


def files(album: Path) -> list[Path]:
    return sorted(path for path in album.iterdir() if path.is_file())


def test_a_picture_finds_the_moment(scorer, album):
    index = RetrievalIndex(scorer)
    changes = index.update_images(files(album), every=0.5)
    assert (changes.added, changes.kept, changes.dropped, changes.failed) == (10, 0, 0, 0)
    assert [item.time for item in index.items if item.time is not None] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    for number, after in ((1, 0), (2, 2)):
        match = index.search_images([pattern(number)], 1)[0][0]
        assert Path(str(match.item.path)).name == "clip.mp4"
        assert after <= match.item.time < after + 2
        assert match.cosine > 0.8


def test_unchanged_videos_are_not_read_again(scorer, album, monkeypatch, tmp_path):
    index = RetrievalIndex(scorer)
    index.update_images(files(album))
    index.save(tmp_path / "index")
    index = RetrievalIndex.load(tmp_path / "index", scorer)
    before, vectors = list(index.items), index.vectors
    monkeypatch.setattr(moments, "encode_video", lambda *_: pytest.fail("a video was read"))
    changes = index.update_images(files(album))
    assert (changes.added, changes.kept, changes.dropped) == (0, 6, 0)
    assert index.items == before
    assert index.vectors.equal(vectors)
    changes = index.update_images([album / "c.png"])
    assert (changes.kept, changes.dropped, len(index)) == (1, 5, 1)


def test_changed_videos_and_other_samples_are_read_anew(scorer, album):
    index = RetrievalIndex(scorer)
    index.update_images(files(album))
    assert index.update_images(files(album), every=2).dropped == 4
    assert [item.time for item in index.items if item.time is not None] == [0, 2]
    os.utime(album / "clip.mp4", ns=(1, 1))
    changes = index.update_images(files(album), every=2)
    assert (changes.added, changes.kept, changes.dropped) == (2, 2, 2)


def test_a_broken_video_fails_alone_and_one_that_was_stopped_is_left_out(scorer, album, monkeypatch):
    (album / "a.mkv").write_bytes(b"no video")
    index, errors = RetrievalIndex(scorer), []
    assert index.update_images(files(album), on_error=errors.append).failed == 1
    assert [error.code for error in errors] == ["format"]
    assert len(index) == 6
    with pytest.raises(BadImage, match=r"a\.mkv"):
        index.update_images(files(album))

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(moments, "encode_video", stopped)
    index = RetrievalIndex(scorer)
    with pytest.raises(KeyboardInterrupt):
        index.update_images([album / "c.png", album / "clip.mp4"])
    assert [Path(str(item.path)).name for item in index.items] == ["c.png"]


def test_an_index_of_pictures_is_written_as_before(scorer, album, tmp_path):
    index = RetrievalIndex(scorer)
    index.update_images([album / "c.png"])
    index.save(tmp_path / "index")
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    assert header["magicap_index"] == 1
    names = parquet.read_schema(tmp_path / "index" / header["items"]).names
    assert names == ["path", "path_bytes", "size", "mtime_ns", "text"]
    index.update_images(files(album))
    index.save(tmp_path / "index")
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    assert header["magicap_index"] == 2
    table = parquet.read_table(tmp_path / "index" / header["items"]).to_pydict()
    assert sorted(table["time"], key=str) == [0, 1, 2, 3, None, None]
    (tmp_path / "index" / "index.json").write_text(json.dumps({**header, "magicap_index": 1, "digest": ""}))
    with pytest.raises(BadIndex, match="damaged"):
        RetrievalIndex.load(tmp_path / "index", scorer)


def test_the_commands_name_the_moment(run, album):
    code, out, err = run("index", "album", "--every", "0.5")
    assert (code, err) == (0, "")
    assert "10 pictures, 8 of them moments of videos (10 new, 0 unchanged, 0 dropped)" in out
    pattern(2).save("query.png")
    code, out, _ = run("search", "query.png", "--index", "album", "--top", "1", "--json", "--html", "s.html")
    row = json.loads(out)
    assert code == 0
    assert row["video"] == os.path.join("album", "clip.mp4")
    assert 2 <= row["time"] < 4
    assert "image" not in row
    page = Path("s.html").read_text(encoding="utf-8")
    assert f"clip.mp4#t={row['time']:g}" in page
    assert page.count("<img") == 2  # the query and the frame
    _, out, _ = run("search", "query.png", "--index", "album", "--top", "1")
    assert out.split()[-1] == f"{row['video']}#t={row['time']:g}"
    code, out, _ = run("index", "album", "--every", "0.5")
    assert (code, out.split("(")[1]) == (0, "0 new, 10 unchanged, 0 dropped)\n")
    code, out, _ = run("search", "A dog runs.", "--index", "album", "--json")
    assert sum("video" in json.loads(line) for line in out.splitlines()) == 8


def test_a_video_alone_is_indexed_beside_itself(run, album):
    assert run("index", album / "clip.mp4")[0] == 0
    assert (album / "clip.mp4.magicap-index").is_dir()


def test_moments_of_one_video_are_no_duplicates_of_each_other(scorer, album):
    index = RetrievalIndex(scorer)
    index.update_images([album / "clip.mp4", album / "c.png"])
    assert index.duplicates(0.999) == []
    pattern(1).save(album / "first.png")
    index.update_images([album / "clip.mp4", album / "first.png"])
    cosine = index.search_images([album / "first.png"], 2)[0][1].cosine
    (group,) = index.duplicates(cosine - 1e-4)
    assert {match.item.time is None for match in group} == {True, False}


def test_without_the_extra_videos_that_are_known_keep_their_moments(run, album, monkeypatch):
    run("index", "album")
    monkeypatch.setitem(sys.modules, "av", None)
    code, out, err = run("index", "album")
    assert (code, out.split("(")[1], err) == (0, "0 new, 6 unchanged, 0 dropped)\n", "")
    (album / "new.mp4").write_bytes((album / "clip.mp4").read_bytes())
    code, out, err = run("index", "album")
    assert (code, out.split("(")[1]) == (0, "0 new, 6 unchanged, 0 dropped)\n")
    assert "videos are passed over, 1 in all" in err


def test_a_query_that_names_a_video_is_refused(run, album):
    run("index", "album")
    for word in ("album/clip.mp4", "clip.mp4#t=5"):
        code, out, err = run("search", word, "--index", "album")
        assert (code, out) == (2, "")
        assert f"found the video {word}; save a frame" in err
    assert run("search", "clip.mp4", "--index", "album", "--text")[0] == 0


def test_without_the_extra_videos_in_folders_are_passed_over(run, album, monkeypatch, scorer):
    monkeypatch.setitem(sys.modules, "av", None)
    code, out, err = run("index", "album")
    assert code == 0
    assert "2 pictures (2 new" in out
    assert "videos are passed over, 1 in all" in err
    assert "pip install 'magicap[video]'" in err
    code, _, err = run("index", album / "clip.mp4")
    assert code == 2
    assert "pip install 'magicap[video]'" in err
    with pytest.raises(MissingPackage):
        RetrievalIndex(scorer).update_images(files(album))
