"""Pictures a second of each stage of a run: list, read, decode and resize, encode, search, write.

Stages are timed one after the other over the same pictures, in rounds; medians are printed. "Before" is how
pictures were read until runs came: one thread, open_clip's own transform in floats. Without --preset, models
are left out.

    python eval/throughput.py --pictures pictures/ --workers 1 2 --preset embedded
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from flops import counted
from transformers import HfArgumentParser

from magicap import Captioner
from magicap.evaluation.tables import aligned
from magicap.images.reader import open_image
from magicap.images.transform import ImageTransform, PreparedImage, prepare
from magicap.runs.journal import Journal
from magicap.runs.outputs import new_writer
from magicap.runs.readers import ReaderPool
from magicap.runs.records import Record, in_batches
from magicap.runs.rows import Row
from magicap.runs.settings import RunSettings
from magicap.runs.sources import Listing

BATCH = 16


@dataclass(frozen=True)
class Config:
    pictures: str = field(metadata={"help": "folder of pictures"})
    workers: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "numbers of reader processes"}
    )
    preset: str | None = field(default=None, metadata={"help": "captioner whose models are timed too"})
    count: int = field(default=400, metadata={"help": "pictures"})
    captioned: int = field(default=64, metadata={"help": "of them, those that are captioned"})
    rounds: int = field(default=3, metadata={"help": "how often each stage is timed"})
    compare: bool = field(default=False, metadata={"help": "only compare the captions with those of before"})


def main(config: Config) -> None:
    torch.set_num_threads(1)
    records = list(Listing((config.pictures,)))[: config.count]
    paths = [record.id for record in records]
    captioner = Captioner.from_pretrained(config.preset) if config.preset else None
    transform = captioner.transform if captioner else ImageTransform((224, 224), "squash")
    if config.compare and captioner is not None:
        compare(captioner, paths)
        return
    stages: dict[str, Callable[[], object]] = {
        "list": lambda: len(list(Listing((config.pictures,)))),
        "read the bytes": lambda: [Path(path).read_bytes() for path in paths],
        "decode, one thread": lambda: [open_image(path, at_least=transform.at_least) for path in paths],
        "decode and resize, one thread": lambda: [prepare(path, transform) for path in paths],
    }
    if captioner is not None:
        whole = captioner.scorer.preprocess
        stages["decode and transform, before"] = lambda: [
            whole(open_image(path, at_least=transform.at_least)) for path in paths
        ]
    for stage, work in stages.items():
        table_row(stage, measured(work, config.rounds), len(paths) if stage != "list" else stages["list"]())
    for workers in config.workers:
        with ReaderPool(workers) as pool:
            read(pool, records[:BATCH], transform)  # the processes are up
            seconds = measured(partial(read, pool, records, transform), config.rounds)
        table_row(f"decode and resize, {workers} processes", seconds, len(records))
    prepared = [prepare(path, transform) for path in paths[: config.captioned]]
    if captioner is not None:
        time_models(captioner, prepared, config)
    for kind in ("jsonl", "parquet"):
        table_row(
            f"journal and {kind}",
            measured(partial(write, records, kind), config.rounds),
            len(records),
        )
    print(aligned(("stage", "pictures/s", "ms/picture", "spread"), ROWS))


ROWS: list[tuple[str, str, str, str]] = []


def table_row(stage: str, seconds: Sequence[float], count: object) -> None:
    """One stage's median."""
    per_picture = statistics.median(seconds) / int(str(count))
    spread = (max(seconds) - min(seconds)) / statistics.median(seconds)
    ROWS.append(
        (
            stage,
            f"{1 / per_picture:,.0f}" if per_picture < 0.02 else f"{1 / per_picture:.1f}",
            f"{1e3 * per_picture:.3f}",
            f"{spread:.0%}",
        )
    )


def measured(work: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round; one before them is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def read(pool: ReaderPool, records: Sequence[Record], transform: ImageTransform) -> list[PreparedImage]:
    """Pictures by reader processes, in order."""
    return [future.result() for future in [pool.submit(record, transform) for record in records]]


def time_models(captioner: Captioner, prepared: list[PreparedImage], config: Config) -> None:
    """The image tower alone, and whole captions, with one thread and with all."""
    threads = torch.get_num_threads()
    pixels = torch.stack([torch.from_numpy(picture.pixels) for picture in prepared])

    def encode() -> None:
        for batch in pixels.split(BATCH):
            captioner.scorer.encode_pixels(batch)

    def caption() -> None:
        captioner.cache.clear()
        captioner.caption(prepared, batch_size=BATCH)

    for count in dict.fromkeys((threads, torch.multiprocessing.cpu_count())):
        torch.set_num_threads(count)
        table_row(f"image tower, {count} threads", measured(encode, config.rounds), len(prepared))
        table_row(f"image tower and search, {count} threads", measured(caption, config.rounds), len(prepared))
    torch.set_num_threads(threads)
    of_tower, of_whole = (counted(work)[1] / len(prepared) / 1e9 for work in (encode, caption))
    print(f"a picture: {of_tower:.2f} GFLOP in the image tower, {of_whole:.2f} in all")


def compare(captioner: Captioner, paths: Sequence[str]) -> None:
    """How many captions are others where open_clip's own transform, with Pillow, resizes the pictures."""
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    transform = captioner.transform
    differ, worst, off = 0, 0.0, 0.0
    for batch in in_batches(paths, BATCH):
        now = [prepare(path, transform) for path in batch]
        images = [open_image(path, at_least=transform.at_least) for path in batch]
        before = [
            replace(p, pixels=captioner.scorer.preprocess(i).numpy())
            for p, i in zip(now, images, strict=True)
        ]
        levels = torch.stack([torch.from_numpy(picture.pixels) for picture in now])
        steps = transform.normalise(levels) - torch.stack([torch.from_numpy(p.pixels) for p in before])
        steps = (steps.abs() * 255 * torch.tensor(transform.std)[:, None, None]).round()
        worst, off = max(worst, float(steps.max())), off + float((steps > 0).float().mean()) * len(batch)
        captions = captioner.caption(now), captioner.caption(before)
        differ += sum(a != b for a, b in zip(*captions, strict=True))
    print(
        f"{len(paths)} pictures: {off / len(paths):.2%} of the bytes differ from open_clip's, by {worst:.0f} "
        f"at most; {differ} captions differ"
    )


def write(records: Sequence[Record], kind: str) -> None:
    """Rows into the journal, batch by batch and each batch onto the disk, and into a file."""
    settings = RunSettings(("source",), f"out.{kind}")
    row: dict[str, object] = {"row": {}, "stamp": "1-2", "earlier": None}
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        writer = new_writer(settings, Path(folder), 0, {})
        for batch in in_batches(records, BATCH):
            rows = [
                Row(record.id, "A dog runs across the grass.", 0.5, 0.25, "", 640, 480) for record in batch
            ]
            journal.append([{**row, "row": one.to_dict(settings.columns)} for one in rows])
            for record, one in zip(batch, rows, strict=True):
                writer.add(record, one)
        writer.target = Path(folder) / f"out.{kind}"
        writer.finish()


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
