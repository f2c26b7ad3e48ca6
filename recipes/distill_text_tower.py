"""Teach a causal text tower the space of a pretrained sentence encoder, from caption text alone.

The encoder is the teacher: it was trained on a billion sentences, but is no causal model, so it could not
steer a search word by word. The student is a small open_clip text tower that learns to give every caption,
however it is spelled, the teacher's vector, reduced to its principal axes. Beginnings of captions learn the
vector of the whole caption.

    pip install 'magicap[train]'
    python recipes/distill_text_tower.py --out runs/text_tower --tokenizer runs/tokenizer/scorer \\
        --text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/coco_restval.txt \\
        --validation $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --image_weights $MAGICAP_DATA/../weights/vit_tiny_patch16_224.safetensors

What it writes to <out>/best is a whole open_clip model, so that build_classifier_scorer.py and
train_scorer.py can start from it: image trunk as given, its projection still random. A second run of the same
command resumes.

With --base a trained scorer is its own teacher: its text tower learns to give prefixes of captions the
vector that it gives the whole caption, which it keeps, so the image tower stays as it is. That makes the
score of an unfinished caption a value function: what will become of it?
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cli import run
from torch import Tensor
from torch.nn import Parameter
from torch.utils.data import Dataset

from magicap.checks import require_int, require_number
from magicap.data import CaptionedImage, read_sentences
from magicap.errors import BadSettings
from magicap.models.scorer import ImageTextScorer
from magicap.training import processes
from magicap.training.batches import Batch, Epoch, shuffled
from magicap.training.checks import open_run_folder, require_rows
from magicap.training.fresh_scorer import ScorerShape, fresh_scorer
from magicap.training.loop import fit
from magicap.training.objectives.distillation import Distillation
from magicap.training.options import TrainingOptions
from magicap.training.pairs import captions_of, read_captioned_images
from magicap.training.parameter_groups import split_by_decay
from magicap.training.progress import progress
from magicap.training.teacher import TeacherVectors, cut_short, encode_with_teacher, reduce_width, respell
from magicap.training.validation import text_recall

MAY_CHANGE = ("epochs", "learning_rate")


@dataclass(frozen=True)
class Config(TrainingOptions, ScorerShape):
    text: list[str]
    """Data sets, of which the train split is read without Flickr8k's dev and test captions, or text files
    with a caption a line."""

    validation: list[str]
    """Data sets whose dev or val split chooses the checkpoint."""

    out: str
    """Folder of this run; the best model goes to <out>/best."""

    tokenizer: str | None = None
    """Folder of the tokenizer that a fresh student reads."""

    base: str | None = None
    """Folder of a trained scorer that is student and teacher, instead of a fresh student and a sentence
    encoder."""

    teacher: str | None = None
    """Name or folder of the sentence-transformers model that teaches; default: all-MiniLM-L6-v2 as
    packaged."""

    image_weights: str | None = None
    """File in safetensors format with the image trunk's weights under timm's names; default: random
    weights."""

    cut_share: float = 0.2
    """Share of the sentences of which only a beginning is read, 0 to 1."""

    epochs: int = 3
    """Number of passes over the text."""

    batch_size: int = 512
    """Number of sentences in a batch of one process."""

    learning_rate: float = 2e-3
    """Peak learning rate of the student."""

    weight_decay: float = 0.02
    """Weight decay of AdamW, on matrices only."""

    workers: int = 0
    """Number of processes that make the batches beside the main one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.base is None) == (self.tokenizer is None):
            raise BadSettings("give --tokenizer FOLDER for a fresh student, or --base FOLDER, and not both")
        for name in ("width", "text_layers", "text_heads", "batch_size"):
            require_int(f"--{name}", getattr(self, name))
        if self.width % self.text_heads:
            raise BadSettings(
                f"--width must be a multiple of --text_heads, found {self.width} and {self.text_heads}"
            )
        require_number("--cut_share", self.cut_share, lambda share: 0 <= share <= 1, "between 0 and 1")


