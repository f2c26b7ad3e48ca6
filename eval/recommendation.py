"""Precision at 10 of what is recommended by pictures and sentences, by category, and what diversity costs.

    python eval/recommendation.py --captions $MAGICAP_DATA/ucm/captions.jsonl \\
        --images $MAGICAP_DATA/ucm/images-train.tar $MAGICAP_DATA/ucm/images-val.tar \\
        $MAGICAP_DATA/ucm/images-test.tar --half dev

Rows of the data set must say their ``class``. Half of the pictures, drawn by the seed, choose settings
(--half dev), the others are reported on once (--half test); each half is searched by itself, and the pictures
of a query are left out. A match is right if it is of the class of what is liked. What is not liked is the
nearest picture of another class, where there is one among the first ten, or the name of its class; that
picture is left out too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import HfArgumentParser

from magicap.captioners.presets import EMBEDDED
from magicap.data import ImageFiles
from magicap.evaluation.tables import aligned
from magicap.models.scorer import ImageTextScorer
from magicap.retrieval.diversity import marginal_relevance
from magicap.retrieval.index import POOL
from magicap.retrieval.nearest import nearest
from magicap.retrieval.queries import GAMMA, SHARE, weighed_sum

TOP = 10
WORDS = {
    "agricultural": "farmland",
    "baseballdiamond": "a baseball diamond",
    "buildings": "buildings",
    "chaparral": "chaparral",
    "denseresidential": "a dense residential area",
    "golfcourse": "a golf course",
    "mediumresidential": "a medium residential area",
    "mobilehomepark": "a mobile home park",
    "parkinglot": "a parking lot",
    "sparseresidential": "a sparse residential area",
    "storagetanks": "storage tanks",
    "tenniscourt": "a tennis court",
}
"""What UCM's classes are called in a sentence; others are one word, which takes an article."""


@dataclass(frozen=True)
class Config:
    captions: str = field(metadata={"help": "captions.jsonl whose rows have a field class"})
    images: list[str] = field(metadata={"help": "tar files or folders that hold its pictures"})
    half: str = field(default="dev", metadata={"help": "dev to choose settings, test to report on once"})
    scorer: str = field(default=str(EMBEDDED / "scorer"), metadata={"help": "scorer's folder"})
    shares: list[float] = field(
        default_factory=lambda: [0.0, SHARE, 1.0],
        metadata={"help": "of each part along the mean of the items, taken away"},
    )
    gammas: list[float] = field(
        default_factory=lambda: [GAMMA], metadata={"help": "weights of what is not liked"}
    )
    diversities: list[float] = field(
        default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.5, 0.7], metadata={"help": "of the second table"}
    )
    seed: int = field(
        default=0, metadata={"help": "of the halves, and of the pictures that are liked together"}
    )
    cache: str | None = field(default=None, metadata={"help": "safetensors file that keeps the vectors"})


@dataclass(frozen=True)
class Pictures:
    """N pictures that are searched, of C classes."""

    vectors: Tensor
    """(N, D)."""

    classes: list[int]
    captions: list[str]
    """The first of each."""

    sentences: Tensor
    """(C, D), the names of the classes."""


def main(config: Config) -> None:
    rows = [json.loads(line) for line in Path(config.captions).read_text(encoding="utf-8").splitlines()]
    scorer = ImageTextScorer.from_pretrained(config.scorer)
    vectors = encoded(config, scorer, rows)
    names = sorted({row["class"] for row in rows})
    order = list(range(len(rows)))
    random.Random(config.seed).shuffle(order)
    middle = len(order) // 2
    chosen = sorted(order[:middle] if config.half == "dev" else order[middle:])
    pictures = Pictures(
        vectors[chosen],
        [names.index(rows[number]["class"]) for number in chosen],
        [rows[number]["captions"][0] for number in chosen],
        scorer.encode_texts([sentence(name) for name in names]).float().cpu(),
    )
    print(f"{scorer.fingerprint}, {config.half}, n = {len(chosen)} pictures of {len(names)} classes")
    table = [
        [f"{share:g}", f"{gamma:g}", *precisions(pictures, share, gamma, config.seed)]
        for share in config.shares
        for gamma in config.gammas
    ]
    print(aligned(("share", "gamma", *QUERIES), table))
    print(aligned(("diversity", *DIVERSE), [diversity(pictures, value) for value in config.diversities]))


