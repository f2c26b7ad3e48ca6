"""Shards: planned once, captioned by workers beside each other, counted in the end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import pytest
import tiny
from bulk import rows_in, write_pictures

from magicap.errors import BadData, BadSettings
from magicap.runs import sources
from magicap.runs.readers import ReaderPool
from magicap.runs.records import retrying
from magicap.runs.run import Run
from magicap.runs.settings import RunSettings
from magicap.runs.shard_merge import merge
from magicap.runs.shard_work import attempt, caption_shards
from magicap.runs.shards import ShardPlan, open_plan
from magicap.runs.state import open_state

SETTINGS = RunSettings((), out="nowhere", format="parquet", batch_size=2)


@pytest.fixture(scope="module")
def readers() -> Iterator[ReaderPool]:
    with ReaderPool(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def captioner():
    return tiny.captioner(0, max_new_tokens=4)


@pytest.fixture
def pictures(tmp_path) -> Path:
    return write_pictures(tmp_path / "pictures", 7)


@pytest.fixture
def planned(tmp_path) -> Callable[..., ShardPlan]:
    """From sources to a plan of shards of three pictures each."""

    def plan(*places: Path | str, count: int = 3, **changes: Any) -> ShardPlan:
        settings = {"sources": tuple(map(str, places)), "out": str(tmp_path / "out"), **changes}
        return open_plan(replace(SETTINGS, **settings), count)

    return plan


def write_tar(path: Path, pictures: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for picture in sorted(pictures.iterdir()):
            tar.add(picture, picture.name)
    return path


def write_table(path: Path, pictures: Path) -> Path:
    rows = [{"image": picture.read_bytes()} for picture in sorted(pictures.iterdir())]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_sources_are_planned_as_shards(pictures, planned, tmp_path):
    tar, table = write_tar(tmp_path / "a b.tar", pictures), write_table(tmp_path / "b.parquet", pictures)
    listed = tmp_path / "some.txt"
    listed.write_text("pictures/000.png\npictures/004.png\n")
    others = write_pictures(tmp_path / "others", 4)
    plan = planned(pictures, tmp_path / "*.tar", listed, table, others)
    expected = {
        "00000-a_b": (str(tar),),
        "00001-some": (str(pictures / "000.png"), str(pictures / "004.png")),
        "00002-b": (str(table),),
    }
    expected |= {
        f"{number:05d}-pictures": tuple(map(str, paths))
        for number, paths in enumerate(
            [
                [pictures / f"{number:03d}.png" for number in range(3)],
                [pictures / f"{number:03d}.png" for number in range(3, 6)],
                [pictures / "006.png", others / "000.png", others / "001.png"],
                [others / "002.png", others / "003.png"],
            ],
            start=3,
        )
    }
    assert {shard.id: plan.pictures_of(shard) for shard in plan.shards} == expected
    assert [shard.rows for shard in plan.shards] == [None, None, None, 3, 3, 3, 2]
    assert (tmp_path / "out/_shards/00003.txt").read_text().splitlines()[0] == str(pictures / "000.png")


def test_a_plan_is_made_once(pictures, planned):
    shards = planned(pictures).shards
    (pictures / "000.png").rename(pictures / "999.png")
    assert planned(pictures).shards == shards


def test_a_picture_with_any_name_is_planned(pictures, planned):
    odd = os.fsdecode(b"\xff [1] .png")
    (pictures / "000.png").rename(pictures / odd)
    plan = planned(pictures, count=9)
    assert str(pictures / odd) in plan.pictures_of(plan.shards[0])
    (pictures / "001.png").rename(pictures / "a\nb.png")
    with pytest.raises(BadSettings, match=r"expected a path of one line, found a line break; rename it"):
        planned(pictures, out=str(pictures.parent / "other"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"n": 2}, "n: 1, now 2"),
        ({"prefix": "a "}, "prefix: '', now 'a '"),
        ({"format": "jsonl"}, "format: 'parquet', now 'jsonl'"),
        ({"count": 4}, "pictures_per_shard: 3, now 4"),
        ({"batch_size": 3}, "batch_size: 2, now 3"),
    ],
)
def test_another_configuration_is_refused(pictures, planned, changes, what):
    planned(pictures)
    with pytest.raises(BadSettings, match=rf"found another \({what}\); give the options of before"):
        planned(pictures, **changes)


def test_what_cannot_be_planned_is_refused(pictures, planned, tmp_path):
    with pytest.raises(BadSettings, match="nosuch: expected a file or a folder, found nothing there"):
        planned(tmp_path / "nosuch")
    with pytest.raises(BadSettings, match="expected each source once"):
        planned(pictures, pictures)
    with pytest.raises(BadSettings, match="expected each picture once"):
        planned(pictures, pictures / "000.png")
    with pytest.raises(BadSettings, match="expected shards as parquet or jsonl, found csv"):
        planned(pictures, format="csv")
    with pytest.raises(BadSettings, match="expected an empty folder or one of such a run"):
        planned(pictures, out=str(pictures))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSettings, match="no pictures found in"):
        planned(tmp_path / "empty")


def test_shards_have_the_rows_of_one_run(pictures, planned, captioner, readers, tmp_path):
    others = write_pictures(tmp_path / "others", 5)
    (others / "002.png").write_bytes(b"broken")
    tar, table = write_tar(tmp_path / "a.tar", others), write_table(tmp_path / "b.parquet", pictures)
    places = [pictures, tar, table]
    whole = replace(SETTINGS, sources=tuple(map(str, places)), out=str(tmp_path / "whole.parquet"))
    with open_state(whole) as state:
        Run(whole, state, captioner, readers).finish()
    plan = planned(*places, count=4)
    assert caption_shards(plan, captioner, readers, first=2) == {}
    counts = merge(plan)
    rows = rows_in(tmp_path / "out")
    expected = parquet.read_table(tmp_path / "whole.parquet").to_pylist()
    assert sorted(rows, key=lambda row: row["id"]) == sorted(expected, key=lambda row: row["id"])
    assert (counts.rows, counts.errors) == (19, sum(bool(row["error"]) for row in rows))
    success = json.loads((tmp_path / "out/_SUCCESS").read_text())
    assert success == {
        "rows": 19,
        "errors": counts.errors,
        "skipped": 0,
        "captions": 19 - counts.errors,
        "shards": 4,
    }
    assert merge(plan) == counts
    assert not [path for path in (tmp_path / "out/_shards").iterdir() if path.is_dir()]


def test_a_shard_that_another_worker_holds_is_left_to_it(pictures, planned, captioner, readers):
    plan = planned(pictures)
    with planned(pictures).claim(plan.shards[0]) as is_ours:
        assert is_ours
        assert attempt(plan, plan.shards[0], captioner, readers) is None
        assert attempt(plan, plan.shards[1], captioner, readers).counts.rows == 3
    assert attempt(plan, plan.shards[0], captioner, readers).counts.rows == 3


def test_a_worker_waits_for_shards_that_others_caption(pictures, planned, captioner, readers, monkeypatch):
    plan = planned(pictures)
    claim = plan.claim(plan.shards[1])
    claim.__enter__()
    let_go = lambda seconds: claim.__exit__(None, None, None)  # noqa: E731 - as that worker does when it is killed
    monkeypatch.setattr("magicap.runs.shard_work.time", SimpleNamespace(sleep=let_go))
    assert caption_shards(plan, captioner, readers) == {}
    assert plan.left() == []


def test_a_shard_goes_on_behind_the_last_batch(pictures, planned, captioner, readers, monkeypatch):
    plan = planned(pictures, count=7)
    sizes: list[int] = []
    caption = captioner.caption

    def until_killed(images: list[Any], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(images))
        if len(sizes) == 3:
            raise MemoryError("no room")
        return caption(images, *arguments, **options)

    monkeypatch.setattr(captioner, "caption", until_killed)
    outcome = attempt(plan, plan.shards[0], captioner, readers)
    assert outcome.failure == "MemoryError: no room"
    assert plan.left() == [plan.shards[0]]
    assert attempt(plan, plan.shards[0], captioner, readers).counts.rows == 7
    assert sizes == [1, 2, 2, 2, 2]  # the third batch twice


def test_another_captioner_is_refused(pictures, planned, captioner, readers):
    plan = planned(pictures)
    attempt(plan, plan.shards[0], captioner, readers)
    failures = caption_shards(plan, tiny.captioner(1, max_new_tokens=4), readers)
    assert list(failures) == [shard.id for shard in plan.shards[1:]]
    assert all("expected to go on with the run that was begun there" in text for text in failures.values())
    plan.forget_failures()
    assert caption_shards(plan, captioner, readers) == {}


def test_a_source_that_is_gone_fails_and_is_tried_again(pictures, planned, captioner, readers, tmp_path):
    tar = write_tar(tmp_path / "a.tar", pictures)
    plan = planned(tar, pictures)
    content = tar.read_bytes()
    for damage in (
        tar.unlink,
        partial(tar.write_bytes, b"no tar file at all"),
        partial(tar.write_bytes, content[:4000]),
    ):
        damage()
        failures = caption_shards(plan, captioner, readers)
        assert list(failures) == [plan.shards[0].id]
        assert "a.tar: " in failures[plan.shards[0].id]
        assert not plan.is_done(plan.shards[0])
        assert (
            caption_shards(plan, captioner, readers) == failures
        )  # noted: no second attempt in the same run
        plan.forget_failures()
    with pytest.raises(BadData, match=r"expected 4 shards, found 1 missing \(00000-a\); run the same"):
        merge(plan)
    tar.write_bytes(content)
    assert caption_shards(plan, captioner, readers) == {}
    assert merge(plan).rows == 14
    assert not [
        row for row in rows_in(tmp_path / "out") if row["error"].startswith(("missing", "unreadable"))
    ]


def test_a_network_error_gives_no_rows(pictures, planned, captioner, readers, tmp_path, monkeypatch):
    def broken(path: Path) -> Any:
        raise OSError(errno.EIO, "Input/output error", str(path))

    plan = planned(write_tar(tmp_path / "a.tar", pictures))
    with monkeypatch.context() as patch:
        patch.setattr(sources, "TarPictures", broken)
        patch.setattr(sources, "retrying", partial(retrying, waits=[0, 0]))
        (failure,) = caption_shards(plan, captioner, readers).values()
    assert "run the same command again once it is back" in failure
    assert rows_in(tmp_path / "out") == []
    plan.forget_failures()
    assert caption_shards(plan, captioner, readers) == {}


def test_pictures_that_go_away_together_give_no_rows(
    pictures, planned, captioner, readers, tmp_path, monkeypatch
):
    plan, away = planned(pictures, count=7), tmp_path / "away"
    pictures.rename(away)
    (failure,) = caption_shards(plan, captioner, readers).values()
    assert "expected pictures, found none of 7 there; is the disk that they lie on mounted?" in failure
    shutil.move(away, pictures)
    caption = captioner.caption

    def then_gone(*arguments: Any, **options: Any) -> Any:
        if pictures.exists():
            for path in sorted(pictures.iterdir())[5:]:
                path.unlink()
        return caption(*arguments, **options)

    plan.forget_failures()
    monkeypatch.setattr("magicap.runs.run.AHEAD", 0)
    monkeypatch.setattr(captioner, "caption", then_gone)
    (failure,) = caption_shards(plan, captioner, readers).values()
    assert "005.png: expected it as when the shard was begun, found nothing there" in failure
    assert not list((tmp_path / "out").glob("*.parquet"))
    plan.forget_failures()  # what is not there when a shard is begun is an error of its own
    assert caption_shards(plan, captioner, readers) == {}
    assert [row["error"][:8] for row in rows_in(tmp_path / "out")][5:] == ["missing:", "missing:"]


def test_merging_finds_what_is_not_as_planned(pictures, planned, captioner, readers, tmp_path):
    plan = planned(pictures)
    caption_shards(plan, captioner, readers)
    merge(plan)
    first, second = (plan.output_of(shard) for shard in plan.shards[:2])
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(BadData, match=r"expected 3 shards, found 1 missing \(00000-pictures\)"):
        merge(plan)
    (tmp_path / "out/_SUCCESS").unlink()
    parquet.write_table(parquet.read_table(second).slice(1), first)
    with pytest.raises(BadData, match=r"00000-pictures\.parquet: expected 3 rows, found 2; remove the file"):
        merge(plan)
    first.write_bytes(second.read_bytes())
    with pytest.raises(BadData, match=r"expected a row a picture, found 3 pictures twice \(.*/003.png\)"):
        merge(plan)
    first.write_bytes(content)
    first.with_name("other.parquet").write_bytes(content)
    with pytest.raises(BadData, match=r"expected the files of the manifest alone, found other.parquet"):
        merge(plan)
    first.with_name("other.parquet").unlink()
    assert merge(plan).rows == 7


def test_a_shard_that_is_captioned_anew_takes_success_away(pictures, planned, captioner, readers, tmp_path):
    plan = planned(pictures, format="jsonl")
    caption_shards(plan, captioner, readers)
    merge(plan)
    plan.output_of(plan.shards[2]).unlink()
    attempt(plan, plan.shards[2], captioner, readers)
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert merge(plan).rows == 7
