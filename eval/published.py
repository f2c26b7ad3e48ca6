"""Published figures as data, to be read beside ours. They are of other models, trained on other data.

Rows marked "rescored" were confirmed by scoring the authors' own output files
(tests/parity/test_published.py); the others were entered by hand from the papers and can be confirmed by
reading those only.

python eval/published.py --dataset flickr8k                            # the rows of a data set
python eval/published.py --dataset flickr8k --ours figures.csv   # below them ours, from eval/compare.py --csv
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from magicap.evaluation.tables import aligned

METRICS = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "SPICE")

MAGIC = "Su et al. 2022, arXiv 2205.02655, table 1"
ATTEND = "Xu et al. 2015, arXiv 1502.03044, table 1"
DECAP = "Li et al. 2023, arXiv 2303.03032"
CAPDEC = "Nukrai et al. 2022, arXiv 2211.00575, table 1"
VIECAP = "Fei et al. 2023, arXiv 2307.16525"
MEACAP = "Zeng et al. 2024, arXiv 2403.03715"
IFCAP = "Lee et al. 2024, arXiv 2409.18046"


@dataclass(frozen=True)
class Published:
    """A row of somebody's table, times 100 as papers print it; None where the paper gives no figure."""

    system: str
    dataset: str
    """``coco``, ``flickr30k`` (Karpathy's test splits) or ``flickr8k`` (official test split)."""

    kind: str
    """``text-only search``, ``retrieval``, ``zero-shot``, ``text-only training`` or ``supervised``."""

    source: str
    figures: tuple[float | None, ...]
    """In the order of :data:`METRICS`."""

    rescored: bool = False
    """Whether the authors' output file gave these figures here."""


_: None = None
PUBLISHED = (
    Published("top-k sampling", "coco", "text-only search", MAGIC, (33.6, 2.4, 8.3, 25.6, 3.8, 1.7)),
    Published("nucleus sampling", "coco", "text-only search", MAGIC, (32.6, 2.3, 7.8, 24.8, 3.1, 1.4)),
    Published("contrastive search", "coco", "text-only search", MAGIC, (39.5, 3.0, 10.8, 30.8, 7.7, 2.9)),
    # Its index held 128 captions; a right one scores about 53.
    Published("CLIPRe as published", "coco", "retrieval", MAGIC, (39.5, 4.9, 11.4, 29.0, 13.6, 5.3), True),
    Published("CLIPRe, the index whole", "coco", "retrieval", DECAP, (_, _, _, _, 53.4, _)),
    Published("ZeroCap", "coco", "zero-shot", MAGIC, (49.8, 7.0, 15.4, 31.8, 34.5, 9.2), True),
    Published("MAGIC", "coco", "zero-shot", MAGIC, (56.8, 12.9, 17.4, 39.9, 49.3, 11.3), True),
    Published("CapDec", "coco", "text-only training", CAPDEC, (69.2, 26.4, 25.1, 51.8, 91.8, _)),
    Published("DeCap", "coco", "text-only training", DECAP, (_, 24.7, 25.0, _, 91.2, 18.7)),
    Published("ViECap", "coco", "text-only training", VIECAP, (_, 27.2, 24.8, _, 92.9, 18.2)),
    Published("MeaCap", "coco", "text-only training", MEACAP, (_, _, _, _, 95.4, _)),
    Published("IFCap", "coco", "text-only training", IFCAP, (_, 30.8, 26.7, _, 108.0, 20.3)),
    Published("soft attention", "coco", "supervised", ATTEND, (70.7, 24.3, 23.9, _, _, _)),
    Published("hard attention", "coco", "supervised", ATTEND, (71.8, 25.0, 23.0, _, _, _)),
    Published("top-k sampling", "flickr30k", "text-only search", MAGIC, (34.0, 2.9, 9.0, 24.4, 3.3, 2.7)),
    Published("nucleus sampling", "flickr30k", "text-only search", MAGIC, (32.6, 2.4, 8.1, 23.4, 2.5, 2.4)),
    # The authors' output file scores the same CIDEr-D but BLEU-4 11.9: the table is of another file.
    Published("contrastive search", "flickr30k", "text-only search", MAGIC, (37.6, 4.3, 9.8, 25.7, 8.9, 4.6)),
    Published("CLIPRe as published", "flickr30k", "retrieval", MAGIC, (38.5, 5.2, 11.6, 27.6, 10.0, 5.7)),
    Published("ZeroCap", "flickr30k", "zero-shot", MAGIC, (44.7, 5.4, 11.8, 27.3, 16.8, 6.2)),
    Published("MAGIC", "flickr30k", "zero-shot", MAGIC, (44.5, 6.4, 13.1, 31.6, 20.4, 7.1), True),
    Published("CapDec", "flickr30k", "text-only training", CAPDEC, (55.5, 17.7, 20.0, 43.9, 39.1, _)),
    Published("DeCap", "flickr30k", "text-only training", DECAP, (_, 21.2, 21.8, _, 56.7, 15.2)),
    Published("ViECap", "flickr30k", "text-only training", VIECAP, (_, 21.4, 20.1, _, 47.9, 13.6)),
    Published("IFCap", "flickr30k", "text-only training", IFCAP, (_, 23.5, 23.0, _, 64.4, 17.0)),
    Published("soft attention", "flickr30k", "supervised", ATTEND, (66.7, 19.1, 18.5, _, _, _)),
    Published("hard attention", "flickr30k", "supervised", ATTEND, (66.9, 19.9, 18.5, _, _, _)),
    Published("soft attention", "flickr8k", "supervised", ATTEND, (67.0, 19.5, 18.9, _, _, _)),
    Published("hard attention", "flickr8k", "supervised", ATTEND, (67.0, 21.3, 20.3, _, _, _)),
)
DATASETS = tuple(dict.fromkeys(row.dataset for row in PUBLISHED))


@dataclass(frozen=True)
class Config:
    dataset: str = field(metadata={"help": f"one of {', '.join(DATASETS)}"})
    ours: str | None = field(default=None, metadata={"help": "CSV of eval/compare.py on the same data set"})


def main(config: Config) -> None:
    rows = [row for row in PUBLISHED if row.dataset == config.dataset]
    if not rows:
        raise SystemExit(f"no published figures of {config.dataset!r}: expected one of {', '.join(DATASETS)}")
    table = [
        [row.system, *map(_cell, row.figures), f" {row.kind}; {row.source}{'; rescored' * row.rescored}"]
        for row in rows
    ]
    if config.ours is not None:
        table += ours(config.ours)
    print(aligned(["system", *METRICS, ""], table))


def ours(path: str) -> list[list[str]]:
    """Rows of a CSV that eval/compare.py wrote."""
    systems: dict[str, dict[str, float]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                systems.setdefault(row["system"], {})[row["metric"]] = 100 * float(row["value"])
    except (OSError, KeyError, ValueError) as error:
        raise SystemExit(f"{path} is no CSV of eval/compare.py: {error}") from error
    return [
        [name, *(_cell(figures.get(metric)) for metric in METRICS), f" ours; {path}"]
        for name, figures in systems.items()
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
