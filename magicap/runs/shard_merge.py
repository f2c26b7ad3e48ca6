"""The end of a run of shards: everything that was planned is there, once, and is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from magicap.errors import BadData
from magicap.extras import require
from magicap.files import write_whole
from magicap.runs.shard_work import counts_file
from magicap.runs.shards import ShardPlan, SourceShard
from magicap.runs.state import SUCCESS, Counts

_NAMED = 5  # shards that an error names


def merge(plan: ShardPlan) -> Counts:
    """Hold the output files against the manifest, and write ``_SUCCESS`` with the counts of all.

    Several workers may call this at once: one looks, the others get what it counted.

    Raises:
        BadData: a shard is missing or has other rows than it was given, a file belongs to no shard, or a
            picture has two rows.
    """
    from filelock import FileLock

    success = plan.settings.output / SUCCESS
    with FileLock(plan.folder / "merge.lock"):
        if success.exists() and not plan.left():
            values = json.loads(success.read_text(encoding="utf-8"))
            return Counts(values["rows"], values["errors"], values["skipped"])
        _require_files(plan)
        counts = Counts()
        ids = []
        for shard in plan.shards:
            ids.append(_hashes(plan.output_of(shard)))
            counts += _counts_of(plan, shard, len(ids[-1]))
        _require_distinct(plan, ids)
        text = {**counts.to_dict(), "shards": len(plan.shards)}
        write_whole(success, json.dumps(text) + "\n")
        for shard in plan.shards:  # whoever waits for one sees its file then
            (plan.folder / f"{shard.id}.lock").unlink(missing_ok=True)
    return counts


def _require_files(plan: ShardPlan) -> None:
    if missing := [shard.id for shard in plan.left()]:
        raise BadData(
            f"{plan.settings.output}: expected {len(plan.shards)} shards, found {len(missing)} missing "
            f"({_named(missing)}); run the same command again"
        )
    planned = {plan.output_of(shard).name for shard in plan.shards}
    files = {path.name for path in plan.settings.output.glob(f"*.{plan.settings.kind}")}
    if others := sorted(files - planned):
        raise BadData(
            f"{plan.settings.output}: expected the files of the manifest alone, found {_named(others)}; "
            "move them away, then run the same command again"
        )


def _counts_of(plan: ShardPlan, shard: SourceShard, rows: int) -> Counts:
    """Of a shard, as it was noted when its file was put in place."""
    path = counts_file(plan, shard)
    try:
        counts = Counts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _changed(plan, shard, f"its counts, found {error}") from error
    for expected in (counts.rows, shard.rows):
        if expected is not None and rows != expected:
            raise _changed(plan, shard, f"{expected} rows, found {rows}")
    return counts


def _require_distinct(plan: ShardPlan, ids: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> None:
    """Refuse an id with two rows, as overlapping list files would give.

    Args:
        ids: hashes of the ids of each shard's rows: eight bytes a row, where the ids would not fit.
    """
    values, counts = np.unique(np.concatenate(ids), return_counts=True)
    twice = set(values[counts > 1].tolist())
    if not twice:
        return
    for shard in plan.shards:
        for name in _ids(plan.output_of(shard)):
            if hash(name) in twice:
                raise BadData(
                    f"{plan.settings.output}: expected a row a picture, found {len(twice)} pictures twice "
                    f"({name}); give sources that do not overlap, and another --out"
                )


def _hashes(path: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.fromiter(map(hash, _ids(path)), np.int64)


def _ids(path: Path) -> Iterator[str]:
    """The ids of a file's rows."""
    if path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["id"]
        return
    with require("pyarrow.parquet").ParquetFile(path) as table:
        for batch in table.iter_batches(columns=["id"]):
            yield from batch.column(0).to_pylist()


def _changed(plan: ShardPlan, shard: SourceShard, what: str) -> BadData:
    path = plan.output_of(shard)
    return BadData(f"{path}: expected {what}; remove the file, then run the same command again")


def _named(names: list[str]) -> str:
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])
