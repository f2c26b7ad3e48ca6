"""One worker of a run of shards: captions a shard by a run of its own, and what has failed gives no rows."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.errors import BadSettings, MagicapError
from magicap.files import write_whole
from magicap.printable import without_surrogates
from magicap.runs.readers import ReaderPool
from magicap.runs.records import SourceUnavailable
from magicap.runs.rows import Row
from magicap.runs.run import Run
from magicap.runs.shards import ShardPlan, SourceShard
from magicap.runs.state import SUCCESS, Counts, open_state

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner

POLL_SECONDS = 0.5
"""Between two looks at shards that other workers caption."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a shard."""

    shard: str
    """Its id."""

    counts: Counts = field(default_factory=Counts)
    """Of its rows; zeros where it failed or was done before."""

    failure: str = ""
    """Why it has no output file; empty where it has one."""


class _SourceLost(SourceUnavailable):
    """A source that went away while it was read: what was made of it is not kept."""


def attempt(
    plan: ShardPlan,
    shard: SourceShard,
    captioner: BaseCaptioner[Any],
    readers: ReaderPool,
    patience: float = 0.0,
) -> Outcome | None:
    """Caption a shard, unless it is done; what goes wrong becomes a failure and ends nothing.

    Args:
        plan: what the run is cut into.
        shard: one of the plan's.
        captioner: what captions the pictures.
        readers: the processes that decode them; they stay open.
        patience: seconds to wait for another worker that captions it.

    Returns:
        None where another worker captions it.
    """
    try:
        with plan.claim(shard, patience) as is_ours:
            if not is_ours:
                return None
            if plan.is_done(shard):
                return Outcome(shard.id)
            return Outcome(shard.id, caption_shard(plan, shard, captioner, readers))
    except Exception as error:  # an engine takes it for the end of all shards
        return failed(plan, shard, error)


def failed(plan: ShardPlan, shard: SourceShard, error: Exception) -> Outcome:
    """The outcome of a shard that an error ended, noted for the other workers."""
    if isinstance(error, MagicapError | OSError):
        message = str(error)
    else:  # not foreseen, so whoever mends it needs its place
        _LOG.warning("shard %s: %r", shard.id, error, exc_info=error)
        message = f"{type(error).__name__}: {error}"
    with suppress(BadSettings):  # on a full disk the others try for themselves
        plan.note_failure(shard, message)
    return Outcome(shard.id, failure=" ".join(message.split()) or "unknown")


def caption_shard(
    plan: ShardPlan, shard: SourceShard, captioner: BaseCaptioner[Any], readers: ReaderPool
) -> Counts:
    """Caption a shard that is claimed, going on behind the last batch of whoever was killed at it.

    Its file is in the output folder once all is well, and not before.

    Raises:
        SourceUnavailable: the source, or pictures that a list names, cannot be read or went away.
        BadSettings: the captioner is another than that of earlier shards, or the source holds no picture.
        MagicapError, OSError: as of :meth:`magicap.runs.run.Run.finish`.
    """
    plan.require_captioner(captioner)
    (plan.settings.output / SUCCESS).unlink(missing_ok=True)
    sources, work, target = plan.pictures_of(shard), plan.work_of(shard), plan.output_of(shard)
    watch = _Watch(shard, sources)
    settings = replace(
        plan.settings, sources=sources, out=str(work / target.name), on_existing="overwrite", max_errors=None
    )
    work.mkdir(exist_ok=True)
    try:
        with open_state(settings) as state:
            if state is None:
                raise AssertionError("a run that overwrites has a state")
            counts = Run(settings, state, captioner, readers, watch.look).finish()
        watch.end(counts)
    except (BadSettings, _SourceLost):  # of a source that has changed: the next attempt begins the shard anew
        shutil.rmtree(work, ignore_errors=True)
        raise
    write_whole(counts_file(plan, shard), json.dumps(asdict(counts)) + "\n")
    os.replace(settings.output, target)
    shutil.rmtree(work, ignore_errors=True)
    return counts


def caption_shards(
    plan: ShardPlan,
    captioner: BaseCaptioner[Any],
    readers: ReaderPool,
    *,
    first: int = 0,
    on_outcome: Callable[[Outcome], object] = lambda outcome: None,
) -> dict[str, str]:
    """Caption shards beside other workers until each is done, or has failed in one of them.

    Args:
        plan: what the run is cut into; all workers have the same.
        captioner: what captions the pictures.
        readers: the processes that decode them; they stay open.
        first: number of the shard to begin with, so that workers do not all try the same one.
        on_outcome: called with the outcome of every shard that this worker captions.

    Returns:
        Shards that failed, in this worker or another, by their ids, and why.
    """
    failures: dict[str, str] = {}
    waiting = [*plan.shards[first:], *plan.shards[:first]]
    while waiting := [shard for shard in waiting if not plan.is_done(shard) and shard.id not in failures]:
        has_worked = False
        for shard in waiting:
            if (failure := plan.failure(shard)) is not None:
                failures[shard.id] = failure
            elif (outcome := attempt(plan, shard, captioner, readers)) is not None:
                has_worked = True
                on_outcome(outcome)
                if outcome.failure:
                    failures[shard.id] = outcome.failure
        if not has_worked:
            time.sleep(POLL_SECONDS)
    return failures


def counts_file(plan: ShardPlan, shard: SourceShard) -> Path:
    """Where it stands how many rows a shard's file was given."""
    return plan.folder / f"{shard.id}.json"


class _Watch:
    """Tells a source that is gone from pictures that cannot be read."""

    def __init__(self, shard: SourceShard, sources: tuple[str, ...]) -> None:
        self._shard, self._missing = shard, 0
        self._source = str(without_surrogates(shard.source))
        self._present = {
            str(without_surrogates(path)) for path in sources if path != shard.source and os.path.exists(path)
        }

    def look(self, rows: list[Row], _: Counts) -> None:
        """The rows of a batch that are new.

        Raises:
            _SourceLost: the source, or a picture that was there when the shard was begun, is gone.
        """
        for row in rows:
            if row.error and row.id == self._source:
                reason = row.error.partition(": ")[2]
                raise _SourceLost(f"{row.id}: {reason}; then run the same command again")
            if row.error.startswith("missing:"):
                self._missing += 1
                if row.id in self._present:
                    raise _SourceLost(
                        f"{row.id}: expected it as when the shard was begun, found nothing there; put it "
                        "back, then run the same command again"
                    )

    def end(self, counts: Counts) -> None:
        """All rows.

        Raises:
            _SourceLost: there was no picture at all.
        """
        if self._missing == counts.rows:
            raise _SourceLost(
                f"{self._shard.source}: expected pictures, found none of {counts.rows} there; is the disk "
                "that they lie on mounted? Run the same command again once it is"
            )
