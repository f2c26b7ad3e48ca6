"""Draw the pictures of the documentation that explain a caption, of pictures that may be passed on.

    python eval/explaining_pictures.py --out docs

By the embedded captioner: ``why_hypotheses.svg``, which whole captions competed in the default decoding;
``why_tokens.svg``, which tokens competed at each step of magic search with the soft prompt; and
``where_words.png``, where in the picture the fine-grained scorer finds each word of the caption. Where the
pictures come from stands in docs/sample.md. The captions are printed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from transformers import HfArgumentParser

from magicap.captioners.presets import DEFAULT
from magicap.captioners.zero_shot import Captioner
from magicap.checks import require_int
from magicap.decoding.settings import MagicSearch
from magicap.drawing import require_drawable
from magicap.errors import BadSettings, MagicapError
from magicap.explanations.alignment import draw_alignment

HYPOTHESES, TOKENS, WORDS = "why_hypotheses.svg", "why_tokens.svg", "where_words.png"


@dataclass(frozen=True)
class Config:
    out: str = field(metadata={"help": "folder of the drawings"})
    hypotheses: str = field(
        default="docs/pictures/coffee.jpg",
        metadata={"help": "the picture whose competing captions are drawn"},
    )
    tokens: str = field(
        default="docs/pictures/cat.jpg", metadata={"help": "the picture whose competing tokens are drawn"}
    )
    words: str = field(default="docs/sample.jpg", metadata={"help": "the picture in which words are found"})
    candidates: int = field(default=5, metadata={"help": "how many captions, or tokens of a step, are drawn"})
    preset: str = field(default=DEFAULT, metadata={"help": "a preset or a captioner's folder"})

    def __post_init__(self) -> None:
        require_int("--candidates", self.candidates)


def main(config: Config) -> None:
    out = Path(config.out)
    for name in (HYPOTHESES, TOKENS, WORDS):
        require_drawable(out / name, [config.hypotheses, config.tokens, config.words])
    captioner = Captioner.from_pretrained(config.preset, device="cpu")
    fine = captioner.fine_grained
    if fine is None:
        raise BadSettings(f"{config.preset} has no fine-grained scorer, which finds words in pictures")

    hypotheses = captioner.explain(config.hypotheses, candidates=config.candidates)
    hypotheses.save(out / HYPOTHESES)
    print(f"{HYPOTHESES}: {hypotheses.caption}")

    magic = MagicSearch(soft_prompt=True)
    tokens = captioner.explain(config.tokens, magic, candidates=config.candidates)
    tokens.save(out / TOKENS)
    print(f"{TOKENS}: {tokens.caption}")

    caption = captioner.caption(config.words)
    draw_alignment(config.words, fine.align(config.words, str(caption)), out / WORDS)
    in_fewer_colours(out / WORDS)
    print(f"{WORDS}: {caption}")


def in_fewer_colours(path: Path) -> None:
    """Write a PNG file anew with 256 colours, dithered: half of its bytes."""
    with Image.open(path) as drawing:
        colours = drawing.convert("RGB")
    palette = colours.quantize(256)
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"explaining_pictures.py: {error}")
