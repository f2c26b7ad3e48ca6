"""Tune a captioner's language model and soft prompt on captioned pictures: ClipCap, a supervised neighbour.

What tune_prompted.py learns from text alone, this learns from pictures and their captions (ClipCap, Mokady et
al. 2021): every caption is conditioned on the vector of its picture by the frozen scorer. It says how far a
text-only captioner is from one that learned from pairs, with the same language model and scorer.

    python recipes/tune_on_pictures.py --out runs/clipcap \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar
    magicap caption photo.jpg --preset runs/clipcap

The captioner has no memory and decodes by beam search. The checkpoint is chosen on dev captions behind their
pictures. A second run of the same command resumes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cli import run

from magicap import BeamMagicSearch, Captioner, LanguageModel
from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int
from magicap.data import CaptionedImage, ImageFiles
from magicap.training import processes
from magicap.training.checks import open_run_folder
from magicap.training.image_vectors import image_vectors
from magicap.training.loop import TrainingState, fit
from magicap.training.objectives.soft_prompt import PictureCrossEntropy
from magicap.training.options import TrainingOptions
from magicap.training.pairs import captions_of, read_captioned_images
from magicap.training.phases import digest
from magicap.training.sentences import Sentences, evaluate_text
from magicap.training.soft_prompts import SoftPromptTuning

MAY_CHANGE = ("epochs", "learning_rate", "prompt_rate")
BEST = Path("training", "best")


@dataclass(frozen=True)
class Config(TrainingOptions, SoftPromptTuning):
    captions: list[str]
    """Data sets, of which the train split is read."""

    images: list[str]
    """Tar files or folders with the pictures of all splits."""

    out: str
    """Folder of the new captioner; training goes to <out>/training."""

    validation: list[str] = field(default_factory=list)
    """Data sets whose dev or val split chooses the checkpoint; default: those of --captions."""

    base: str = DEFAULT
    """Preset or folder of the captioner to start from."""

    epochs: int = 2
    """Number of passes over the captions."""

    max_new_tokens: int = 20
    """Longest caption that the captioner writes, in tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "max_tokens", "max_new_tokens"):
            require_int(f"--{name}", getattr(self, name))


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    captioner.language_model.require_room(config.max_tokens - 1)
    sets = {
        "train": rows(config.captions, ("train",)),
        "dev": rows(config.validation or config.captions, ("dev", "val")),
    }
    with ImageFiles(config.images) as images:
        open_run_folder(out / "training", asdict(config), MAY_CHANGE)
        conditioned = {
            name: sentences(captioner, captioned, images, config, name) for name, captioned in sets.items()
        }
    state = train(config, captioner, conditioned["train"], conditioned["dev"])
    if processes.is_first():
        save(config, captioner)
        print(json.dumps({"captions": len(conditioned["train"]), **state.state_dict()}))


def rows(paths: Sequence[str], splits: tuple[str, ...]) -> list[CaptionedImage]:
    """The captioned pictures of some splits of all data sets."""
    return [row for path in paths for row in read_captioned_images(path, splits)]


def sentences(
    captioner: Captioner, captioned: Sequence[CaptionedImage], images: ImageFiles, config: Config, name: str
) -> Sentences:
    """All captions, each with the vector of its picture, (D,)."""
    pictures = [row.image for row in captioned]
    key = digest(captioner.scorer.fingerprint, pictures)
    file = Path(config.out, "training", f"{name}-{key}.pt")
    vectors = image_vectors(captioner.scorer, images, pictures, file)
    owner = [number for number, row in enumerate(captioned) for _ in row.captions]
    tokens = Sentences.of(captioner.language_model, captions_of(captioned), config.max_tokens)
    return replace(tokens, vectors=vectors[owner])


def train(config: Config, captioner: Captioner, train: Sentences, held_out: Sentences) -> TrainingState:
    """Tune language model and soft prompt; the best of both goes to <out>/training/best."""
    out = Path(config.out)
    language_model = captioner.language_model.to_train()
    objective = PictureCrossEntropy(language_model, captioner.scorer.width)
    step_rows, device = config.step_rows(config.batch_size), language_model.device
    return fit(
        objective,
        config.groups(objective),
        epoch=lambda epoch: train.epoch(step_rows, shuffle=config.seed + epoch),
        validate=lambda _: evaluate_text(objective.logits, held_out, config.batch_size, device),
        save_best=lambda _: language_model.save_pretrained(out / BEST),
        folder=out / "training",
        config=config.loop(config.epochs, validations_per_epoch=2, description="tuning on pictures"),
    )


def save(config: Config, captioner: Captioner) -> None:
    """The captioner with the best language model and soft prompt, and without a memory."""
    out = Path(config.out)
    decoding = BeamMagicSearch(image_weight=0.0, soft_prompt=True, max_new_tokens=config.max_new_tokens)
    language_model = LanguageModel.from_pretrained(out / BEST, device=captioner.device)
    Captioner(language_model, captioner.scorer, decoding).save_pretrained(out, dtype="float16")


if __name__ == "__main__":
    run(main, Config)
