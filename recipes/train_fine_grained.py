"""Train the local projections of a fine-grained scorer: words that find their patches, to re-rank with.

Both towers of a trained scorer are frozen. Their states of patches and words are computed once and kept on
disk in float16 (115 MB for the patches of 6,000 pictures, 170 MB for the words of their captions). Two small
projections then learn by a symmetric contrastive loss whose logits are local scores: late interaction of
words and patches, or their bilinear pooling (``--pooling bilinear``), whose weights learn with them. The dev
split chooses the checkpoint and the weight of the local score beside the global cosine; 0 where re-ranking
does not help.

    python recipes/train_fine_grained.py --out runs/fine_grained --scorer runs/scorer/best \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar

A second run of the same command resumes where the first one stopped. The result goes with the very weights it
was trained on: for a captioner's folder, train on its own ``scorer/``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from cli import run
from torch import Tensor

from magicap.captioners.folder import as_dtype
from magicap.data import CaptionedImage, ImageFiles
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.fine_grained.local_features import (
    FineGrainedSettings,
    LocalHeads,
    LocalImages,
    LocalTexts,
    Pooling,
    padded,
)
from magicap.models.fine_grained.scorer import Candidates, FineGrainedScorer
from magicap.models.scorer import ImageTextScorer
from magicap.training.batches import Batch, Epoch
from magicap.training.checks import open_run_folder
from magicap.training.loop import fit
from magicap.training.objectives.fine_grained import FineGrainedContrastive
from magicap.training.options import TrainingOptions
from magicap.training.pairs import Pairs, captions_of, collate, read_captioned_images
from magicap.training.parameter_groups import split_by_decay
from magicap.training.phases import digest, load_or_compute
from magicap.training.progress import progress

MAY_CHANGE = ("epochs", "rate")
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # of the local score, tried on dev


@dataclass(frozen=True)
class Config(TrainingOptions):
    captions: str
    """Data set with a train and a dev (or val) split."""

    images: list[str]
    """Tar files or folders with the pictures of both splits."""

    scorer: str
    """Trained scorer whose towers are read: a folder, an hf-hub: id or a name of open_clip."""

    out: str
    """Folder of this run; the best projections go to <out>/best."""

    tag: str | None = None
    """Tag of the scorer's weights for open_clip, where --scorer is a name."""

    width: int = FineGrainedSettings.width
    """Width of the local space, in which words and patches are compared."""

    hidden: int = FineGrainedSettings.hidden
    """Width of the projections' hidden layer."""

    dropout: float = FineGrainedSettings.dropout
    """Share of activations that are dropped before each layer of the projections, 0 to 1."""

    pooling: Pooling = FineGrainedSettings.pooling
    """How words and patches become one score: late_interaction, the mean over words of the nearest patch's
    cosine, or bilinear, pooled under attention over all pairs of a word and a patch."""

    glimpses: int = FineGrainedSettings.glimpses
    """How many attentions bilinear pooling averages."""

    region: int = FineGrainedSettings.region
    """Side of the square of patches that are averaged into one, in patches."""

    image_block: int = FineGrainedSettings.image_block
    """Block of the image tower whose states the patches have; -1 is the last."""

    text_block: int = FineGrainedSettings.text_block
    """Block of the text tower whose states the words have; -1 is the last."""

    captions_per_image: int = 3
    """Number of captions sampled of a picture in a pass."""

    epochs: int = 12
    """Number of passes over the pictures."""

    batch_size: int = 128
    """Number of pictures in a batch of one process."""

    rate: float = 2e-3
    """Peak learning rate of the projections."""

    weight_decay: float = 0.1
    """Weight decay of AdamW, on matrices only."""

    top: int = 20
    """Number of candidates that are re-ranked on the dev split."""

    limit: int | None = None
    """Train on this many pictures only, the first; default: all."""

    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the projections in <out>/best."""

    def settings(self) -> FineGrainedSettings:
        return FineGrainedSettings(
            self.width,
            self.hidden,
            self.dropout,
            self.region,
            self.image_block,
            self.text_block,
            pooling=self.pooling,
            glimpses=self.glimpses,
        )


@dataclass(frozen=True)
class Pictures:
    """The image tower's vectors and states of N pictures."""

    vectors: Tensor
    """(N, D) global unit vectors."""

    states: Tensor
    """(N, W, rows, columns) in float16."""

    @classmethod
    def read(
        cls, fine: FineGrainedScorer, images: ImageFiles, rows: Sequence[CaptionedImage], name: Path
    ) -> Pictures:
        """Those of data set rows, computed once and kept in a file."""

        def compute() -> tuple[Tensor, ...]:
            parts = []
            with progress(len(rows), name.name, unit="picture") as bar:
                for start in range(0, len(rows), 32):
                    batch = [fine.scorer.pixels(images.read(row.image)) for row in rows[start : start + 32]]
                    vectors, states = fine.states.of_pixels(torch.stack(batch))
                    parts.append((vectors.cpu(), states.cpu().half()))
                    bar.update(len(batch))
            return tuple(map(torch.cat, zip(*parts, strict=True)))

        return cls(*load_or_compute(kept_file(name, fine, [row.image for row in rows]), compute))

    def local(self, heads: LocalHeads) -> LocalImages:
        device = heads.logit_scale.device
        patches = heads.patches(self.states.to(device).flatten(2).transpose(1, 2))
        rows, columns = self.states.shape[2:]
        return LocalImages(self.vectors.to(device), patches, (rows, columns))


