"""Draw where in a picture each word of a caption finds itself, by fine-grained matching.

    python eval/alignment.py --image docs/sample.jpg --fine_grained runs/fine_grained/best --out alignment.png

Without ``--text``, the captioner's own caption is drawn. The captioner's scorer must be the one that the
fine-grained scorer was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from magicap.captioners.presets import DEFAULT, EMBEDDED
from magicap.captioners.zero_shot import Captioner
from magicap.explanations.alignment import draw_alignment
from magicap.models.fine_grained.scorer import FineGrainedScorer

FINE_GRAINED = "fine_grained"


@dataclass(frozen=True)
class Config:
    image: str = field(metadata={"help": "the picture"})
    out: str = field(metadata={"help": "file to write: .png, .svg or .pdf"})
    text: str | None = field(default=None, metadata={"help": "a caption; none: the captioner's own"})
    fine_grained: str = field(
        default=str(EMBEDDED / FINE_GRAINED),
        metadata={"help": "folder that recipes/train_fine_grained.py wrote"},
    )
    preset: str = field(default=DEFAULT, metadata={"help": "a preset or a captioner's folder"})


def main(config: Config) -> None:
    captioner = Captioner.from_pretrained(config.preset)
    fine = FineGrainedScorer.from_pretrained(config.fine_grained, captioner.scorer)
    text = str(captioner.caption(config.image)) if config.text is None else config.text
    draw_alignment(config.image, fine.align(config.image, text), config.out)
    print(text)


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
