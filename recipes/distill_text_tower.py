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
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from cli import run
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from magicap.checks import require_number
from magicap.data import CaptionedImage, normalise_caption, read_sentences
from magicap.models.scorer import ImageTextScorer
from magicap.training.checks import open_run_folder, require_rows
from magicap.training.contrastive import text_vectors
from magicap.training.fresh_scorer import ScorerShape, fresh_scorer
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.losses import distillation
from magicap.training.pairs import read_captioned_images
from magicap.training.parameter_groups import split_by_decay
from magicap.training.teacher import TeacherVectors, cut_short, encode_with_teacher, reduce_width, respell
from magicap.training.validation import text_recall

MAY_CHANGE = ("out", "epochs", "max_steps", "learning_rate", "workers", "cpu", "mixed_precision")


@dataclass(frozen=True)
class Config:
    text: list[str] = field(
        metadata={"help": "data sets (train split, Flickr8k dev and test left out) or text files"}
    )
    validation: list[str] = field(
        metadata={"help": "data sets whose dev or val split chooses the checkpoint"}
    )
    tokenizer: str = field(metadata={"help": "folder of the tokenizer that the student reads"})
    out: str = field(metadata={"help": "folder of this run; the best model goes to <out>/best"})
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "sentence-transformers model, name or folder; default: all-MiniLM-L6-v2 as packaged"
        },
    )
    image_model: str = field(
        default=ScorerShape.image_model, metadata={"help": "timm name of the image trunk"}
    )
    image_weights: str | None = field(
        default=None, metadata={"help": "safetensors of that trunk under timm's names"}
    )
    image_size: int = field(default=ScorerShape.image_size, metadata={"help": "side of its square picture"})
    pool: str = field(default=ScorerShape.pool, metadata={"help": "its pooling: token or avg"})
    width: int = field(default=ScorerShape.width, metadata={"help": "of the shared space and the student"})
    text_layers: int = field(default=ScorerShape.text_layers, metadata={"help": "the student's blocks"})
    text_heads: int = field(default=ScorerShape.text_heads, metadata={"help": "its attention heads"})
    context_length: int = field(
        default=ScorerShape.context_length, metadata={"help": "longest text, in tokens"}
    )
    cut_share: float = field(
        default=0.2, metadata={"help": "share of sentences of which only a beginning is read"}
    )
    epochs: int = field(default=3, metadata={"help": "passes over the text"})
    batch_size: int = field(default=512, metadata={"help": "sentences a step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak rate"})
    weight_decay: float = field(default=0.02, metadata={"help": "AdamW's, on matrices only"})
    max_steps: int | None = field(default=None, metadata={"help": "stop after so many steps"})
    mixed_precision: str = field(default="no", metadata={"help": "no or bf16, also for the teacher"})
    seed: int = field(default=1, metadata={"help": "of weights, order and spelling"})
    workers: int = field(default=0, metadata={"help": "processes that make the batches"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
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
    set_seed(config.seed)
    out = Path(config.out)
    dev = [
        row for path in config.validation for row in read_captioned_images(path, ("dev", "val"), at_least=2)
    ]
    texts = [text for path in config.text for text in read_sentences(path)]
    require_rows(texts, ", ".join(config.text), ("train",))
    open_run_folder(out, asdict(config), MAY_CHANGE)
    held_out = captions_of(dev)
    teacher = teacher_vectors(config, list(dict.fromkeys([*texts, *held_out])), out)
    train = list(dict.fromkeys(texts))
    scorer = fresh_scorer(ScorerShape.of(config), config.tokenizer, config.image_weights)

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        vectors = text_vectors(scorer, batch["texts"])
        return distillation(vectors, batch["teacher"].to(vectors.device))

    text_tower = [p for name, p in scorer.model.named_parameters() if not name.startswith("visual.")]
    fit(
        scorer.model,
        split_by_decay(text_tower, config.learning_rate, config.weight_decay),
        loader=lambda epoch: batches(config, teacher, train, epoch),
        loss=loss,
        validate=lambda _: validation(scorer, teacher, dev),
        save_best=lambda _: scorer.save_pretrained(out / "best"),
        folder=out / "training",
        config=LoopConfig(
            epochs=config.epochs,
            validations_per_epoch=2,
            max_steps=config.max_steps,
            mixed_precision=config.mixed_precision,
            cpu=config.cpu,
        ),
    )


def batches(config: Config, teacher: TeacherVectors, train: Sequence[str], epoch: int) -> DataLoader[Any]:
    """The texts of an epoch, each batch with the teacher's vectors of them, (B, D)."""

    def collate(rows: Sequence[Batch]) -> Batch:
        _, vectors = teacher.of([train[row["row"]] for row in rows])
        return {"texts": [row["text"] for row in rows], "teacher": vectors}

    return DataLoader(
        Spellings(train, config.cut_share, config.seed + epoch),
        config.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed + epoch),
        collate_fn=collate,
        num_workers=config.workers,
    )


def validation(
    scorer: ImageTextScorer, teacher: TeacherVectors, dev: Sequence[CaptionedImage]
) -> dict[str, float]:
    """``score``, the mean cosine of student and teacher on held-out captions, and the student's recall."""
    held_out = captions_of(dev)
    cosine = (scorer.encode_texts(held_out).cpu() * teacher.of(held_out)[1]).sum(dim=1).mean()
    return text_recall(scorer, dev) | {"score": float(cosine)}


def captions_of(rows: Sequence[CaptionedImage]) -> list[str]:
    """All captions, as scorers read them."""
    return [normalise_caption(text) for row in rows for text in row.captions]


def teacher_vectors(config: Config, texts: Sequence[str], folder: Path) -> TeacherVectors:
    """The teacher's vectors of all texts, computed once and kept in the folder of the run."""
    if not TeacherVectors.is_saved(folder):
        encoded = encode_with_teacher(
            config.teacher,
            texts,
            device="cpu" if config.cpu else None,
            bfloat16=config.mixed_precision == "bf16",
        )
        TeacherVectors(texts, reduce_width(encoded, config.width)).save(folder)
    return TeacherVectors.load(folder)


if __name__ == "__main__":
    run(main, Config)
