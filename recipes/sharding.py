"""What recipes that caption shards share: their options, the plan, and how a run of shards ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int, require_number
from magicap.errors import BadSettings, MagicapError
from magicap.printable import printable
from magicap.runs.settings import ROWS_PER_FILE, RunSettings
from magicap.runs.shard_merge import merge
from magicap.runs.shard_work import Outcome
from magicap.runs.shards import ShardPlan, open_plan

SHOWN_FAILURES = 10
"""Shards that failed, of which stderr says why."""


class ShardsFailed(MagicapError, RuntimeError):
    """A run of shards that ends without all of them; the same command tries the others again."""


@dataclass(frozen=True)
class ShardOptions:
    """What is captioned, where the rows go, and what one worker is."""

    sources: list[str]
    """Tar files, Parquet tables, text files with a path a line, pictures, folders of pictures, and globs."""

    out: str
    """Folder of the output files, one a shard, and of what the run knows of itself, in <out>/_shards."""

    preset: str = DEFAULT
    """Preset or folder of the captioner."""

    format: Literal["parquet", "jsonl"] = "parquet"
    """Kind of the output files."""

    pictures_per_shard: int = ROWS_PER_FILE
    """Number of pictures of a shard, where they come from folders; a tar file or a table is one shard."""

    column: str | None = None
    """Where tables have the pictures; by default found by name and type."""

    n: int = 1
    """Number of captions of each picture, the best ones."""

    tags: bool = False
    """Write tags too: words that the best captions of a picture agree on."""

    prefix: str = ""
    """Text that stands before each caption."""

    suffix: str = ""
    """Text that stands behind each caption."""

    batch_size: int = 16
    """Number of pictures that are captioned together; 64 suits a GPU."""

    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """Precision of the models, in which they are loaded."""

    readers: int = 1
    """Number of processes that read pictures for one captioner."""

    image_timeout: float = 60.0
    """Seconds that reading one picture may take."""

    def __post_init__(self) -> None:
        require_int("readers", self.readers)
        require_number("image_timeout", self.image_timeout, lambda value: value > 0, "more than 0")


def plan_of(options: ShardOptions) -> ShardPlan:
    """The shards that a recipe is to caption, with absolute paths.

    Raises:
        BadSettings: see :func:`magicap.runs.shards.open_plan`.
    """
    if not options.sources:
        raise BadSettings("give --sources PATH, pictures to caption")
    settings = RunSettings(
        sources=tuple(options.sources),
        out=os.path.abspath(options.out),
        format=options.format,
        column=options.column,
        n=options.n,
        tags=options.tags,
        prefix=options.prefix,
        suffix=options.suffix,
        batch_size=options.batch_size,
    )
    return open_plan(settings, options.pictures_per_shard)


def tell(plan: ShardPlan, outcome: Outcome) -> None:
    """Say on stderr what became of a shard."""
    if outcome.failure:
        note(f"{outcome.shard} failed: {outcome.failure}")
    elif outcome.counts.rows:
        counts, all_shards = outcome.counts, len(plan.shards)
        done = f"{all_shards - len(plan.left())} of {all_shards} shards done"
        note(f"{outcome.shard}: {counts.rows} rows, {counts.errors} errors; {done}")


def finish(plan: ShardPlan, failures: Mapping[str, str]) -> str:
    """Count what the run has written, and say it.

    Args:
        failures: shards that a worker could not caption, by their ids, and why.

    Raises:
        ShardsFailed: not all are done.
        BadData: what was written is not what was planned.
    """
    left = [shard.id for shard in plan.left()]
    if left:
        reasons = [f"{name}: {failures.get(name, 'it was not captioned')}" for name in left[:SHOWN_FAILURES]]
        raise ShardsFailed(
            f"{plan.settings.output}: expected {len(plan.shards)} shards, found {len(left)} that failed; run "
            f"the same command again once this is mended: {'; '.join(reasons)}"
        )
    counts = merge(plan)
    return (
        f"{plan.settings.output}: {len(plan.shards)} shards, {counts.rows} rows, "
        f"{counts.rows - counts.errors} captions, {counts.errors} errors"
    )


def note(line: str) -> None:
    """A line on stderr."""
    print(printable(line), file=sys.stderr, flush=True)
