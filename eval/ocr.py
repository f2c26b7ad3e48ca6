"""Is text in pictures read, and said? Signs drawn into photographs, and photographs as they are.

    python eval/ocr.py --images $MAGICAP_DATA/flickr8k/images-test.tar \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl --split test

Signs of real words are drawn into the first of the pictures that are chosen by ``--seed``: five fonts, one
line or two, a quarter to a half of the picture's width, turned by up to 10 degrees, seen a little from the
side, blurred a little. A sign is read right if all of its words were read, and said if they are in the
caption. The other pictures stay as they are. ``--weights`` are values of ``prefer_weight``, a row each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from transformers import HfArgumentParser

from magicap import Captioner
from magicap.captioners.presets import DEFAULT
from magicap.captioners.with_text import preferring_text
from magicap.data.captions import read_captions
from magicap.data.pictures import ImageFiles
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BadSettings, MagicapError
from magicap.images.reader import open_image
from magicap.metrics.cider import cider_d
from magicap.ocr.reading import read_text
from magicap.ocr.saying import say_text, words_of
from magicap.ocr.settings import OcrSettings
from magicap.results import TextLine

SIGNS = {
    "dev": "STOP AHEAD, OPEN, EXIT, NO PARKING, BUS STOP, COFFEE, ONE WAY, POLICE, PIZZA, FOR SALE, TAXI, "
    "BEACH CLOSED, SLOW, HOTEL, KEEP OUT, ICE CREAM, YIELD, SCHOOL ZONE, SPEED LIMIT 25, MARKET, DANGER, "
    "BOOKS, WELCOME, RESTAURANT, WET PAINT, FISH, TICKETS, PUSH, LIBRARY, ROAD CLOSED",
    "test": "STOP, NO ENTRY, PARKING, WET FLOOR, CAUTION, BAKERY, TRAIN STATION, NO DOGS, SUPERMARKET, "
    "DO NOT ENTER, BAR, FRESH FRUIT, CLOSED, PARK, HOT DOGS, WARNING, TOILETS, BIKE LANE, SALE, FIRE EXIT, "
    "GARAGE, FLOWERS, SWIMMING POOL, NO SMOKING, INFORMATION, TEA ROOM, PRIVATE, DEAD END, CITY HALL, "
    "MAIN STREET",
}
"""What settings are chosen on, and what figures are of."""

FONTS = "DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol", "cmss10"
COLOURS = ("#c00000", "white"), ("#006e3c", "white"), ("#fac800", "black"), ("#f5f5f5", "black")
TEXT_SIZE, MARGIN = 80, 40  # pixels, before a sign is made smaller


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    captions: str = field(metadata={"help": "their captions"})
    split: str = field(default="test", metadata={"help": "which pictures: dev, or another, with other signs"})
    signs: int = field(default=30, metadata={"help": "pictures that signs are drawn into, at most 30"})
    plain: int = field(default=100, metadata={"help": "pictures that stay as they are"})
    weights: list[float] = field(
        default_factory=lambda: [BeamMagicSearch.prefer_weight], metadata={"help": "of steering, a row each"}
    )
    min_confidence: float = field(default=OcrSettings.min_confidence, metadata={"help": "of a line"})
    show: bool = field(default=False, metadata={"help": "also print every picture with text"})
    preset: str = field(default=DEFAULT, metadata={"help": "who captions"})
    seed: int = field(default=0, metadata={"help": "of pictures and signs"})


@dataclass
class Picture:
    """A picture, what was read in it, and what people say of it."""

    name: str
    image: Image.Image
    references: Sequence[str]
    sign: str
    lines: list[TextLine]

    @property
    def is_read_right(self) -> bool:
        return set(words_of(self.sign)) <= {word for line in self.lines for word in words_of(line.text)}

    def is_said(self, caption: str) -> bool:
        return set(words_of(self.sign)) <= set(words_of(caption))


def main(config: Config) -> None:
    pictures = read_pictures(config)
    captioner = Captioner.from_pretrained(config.preset)
    if not isinstance(captioner.decoding, BeamMagicSearch):
        raise BadSettings(f"{config.preset} does not search by BeamMagicSearch, which alone text steers")
    signs, plain = pictures[: config.signs], pictures[config.signs :]
    right = sum(picture.is_read_right for picture in signs)
    print(f"signs read right: {right} of {len(signs)}")
    print(f"pictures as they are in which text is read: {sum(bool(p.lines) for p in plain)} of {len(plain)}")
    print("| weight | signs said | with append | CIDEr-D | with append | pictures as they are, CIDEr-D | "
          "those with text |")  # fmt: skip
    print("|---" + "|--:" * 6 + "|")
    unsteered = captioner.caption([picture.image for picture in pictures])
    for weight in [0.0, *config.weights]:
        decoding = replace(captioner.decoding, prefer_weight=weight)
        captions = [
            captioner.caption(picture.image, preferring_text(decoding, picture.lines)).text
            if weight and picture.lines
            else before.text
            for picture, before in zip(pictures, unsteered, strict=True)
        ]
        print_row(f"{weight:g}" if weight else "0 (off)", signs, plain, captions)
        if config.show:
            for picture, before, caption in zip(pictures, unsteered, captions, strict=True):
                if picture.lines:
                    texts = " / ".join(line.text for line in picture.lines)
                    print(f"  {picture.name} [{picture.sign}] {texts} | {before} | {caption}")


def read_pictures(config: Config) -> list[Picture]:
    """Some pictures of a split, the first with signs; text is read in all of them."""
    generator = np.random.default_rng(config.seed)
    rows = read_captions(config.captions, (config.split,))
    chosen = generator.choice(len(rows), config.signs + config.plain, replace=False)
    signs = SIGNS.get(config.split, SIGNS["test"]).split(", ")[: config.signs]
    if len(signs) < config.signs:
        raise BadSettings(f"--signs: expected at most {len(signs)}, found {config.signs}")
    settings = OcrSettings(min_confidence=config.min_confidence)
    pictures = []
    with ImageFiles(config.images) as files:
        for number, index in enumerate(chosen):
            row = rows[index]
            image = open_image(files.read(row.image))
            sign = signs[number] if number < len(signs) else ""
            image = with_sign(image, sign, generator) if sign else image
            pictures.append(Picture(row.image, image, row.captions, sign, read_text(image, settings)))
    return pictures


def with_sign(picture: Image.Image, words: str, generator: np.random.Generator) -> Image.Image:
    """The picture with a sign somewhere in it."""
    panel = drawn_sign(words, generator)
    size = np.array(picture.size)
    width, height = np.array(panel.size) * min(
        generator.uniform(0.25, 0.5) * size[0] / panel.width, 0.6 * size[1] / panel.height
    )
    panel = panel.resize((round(width), round(height)), Image.Resampling.LANCZOS)
    flat = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * panel.size
    angle = np.radians(generator.uniform(-10, 10))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    seen = flat @ turn.T + generator.uniform(-0.08, 0.08, (4, 2)) * height
    seen -= seen.min(axis=0)
    seen += generator.uniform(0, 1, 2) * np.maximum(size - seen.max(axis=0), 0)
    placed = panel.transform(
        picture.size, Image.Transform.PERSPECTIVE, coefficients(seen, flat), Image.Resampling.BICUBIC
    )
    placed = placed.filter(ImageFilter.GaussianBlur(generator.uniform(0, 0.8)))
    return Image.composite(placed.convert("RGB"), picture, placed.getchannel("A"))


def drawn_sign(words: str, generator: np.random.Generator) -> Image.Image:
    """A sign of its own, RGBA."""
    text = words if generator.random() < 0.5 else words.replace(" ", "\n")
    ground, ink = COLOURS[generator.integers(len(COLOURS))]
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(fonts / f"{FONTS[generator.integers(len(FONTS))]}.ttf", TEXT_SIZE)
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    width, height = round(box[2] - box[0]) + 2 * MARGIN, round(box[3] - box[1]) + 2 * MARGIN
    sign = Image.new("RGBA", (width, height), ground)
    pen = ImageDraw.Draw(sign)
    pen.rectangle((8, 8, width - 9, height - 9), outline=ink, width=5)
    pen.multiline_text((width / 2, height / 2), text, fill=ink, font=font, anchor="mm", align="center")
    return sign


def coefficients(seen: NDArray[np.float64], flat: NDArray[np.float64]) -> list[float]:
    """Of Pillow's perspective transform that puts corners (4, 2) of a flat sign where they are seen."""
    back = cv2.getPerspectiveTransform(seen.astype(np.float32), flat.astype(np.float32))
    values: list[float] = (back / back[2, 2]).ravel()[:8].tolist()
    return values


def print_row(name: str, signs: Sequence[Picture], plain: Sequence[Picture], captions: Sequence[str]) -> None:
    with_signs, others = captions[: len(signs)], captions[len(signs) :]
    appended = [say_text(caption, picture.lines) for picture, caption in zip(signs, with_signs, strict=True)]
    said = [
        sum(picture.is_said(caption) for picture, caption in zip(signs, texts, strict=True))
        for texts in (with_signs, appended)
    ]
    texts = [number for number, picture in enumerate(plain) if picture.lines]
    figures = (
        score(with_signs, signs),
        score(appended, signs),
        score(others, plain),
        score([others[number] for number in texts], [plain[number] for number in texts]),
    )
    print(f"| {name} | {said[0]} | {said[1]} | {' | '.join(figures)} |", flush=True)


def score(captions: Sequence[str], pictures: Sequence[Picture]) -> str:
    """100 times CIDEr-D; nothing where there are not two pictures."""
    if len(pictures) < 2:
        return "-"
    references = [picture.references for picture in pictures]
    return f"{100 * cider_d(captions, references)['CIDEr-D'].value:.1f}"


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"ocr.py: {error}")