@dataclass(frozen=True)
class Captions:
    """The text tower's vectors and states of M captions."""

    vectors: Tensor
    """(M, D) global unit vectors."""

    states: Tensor
    """(words of all captions, W) in float16."""

    counts: Tensor
    """(M,) words of each caption."""

    @classmethod
    def read(cls, fine: FineGrainedScorer, texts: Sequence[str], name: Path) -> Captions:
        """Those of texts, computed once and kept in a file."""

        def compute() -> tuple[Tensor, ...]:
            vectors, states, counts = fine.states.of_texts(texts)
            return vectors.cpu(), states.cpu().half(), counts.cpu()

        return cls(*load_or_compute(kept_file(name, fine, texts), compute))

    def local(self, heads: LocalHeads) -> LocalTexts:
        device = heads.logit_scale.device
        words = heads.words(self.states.to(device))
        return LocalTexts(self.vectors.to(device), *padded(words, self.counts.to(device)))


def kept_file(name: Path, fine: FineGrainedScorer, rows: Sequence[str]) -> Path:
    """Where states are kept: a name of its own for the scorer, what is read of its towers, and the rows."""
    settings = fine.settings
    read = (settings.region, settings.image_block, settings.text_block)
    return name.with_name(f"{name.name}-{digest(fine.scorer.fingerprint, read, rows)}.pt")


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    fine = FineGrainedScorer(ImageTextScorer.from_pretrained(config.scorer, config.tag), config.settings())
    train = read_captioned_images(config.captions, ("train",))[: config.limit]
    dev = read_captioned_images(config.captions, ("dev", "val"))
    open_run_folder(out, asdict(config) | {"fingerprint": fine.scorer.fingerprint}, MAY_CHANGE)
    with ImageFiles(config.images) as images:
        pictures = Pictures.read(fine, images, train, out / "train_pictures")
        dev_pictures = Pictures.read(fine, images, dev, out / "dev_pictures")
    texts = sorted(set(captions_of(train)))
    captions = Captions.read(fine, texts, out / "train_captions")
    dev_captions = Captions.read(fine, captions_of(dev), out / "dev_captions")
    owner = torch.tensor([number for number, row in enumerate(dev) for _ in row.captions])

    collate_words = with_words(captions, texts)
    step_rows = config.step_rows(config.batch_size)

    def epoch(number: int) -> Epoch:
        seed = config.seed + number
        pairs = Pairs(train, lambda row, _: pictures.states[row], config.captions_per_image, seed)
        return replace(pairs.epoch(step_rows), collate=collate_words)

    def validate(_: FineGrainedContrastive) -> dict[str, float]:
        heads = fine.heads
        candidates = fine.candidates(dev_pictures.local(heads), dev_captions.local(heads), config.top)
        figures = with_best_weight(candidates, owner)
        fine.settings = replace(fine.settings, weight=figures["weight"])
        return figures

    fit(
        FineGrainedContrastive(fine.heads),
        split_by_decay(fine.heads.parameters(), config.rate, config.weight_decay),
        epoch=epoch,
        validate=validate,
        save_best=lambda _: fine.save_pretrained(out / "best", dtype=as_dtype(config.dtype)),
        folder=out,
        config=config.loop(config.epochs, description="training the projections"),
    )


def with_words(captions: Captions, texts: Sequence[str]) -> Callable[[Sequence[Batch]], Batch]:
    """How rows become a batch that holds the words of its captions beside the states of its pictures."""
    number = {text: n for n, text in enumerate(texts)}
    starts = (captions.counts.cumsum(0) - captions.counts).tolist()

    def collate_words(rows: Sequence[Batch]) -> Batch:
        batch = collate(rows)
        numbers = [number[text] for text in batch["texts"]]
        counts = captions.counts[numbers]
        words = [
            starts[n] + word
            for n, count in zip(numbers, counts.tolist(), strict=True)
            for word in range(count)
        ]
        return batch | {"words": captions.states[words], "counts": counts}

    return collate_words


def with_best_weight(candidates: Candidates, owner: Tensor) -> dict[str, float]:
    """Recall after re-ranking with the weight that is best, which is 0 where re-ranking does not help."""
    owner = owner.to(candidates.cosines.device)
    before = retrieval_recall(candidates.cosines, owner)
    best = {"score": r1(before), "weight": 0.0, **before}
    for weight in WEIGHTS:
        texts, images = candidates.ranked(weight)
        figures = retrieval_recall(texts, owner, text_to_image=images)
        if r1(figures) > best["score"]:
            best = {"score": r1(figures), "weight": weight, **figures}
    return best | {"score_before": r1(before)}


def r1(figures: dict[str, float]) -> float:
    """Recall at 1 both ways, added up."""
    return figures["image_to_text_r1"] + figures["text_to_image_r1"]


if __name__ == "__main__":
    run(main, Config)
