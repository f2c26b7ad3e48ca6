"""Caption shards of pictures on a Ray cluster, by Ray Data: a captioner an actor, a shard a row.

    python recipes/caption_ray.py --sources pictures/ --out captions --max_actors 2
    python recipes/caption_ray.py --sources 'tars/*.tar' --out captions --num_gpus 1 --batch_size 64
    python recipes/caption_ray.py --sources 'tars/*.tar' --out captions --num_gpus 1 --address auto

The first line starts Ray on the CPUs of this machine, the second on its GPUs, an actor each. The third joins
a cluster: ``ray start --head`` on one machine and ``ray start --address HEAD:6379`` on the others, or an
autoscaling cluster, which grows and shrinks with --min_actors and --max_actors. All machines need this
package with the extra ``ray``, and see --sources and --out under the same paths.

A shard is a tar file, a Parquet table, or so many pictures of a folder; it becomes one file, such as
captions/00000-train.parquet. Once all are there, captions/_SUCCESS has the counts. An actor that is killed is
started anew, and its shard goes on behind the last batch; so does the same command after whatever ended it. A
shard whose source cannot be read fails: it has no file, is named in the end with exit code 1, and is tried by
the next run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from cli import run
from sharding import ShardOptions, finish, note, plan_of, tell

from magicap.captioners.load import load_captioner
from magicap.checks import require_int, require_number
from magicap.errors import BadSettings
from magicap.extras import require
from magicap.runs.readers import ReaderPool
from magicap.runs.settings import RunSettings
from magicap.runs.shard_work import Outcome, attempt, failed
from magicap.runs.shards import ShardPlan, SourceShard
from magicap.runs.state import Counts

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner

PATIENCE = 120.0
"""Seconds that an actor waits for a shard that another process holds, as one on a lost machine may."""


@dataclass(frozen=True)
class Config(ShardOptions):
    min_actors: int = 1
    """Number of captioners that are started at once."""

    max_actors: int | None = None
    """Number of captioners at most; by default as many as the cluster has CPUs or GPUs for."""

    num_cpus: float = 1.0
    """CPUs of each captioner and its readers, as Ray counts them."""

    num_gpus: float = 0.0
    """GPUs of each captioner; 0 stays on the CPU, 0.5 lets two share one."""

    address: str | None = None
    """Address of a cluster, such as auto; by default Ray is started on this machine for the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int("min_actors", self.min_actors)
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise BadSettings(
                f"--max_actors must be at least --min_actors, {self.min_actors}, found {self.max_actors}"
            )
        for name in ("num_cpus", "num_gpus"):
            require_number(name, getattr(self, name), lambda value: value >= 0, "at least 0")


def main(config: Config) -> None:
    ray = require("ray")
    plan = plan_of(config)
    plan.forget_failures()
    failures = {}
    if plan.left():
        try:
            connect(ray, config)
            for outcome in caption(config, plan):
                tell(plan, outcome)
                if outcome.failure:
                    failures[outcome.shard] = outcome.failure
        finally:
            ray.shutdown()
    note(finish(plan, failures))


def connect(ray: Any, config: Config) -> None:
    """Join a cluster, or start Ray on this machine, without a dashboard; Ray reports no use of it.

    Raises:
        BadSettings: this machine has no room for one captioner, for which Ray would wait without end.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if config.address is not None:  # it may grow
        ray.init(address=config.address, **quiet)
        return
    ray.init(address="local", include_dashboard=False, **quiet)
    here = ray.cluster_resources()
    for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted, there = getattr(config, option), here.get(resource, 0)
        if wanted > there:
            raise BadSettings(f"--{option}: expected at most the {there:g} of this machine, found {wanted:g}")


def caption(config: Config, plan: ShardPlan) -> Iterator[Outcome]:
    """Caption the shards that are left; what became of each, as they end."""
    data = require("ray.data")
    data.DataContext.get_current().enable_progress_bars = False  # each shard has a line of its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    left = plan.left()
    most = min(len(left), config.max_actors or len(left))
    # A block a shard: blocks are what actors are given, and given anew where one is killed.
    items = [{"shard": shard.id, "source": shard.source} for shard in left]
    rows = data.from_items(items, override_num_blocks=len(items))
    outcomes = rows.map_batches(
        CaptionShard,
        batch_size=1,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(min_size=min(config.min_actors, most), max_size=most),
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        fn_constructor_kwargs={
            "settings": replace(plan.settings, sources=()),
            "preset": os.path.abspath(config.preset) if os.path.isdir(config.preset) else config.preset,
            "device": "cuda" if config.num_gpus else "cpu",
            "dtype": config.dtype,
            "readers": config.readers,
            "image_timeout": config.image_timeout,
        },
    )
    for row in outcomes.iter_rows():
        counts = Counts(int(row["rows"]), int(row["errors"]))
        yield Outcome(str(row["shard"]), counts, str(row["failure"]))


class CaptionShard:
    """One actor: a captioner that is loaded once, and its readers.

    It names nothing that lies beside this file, which the machines of a cluster need not have.

    Args:
        settings: of the run, without its sources, which may be many; an actor that is restarted needs them.
        preset, device, dtype: of the captioner.
        readers: processes that read pictures.
        image_timeout: seconds that reading one may take.
    """

    def __init__(
        self, settings: RunSettings, preset: str, device: str, dtype: str, readers: int, image_timeout: float
    ) -> None:
        self._plan = ShardPlan(settings, ())
        self._load = partial(load_captioner, preset, device=device, dtype=dtype)
        self._readers = ReaderPool(readers, image_timeout)
        self._captioner: AnyCaptioner | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Caption shards.

        Args:
            batch: ``shard`` and ``source`` (B), ids and paths.

        Returns:
            ``shard``, ``rows``, ``errors`` and ``failure`` (B); an exception would end the whole run.
        """
        shards = map(SourceShard, map(str, batch["shard"]), map(str, batch["source"]))
        outcomes = [self._caption(shard) for shard in shards]
        return {
            "shard": np.array([outcome.shard for outcome in outcomes]),
            "rows": np.array([outcome.counts.rows for outcome in outcomes], np.int64),
            "errors": np.array([outcome.counts.errors for outcome in outcomes], np.int64),
            "failure": np.array([outcome.failure for outcome in outcomes]),
        }

    def _caption(self, shard: SourceShard) -> Outcome:
        try:
            if self._captioner is None:
                self._captioner = self._load()
        except Exception as error:  # as above
            return failed(self._plan, shard, error)
        outcome = attempt(self._plan, shard, self._captioner, self._readers, PATIENCE)
        return outcome or Outcome(shard.id, failure="another process captions it; wait until it has ended")


if __name__ == "__main__":
    run(main, Config)
