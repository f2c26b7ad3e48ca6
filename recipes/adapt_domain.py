"""Move a captioner to a new domain with unpaired text: sentences of the domain, no captioned pictures.

    python recipes/adapt_domain.py --captions aerial.txt --images aerial_pictures/ --out runs/aerial
    magicap caption photo.jpg --preset runs/aerial

Minutes on two cores. The language model is tuned, the memory is filled anew, and the settings of the search
are tuned on it; pictures without captions (--images) make that finer. A second run of the same command
resumes.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from cli import run
from PIL.Image import Image
from transformers import set_seed

from magicap import Captioner
from magicap.adaptation.adapt import Adaptation, AdaptationSettings, adapt
from magicap.adaptation.parts import Parts
from magicap.captioners.presets import DEFAULT
from magicap.data import ImageFiles, read_sentences
from magicap.data.checks import lines_of, parse_json, read_text
from magicap.errors import BadData, BadImage, BadSettings
from magicap.images.reader import open_image
from magicap.training import processes
from magicap.training.checks import open_run_folder
from magicap.training.options import RunOptions


@dataclass(frozen=True)
class Config(RunOptions, AdaptationSettings):
    captions: list[str] = field(default_factory=list)
    """Text files with a caption a line, or data sets, of which the train split is read."""

    key: str | None = None
    """Key of the sentences, such as humorous, where --captions are JSON lines."""

    images: list[str] = field(default_factory=list)
    """Folders or tar files of pictures of the domain; no caption is read of them."""

    base: str = DEFAULT
    """Preset or folder of the captioner to start from."""

    out: str = "runs/domain"
    """Folder of the new captioner; training goes to <out>/training."""

    most_images: int = 500
    """The most pictures that the search is tuned on, the first of --images."""

    def __post_init__(self) -> None:
        RunOptions.__post_init__(self)
        AdaptationSettings.__post_init__(self)


def main(config: Config) -> None:
    if not config.captions:
        raise BadSettings("give --captions FILE, sentences of the new domain, a caption a line")
    processes.start(config.cpu)
    set_seed(config.seed)
    out = Path(config.out)
    texts = [text for path in config.captions for text in read_texts(path, config.key)]
    images = read_images(config) if config.images else None
    base = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    open_run_folder(out / "training", asdict(config), ("epochs", "learning_rate"))
    parts, report = adapt(
        base.parts,
        texts,
        images,
        folder=out / "training",
        settings=AdaptationSettings(
            **{option.name: getattr(config, option.name) for option in fields(AdaptationSettings)}
        ),
        run=config,
        on_message=note,
    )
    if processes.is_first():
        save(config, parts, report)


def note(line: str) -> None:
    """What comes next, on stderr, said once."""
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)


def save(config: Config, parts: Parts, report: Adaptation) -> None:
    """The adapted captioner and its model card, which is printed too."""
    out = Path(config.out)
    adapted = Captioner(parts.language_model, parts.scorer, parts.decoding, parts.memory)
    adapted.save_pretrained(out, dtype="float16")
    card = model_card(config, parts, report)
    (out / "README.md").write_text(card, encoding="utf-8")
    print(card)


def read_images(config: Config) -> list[Image]:
    """The first pictures of --images; those that cannot be read are left out, with a line on stderr."""
    files, images = ImageFiles(config.images), []
    for name in list(files)[: config.most_images]:
        try:
            images.append(open_image(files.read(name)))
        except BadImage as error:
            note(f"{name} is left out: {error}")
    return images


def read_texts(path: str, key: str | None) -> list[str]:
    """The train split of a data set, a text file, or what stands under one key of JSON lines."""
    if key is None:
        return read_sentences(path)
    file = Path(path)
    rows = [parse_json(line, place) for place, line in lines_of(file, read_text(file))]
    values = [row[key] for row in rows if key in row and row.get("split", "train") == "train"]
    if not values:
        keys = ", ".join(rows[0]) if rows else "no rows"
        raise BadData(f"{path}: expected rows of its train split with the key {key!r}, found {keys}")
    return [text for value in values for text in ([value] if isinstance(value, str) else value)]


def model_card(config: Config, parts: Parts, report: Adaptation) -> str:
    rows = [
        ("language model, bits a character (less is better)", "bits_per_character", 3),
        ("memory, CIDEr-D of what is selected for noised sentences (more is better)", "utility", 1),
    ]
    table = "\n".join(
        f"| {name} | {_rounded(report.before.get(key), digits)} | {_rounded(report.after.get(key), digits)} |"
        for name, key, digits in rows
    )
    return f"""# A captioner adapted to a domain

Made by `recipes/adapt_domain.py` from `{config.base}` with unpaired text: {", ".join(config.captions)}.
No captioned picture was read.

- {report.learned} different sentences learned, {report.held_out} held out, seed {config.seed}.
- Pictures without captions that the decoding was tuned on: {", ".join(config.images) or "none"}.
- Memory: {parts.memory!r}. Decoding: {parts.decoding!r}.
- Confidence of its captions: None, since that of the base does not hold here;
  `recipes/calibrate_confidence.py` fits it anew on captioned pictures of the domain.

On the sentences held out:

| | before | after |
|---|--:|--:|
{table}

Origin and licence of the base hold on; those of the text are to be added by whoever gives this on.
"""


def _rounded(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    run(main, Config)