class Spellings(Dataset[Batch]):
    """The texts of one epoch as people write them, each with the row of its teacher's vector."""

    def __init__(self, texts: Sequence[str], cut_share: float, seed: int) -> None:
        self.texts, self.cut_share, self.seed = texts, cut_share, seed

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> Batch:
        rng = random.Random(f"{self.seed}-{row}")
        change = cut_short if rng.random() < self.cut_share else respell
        return {"text": change(self.texts[row], rng), "row": row}


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    dev = [
        row for path in config.validation for row in read_captioned_images(path, ("dev", "val"), at_least=2)
    ]
    texts = [text for path in config.text for text in read_sentences(path)]
    require_rows(texts, ", ".join(config.text), ("train",))
    open_run_folder(out, asdict(config), MAY_CHANGE)
    held_out = captions_of(dev)
    scorer = student(config)
    teacher = teacher_vectors(config, scorer, list(dict.fromkeys([*texts, *held_out])))
    train = list(dict.fromkeys(texts))
    fit(
        Distillation(scorer),
        split_by_decay(text_tower(scorer), config.learning_rate, config.weight_decay),
        epoch=lambda number: epoch(config, teacher, train, number),
        validate=lambda _: validation(config, scorer, teacher, dev),
        save_best=lambda _: scorer.save_pretrained(out / "best"),
        folder=out / "training",
        config=config.loop(config.epochs, validations_per_epoch=2, description="distilling the text tower"),
    )


def student(config: Config) -> ImageTextScorer:
    """The base, or a fresh scorer of the shape that the options give."""
    if config.base is not None:
        return ImageTextScorer.from_pretrained(config.base)
    assert config.tokenizer is not None
    return fresh_scorer(ScorerShape.of(config), config.tokenizer, config.image_weights)


def text_tower(scorer: ImageTextScorer) -> list[Parameter]:
    """What learns: all but the image tower and the temperature, which the image tower was trained with."""
    parameters = scorer.model.named_parameters()
    return [p for name, p in parameters if not name.startswith(("visual.", "logit_scale"))]


def epoch(config: Config, teacher: TeacherVectors, train: Sequence[str], number: int) -> Epoch:
    """The texts of an epoch, each batch with the teacher's vectors of them, (B, D)."""

    def collate(rows: Sequence[Batch]) -> Batch:
        _, vectors = teacher.of([train[row["row"]] for row in rows])
        return {"texts": [row["text"] for row in rows], "teacher": vectors}

    seed = config.seed + number
    steps = shuffled(len(train), config.step_rows(config.batch_size), seed)
    return Epoch(Spellings(train, config.cut_share, seed), steps, collate, config.workers)


def validation(
    config: Config, scorer: ImageTextScorer, teacher: TeacherVectors, dev: Sequence[CaptionedImage]
) -> dict[str, float]:
    """Mean cosines of student and teacher on held-out captions, ``whole`` and their ``prefixes``;
    ``score``, their mean with the shares that both have in training; and the student's recall."""
    held_out = captions_of(dev)
    rng = random.Random(config.seed)
    targets = teacher.of(held_out)[1]

    def cosine(texts: Sequence[str]) -> float:
        return float((scorer.encode_texts(texts).cpu() * targets).sum(dim=1).mean())

    whole, prefixes = cosine(held_out), cosine([cut_short(text, rng) for text in held_out])
    score = (1 - config.cut_share) * whole + config.cut_share * prefixes
    return text_recall(scorer, dev) | {"score": score, "whole": whole, "prefixes": prefixes}


def is_encoded(folder: Path, texts: Sequence[str]) -> bool:
    """Whether a folder holds the teacher's vectors of these texts, and not of those of a file before."""
    return TeacherVectors.is_saved(folder) and TeacherVectors.load(folder).texts == list(texts)


def teacher_vectors(config: Config, scorer: ImageTextScorer, texts: Sequence[str]) -> TeacherVectors:
    """The teacher's vectors of all texts, computed once and kept in the folder of the run."""
    folder = Path(config.out)
    with processes.first_alone():
        if processes.is_first() and not is_encoded(folder, texts):
            TeacherVectors(texts, encoded(config, scorer, texts)).save(folder)
    return TeacherVectors.load(folder)


def encoded(config: Config, scorer: ImageTextScorer, texts: Sequence[str]) -> Tensor:
    """(N, D) unit vectors of texts by the teacher; the scorer before it learns, where it is the base."""
    if config.base is not None:
        with progress(len(texts), "encoding captions", unit="caption") as bar:
            return scorer.encode_texts(texts, on_progress=bar.update).cpu()
    vectors = encode_with_teacher(
        config.teacher,
        texts,
        device="cpu" if config.cpu else None,
        bfloat16=config.mixed_precision == "bf16",
    )
    return reduce_width(vectors, config.width)


if __name__ == "__main__":
    run(main, Config)
