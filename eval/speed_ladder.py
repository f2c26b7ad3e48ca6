"""Where the time of magic search goes, and how much each way of saving it brings; one run, same captions.

    python eval/speed_ladder.py --images $MAGICAP_DATA/flickr8k/images-test.tar
    python eval/speed_ladder.py --images ... --shape ViT-B-32 --bpe $MAGICAP_DATA/../tokenizers/gpt2 --count 3

First the variants: the search as it was published (keys and values of the language model are kept, the
scorer reads whole strings, one picture at a time), then one saving after the other. Times are medians of a
picture; the variants take turns, so that a noisy machine is noisy for all of them. Then, with ``--run``, one
long run, whose cost a picture falls as prefixes are met again.

``--shape ViT-B-32`` and ``ViT-L-14`` stand for GPT-2 small beside CLIP of that size, with random weights
(``speed_shapes.py``). Beside other decodings and other captioners: ``eval/speed.py``.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flops import counted
from speed_shapes import captioner_of
from transformers import HfArgumentParser

from magicap import Captioner, MagicSearch
from magicap.captioners.presets import DEFAULT
from magicap.data import ImageFiles
from magicap.decoding.context import DecodingContext
from magicap.decoding.magic import magic_time_steps
from magicap.decoding.prefix_cache import DEFAULT_CACHE_BYTES, PrefixCache
from magicap.evaluation.tables import aligned
from magicap.extras import require


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    shape: str = field(default=DEFAULT, metadata={"help": "a captioner, or ViT-B-32 or ViT-L-14 (random)"})
    bpe: str | None = field(
        default=None, metadata={"help": "folder of GPT-2's vocab.json and merges.txt, for random weights"}
    )
    top_k: int = field(default=45, metadata={"help": "candidates a step"})
    alpha: float = field(default=0.1, metadata={"help": "weight of the degeneration penalty"})
    beta: float = field(default=2.0, metadata={"help": "weight of the picture"})
    max_new_tokens: int = field(default=15, metadata={"help": "longest caption, in tokens"})
    count: int = field(default=16, metadata={"help": "pictures that the variants caption"})
    rounds: int = field(default=3, metadata={"help": "times that the variants take turns"})
    batch_size: int = field(default=16, metadata={"help": "pictures together, where they are"})
    run: int = field(default=0, metadata={"help": "pictures of the long run; 0: none"})
    plot: str | None = field(default=None, metadata={"help": "SVG of the long run"})


@dataclass(frozen=True)
class Variant:
    """One way of searching; each adds a saving to the one before it."""

    name: str
    cached_text: bool = True
    pruned: bool = True
    together: bool = True
    budget: int = DEFAULT_CACHE_BYTES


VARIANTS = (
    Variant(
        "as published: scorer reads whole strings", cached_text=False, pruned=False, together=False, budget=0
    ),
    Variant("+ the text tower keeps prefixes", pruned=False, together=False, budget=0),
    Variant("+ hopeless candidates are dropped", together=False, budget=0),
    Variant("+ pictures together", budget=0),
    Variant("+ prefixes are kept between pictures"),
)


def main(config: Config) -> None:
    captioner = captioner_of(config.shape, config.bpe, config.top_k)
    settings = MagicSearch(config.top_k, config.alpha, config.beta, config.max_new_tokens)
    peak = matrix_peak()
    print(f"{config.shape}, {settings}, {torch.get_num_threads()} threads, {peak:.0f} GFLOP/s at best")
    with ImageFiles(config.images) as images:
        names = list(images)
        pictures = [images.read(name) for name in names[: config.count]]
        compare_variants(config, captioner, settings, pictures, peak)
        if config.run:
            long_run(config, captioner, settings, images, names[: config.run])
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


@dataclass
class Measurement:
    """What one variant took."""

    ids: list[list[int]]
    """Token ids of its captions."""

    operations: float
    """Floating point operations of a picture."""

    times: list[float] = field(default_factory=list)
    """Seconds of every picture in every round."""

    clock: Clock = field(default_factory=lambda: Clock())


def compare_variants(
    config: Config, captioner: Captioner, settings: MagicSearch, pictures: Sequence[bytes], peak: float
) -> None:
    """Time of each variant, its shares, and floating point operations."""
    pixels = torch.stack([captioner.scorer.pixels(picture) for picture in pictures])
    caches = {variant: cache_of(captioner, variant) for variant in VARIANTS}
    search(
        caches[VARIANTS[-1]], pixels[:1], settings, VARIANTS[-1]
    )  # so that nothing is run for the first time
    measurements = {}
    for variant, cache in caches.items():
        cache.clear()
        ids, operations = counted(partial(search_all, config, cache, pixels, settings, variant, []))
        measurements[variant] = Measurement(ids, operations / len(pictures))
    first = measurements[VARIANTS[0]]
    for variant in VARIANTS * config.rounds:
        measurement, cache = measurements[variant], caches[variant]
        cache.clear()
        with measurement.clock.watching(cache):
            ids = search_all(config, cache, pixels, settings, variant, measurement.times)
        if not ids == measurement.ids == first.ids:
            raise SystemExit(f"{variant.name!r} gives other captions than the first variant")
    print_variants(measurements, peak)
    print(f"{len(pictures)} pictures, the same captions by every variant")


def print_variants(measurements: dict[Variant, Measurement], peak: float) -> None:
    slowest = statistics.median(measurements[VARIANTS[0]].times)
    header = ("way", "median s/picture", "times faster", "GFLOP", "GFLOP/s", "of peak", *Clock.PARTS)
    rows = []
    for variant, measurement in measurements.items():
        times, seconds = measurement.times, measurement.clock.seconds
        median, gigaflops = statistics.median(times), measurement.operations / 1e9
        rate = gigaflops / (sum(seconds[part] for part in Clock.MODELS) / len(times))
        row = [variant.name, f"{median:.3f}", f"{slowest / median:.1f}", f"{gigaflops:.1f}"]
        row += [f"{rate:.0f}", f"{rate / peak:.0%}"]
        rows.append(row + [f"{seconds[part] / sum(times):.0%}" for part in Clock.PARTS])
    print(aligned(header, rows))


def long_run(
    config: Config, captioner: Captioner, settings: MagicSearch, images: ImageFiles, names: Sequence[str]
) -> None:
    """Cost a picture as the run grows, decoding of pictures included, and how much memory is in use."""
    cache = captioner.cache
    cache.clear()
    milestones = [count for count in (10, 100, 1000, 8000) if count < len(names)] + [len(names)]
    header = (
        "pictures",
        "s/picture so far",
        "s/picture of the last half",
        "prefixes found",
        "cache MB",
        "GB",
    )
    rows = []
    seconds = [0.0]
    started = time.monotonic()
    captions = captioner.caption(
        (images.read(name) for name in names), settings, batch_size=config.batch_size
    )
    for count, _ in enumerate(captions, start=1):
        seconds.append(time.monotonic() - started)
        if count in milestones:
            last_half = (seconds[count] - seconds[count // 2]) / (count - count // 2)
            rows.append(
                (
                    f"{count}",
                    f"{seconds[count] / count:.4f}",
                    f"{last_half:.4f}",
                    f"{cache.stats.hit_rate:.0%}",
                    f"{cache.nbytes / 1e6:.0f}",
                    f"{resident():.2f}",
                )
            )
    print(aligned(header, rows))
    if config.plot is not None:
        draw(config.plot, config, seconds)


class Clock:
    """Exclusive seconds of the parts of a search."""

    PARTS = ("pictures", "language model", "text tower", "words")
    MODELS = PARTS[:3]

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def watching(self, cache: PrefixCache) -> Iterator[None]:
        model, scorer = cache.language_model, cache.scorer
        texts: Any = cache._texts
        methods = [
            (scorer, "encode_pixels", "pictures"),
            (model, "extend", "language model"),
            (model, "probabilities", "language model"),
            (texts, "_run", "text tower"),
            (texts, "_encode", "text tower"),
            (texts, "_tokenize", "words"),
            (model, "texts", "words"),
        ]
        before = [(owner, name, getattr(owner, name), name in vars(owner)) for owner, name, _ in methods]
        for owner, name, part in methods:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        try:
            yield
        finally:
            for owner, name, method, is_attribute in before:
                setattr(owner, name, method) if is_attribute else delattr(owner, name)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started = time.monotonic()
            self._inner.append(0.0)
            try:
                return function(*args)
            finally:
                spent = time.monotonic() - started
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def cache_of(captioner: Captioner, variant: Variant) -> PrefixCache:
    scorer = captioner.scorer
    tower = scorer.text_tower
    scorer.text_tower = tower if variant.cached_text else None
    cache = PrefixCache(captioner.language_model, scorer, variant.budget)
    scorer.text_tower = tower
    return cache


def search_all(
    config: Config,
    cache: PrefixCache,
    pixels: torch.Tensor,
    settings: MagicSearch,
    variant: Variant,
    times: list[float],
) -> list[list[int]]:
    """Token ids of all captions; appends the seconds of each picture."""
    ids = []
    for batch in pixels.split(config.batch_size if variant.together else 1):
        started = time.monotonic()
        ids += search(cache, batch, settings, variant)
        times += [(time.monotonic() - started) / len(batch)] * len(batch)
    return ids


def search(
    cache: PrefixCache, pixels: torch.Tensor, settings: MagicSearch, variant: Variant
) -> list[list[int]]:
    context = DecodingContext(cache, cache.scorer.encode_pixels(pixels))
    ids: list[list[int]] = [[] for _ in pixels]
    for time_step in magic_time_steps(context, settings, top_n=1 if variant.pruned else settings.top_k):
        for row, step in time_step.steps(cache.language_model):
            ids[row].append(step.token_id)
    return ids


def matrix_peak(side: int = 2048) -> float:
    """GFLOP/s of a product of two square float32 matrices, the best of ten."""
    left, right = torch.randn(2, side, side)
    times = []
    for _ in range(10):
        started = time.monotonic()
        left @ right
        times.append(time.monotonic() - started)
    return 2 * side**3 / min(times) / 1e9


def resident() -> float:
    """Gigabytes that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def draw(path: str, config: Config, seconds: Sequence[float]) -> None:
    require("matplotlib").use("svg")
    pyplot = require("matplotlib.pyplot")
    numbers = range(config.batch_size, len(seconds))
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(numbers, [1000 * seconds[n] / n for n in numbers])
    axes.set(
        xscale="log",
        ylim=(0, None),
        xlabel="pictures",
        ylabel="milliseconds a picture so far",
        title=config.shape,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