def encoded(config: Config, scorer: ImageTextScorer, rows: Sequence[dict[str, Any]]) -> Tensor:
    """The pictures' vectors (N, D), from the cache if there is one."""
    if config.cache is not None and Path(config.cache).exists():
        return load_file(config.cache)["vectors"]
    with ImageFiles(config.images) as files:
        blocks = [
            scorer.encode_images([files.read(row["image"]) for row in rows[start : start + 64]])
            for start in range(0, len(rows), 64)
        ]
    vectors = torch.cat(blocks).float().cpu().contiguous()
    if config.cache is not None:
        save_file({"vectors": vectors}, config.cache)
    return vectors


def sentence(name: str) -> str:
    return f"An aerial picture of {WORDS.get(name) or ('an ' if name[0] in 'aeiou' else 'a ') + name}."


QUERIES = (
    "sentence",
    "1 picture",
    "3 pictures",
    "picture + sentence",
    "1 picture, mixed",
    "- picture",
    "- sentence",
)
"""The last three are of those pictures alone that have another class among their first ten; the nearest such
picture is left out of all three."""


def precisions(pictures: Pictures, share: float, gamma: float, seed: int) -> list[str]:
    """Precision at 10 of each kind of query, in percent, the mean over queries."""
    rng = random.Random(seed)
    vectors, sentences, classes = pictures.vectors, pictures.sentences, pictures.classes
    right: dict[str, list[float]] = {name: [] for name in QUERIES}
    none = vectors[:0]

    def add(
        kind: str, target: int, liked: Tensor, left_out: Sequence[int], unliked: Tensor = none
    ) -> list[int]:
        query = weighed_sum(liked, unliked, vectors, gamma=gamma, share=share)
        matches = [
            n for n in nearest(query, vectors, TOP + len(left_out))[1][0].tolist() if n not in left_out
        ][:TOP]
        right[kind].append(100 * sum(classes[number] == target for number in matches) / TOP)
        return matches

    for target in range(len(sentences)):
        add("sentence", target, sentences[target : target + 1], ())
    for number, target in enumerate(classes):
        mine, words = vectors[number : number + 1], sentences[target : target + 1]
        matches = add("1 picture", target, mine, [number])
        others = [n for n, kind in enumerate(classes) if kind == target and n != number]
        three = [number, *rng.sample(others, 2)]
        add("3 pictures", target, vectors[three], three)
        add("picture + sentence", target, torch.cat([mine, words]), [number])
        wrong = next((n for n in matches if classes[n] != target), None)
        if wrong is not None:
            add("1 picture, mixed", target, mine, [number, wrong])
            add("- picture", target, mine, [number, wrong], vectors[wrong : wrong + 1])
            add("- sentence", target, mine, [number, wrong], sentences[classes[wrong]][None])
    return [mean(values) for values in right.values()]


DIVERSE = (
    "1 picture: right", "captions", "sentence: right", "captions", "classes",
)  # fmt: skip


def diversity(pictures: Pictures, value: float) -> list[str]:
    """What maximal marginal relevance gives: precision at 10, and how many captions and classes differ."""
    by_picture = [
        (diverse(pictures, pictures.vectors[number][None], [number], value), target)
        for number, target in enumerate(pictures.classes)
    ]
    by_sentence = [
        (diverse(pictures, words[None], [], value), target) for target, words in enumerate(pictures.sentences)
    ]

    def share_right(matches: Sequence[tuple[list[int], int]]) -> str:
        return mean([100 * sum(pictures.classes[n] == kind for n in row) / TOP for row, kind in matches])

    def differ(matches: Sequence[tuple[list[int], int]], of: Callable[[int], object]) -> str:
        return mean([len({of(number) for number in row}) for row, _ in matches])

    return [
        f"{value:g}",
        share_right(by_picture),
        differ(by_picture, pictures.captions.__getitem__),
        share_right(by_sentence),
        differ(by_sentence, pictures.captions.__getitem__),
        differ(by_sentence, pictures.classes.__getitem__),
    ]


def diverse(pictures: Pictures, query: Tensor, left_out: Sequence[int], value: float) -> list[int]:
    cosines, positions = nearest(query, pictures.vectors, POOL * TOP + len(left_out))
    pairs = zip(cosines[0].tolist(), positions[0].tolist(), strict=True)
    kept = [(cosine, position) for cosine, position in pairs if position not in left_out]
    relevance = torch.tensor([cosine for cosine, _ in kept])
    candidates = [position for _, position in kept]
    chosen = marginal_relevance(relevance, pictures.vectors[candidates], TOP, value)
    return [candidates[number] for number in chosen]


def mean(values: Sequence[float]) -> str:
    return f"{sum(values) / max(1, len(values)):.1f}"


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
