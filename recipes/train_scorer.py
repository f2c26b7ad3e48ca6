"""Train a CLIP-type scorer on captioned pictures: the image-text model that steers magic search.

Two stages, each of which keeps the checkpoint that validates best and hands it to the next:

1. *locked*: the image trunk is frozen, and projection and text tower learn on its pooled features, computed
   once for a few views of each picture (locked-image tuning, Zhai et al. 2022);
2. *finetune*: the upper trunk learns with them on augmented pictures, of which it sees only some patches in
   all but the last passes (FLIP, Li et al. 2023), with a running average of the weights.

Starts from the trunk of any timm network (``--image_weights``) beside a causal text tower (``--tokenizer``)
or a Hugging Face encoder, such as a BERT (``--text_model``), or from any scorer (``--base``, ``--tag``); a
tower without a trunk apart from its projection, such as CLIP's own, skips the first stage. A base with a
class vector, as build_classifier_scorer.py makes one, keeps its classifier's answers (``--class_weight``),
and a text tower that was distilled stays near its teacher (``--teacher``, ``--teacher_weight``). Data sets
may be of any form that ``magicap.data.read_captions`` knows; each can have a fixed share of every batch.

    python recipes/train_scorer.py --out runs/scorer --base runs/unpaired --teacher runs/text_tower \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/coco/captions.jsonl --shares 0.3 0.7 \\
        --validation $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar \\
        $MAGICAP_DATA/coco/images-train.tar
    python recipes/train_scorer.py --config recipes/configs/scorer_cnn_bert.yaml    # MobileNetV2 and MiniLM

A second run of the same command resumes where the first one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from cli import run
from torch import Tensor

from magicap.checks import require_int, require_number
from magicap.data import CaptionedImage, ImageFiles
from magicap.errors import BadSettings
from magicap.models.fingerprint import fingerprint
from magicap.models.scorer import ImageTextScorer
from magicap.training import processes
from magicap.training.augmentation import Augmentation, RandomViews
from magicap.training.batches import Domains, Epoch
from magicap.training.checks import open_run_folder
from magicap.training.fresh_scorer import ScorerShape, fresh_scorer
from magicap.training.loop import fit
from magicap.training.objectives.contrastive import (
    ClassTerm,
    Contrastive,
    PatchDropoutSchedule,
    TeacherTerm,
    patch_dropout,
)
from magicap.training.options import TrainingOptions
from magicap.training.pairs import Pairs, read_captioned_images, sample_pictures
from magicap.training.parameter_groups import EncoderRates, ParameterGroups, layerwise
from magicap.training.phases import digest, load_or_compute
from magicap.training.pooled_features import pooled_features
from magicap.training.teacher import TeacherVectors
from magicap.training.text_encoders import TextEncoderOptions, scorer_of_encoder
from magicap.training.validation import recall

LOCKED, FINETUNE = "locked", "finetune"
MAY_CHANGE = ("locked_epochs", "finetune_epochs", "locked_rate", "finetune_rate", "trunk_rate")
Picture = Callable[[int, CaptionedImage], Tensor]


@dataclass(frozen=True)
class Config(TrainingOptions, ScorerShape, TextEncoderOptions):
    captions: list[str]
    """Data sets, of which the train split is read."""

    images: list[str]
    """Tar files or folders with the pictures of all splits."""

    out: str
    """Folder of this run; the best model goes to <out>/best."""

    validation: list[str] = field(default_factory=list)
    """Data sets whose dev or val split chooses the checkpoint; default: those of --captions."""

    pictures: int | None = None
    """The most pictures to learn from, drawn at random from all data sets; default: all."""

    shares: list[float] = field(default_factory=list)
    """Share of each data set in a batch, 1 together; default: by their sizes."""

    base: str | None = None
    """Scorer to start from: a folder, an hf-hub: id or a name of open_clip."""

    tag: str | None = None
    """Tag of the base's weights for open_clip, where --base is a name."""

    tokenizer: str | None = None
    """Folder of the tokenizer of a fresh causal text tower, where no --base and no --text_model is given."""

    image_weights: str | None = None
    """File in safetensors format with the trunk of a fresh image tower, under timm's names or with batch norm
    folded in; default: random weights."""

    teacher: str | None = None
    """Folder of a run of distill_text_tower.py, near whose teacher the text tower stays."""

    teacher_weight: float = 0.5
    """Weight of the loss that keeps the text tower near its teacher."""

    lock_text: bool = False
    """Whether to leave the text tower as it is and train the image tower alone."""

    class_weight: float = 0.1
    """Weight of the loss that keeps the answers of a class vector's classifier."""

    loss: Literal["infonce", "vse++"] = "infonce"
    """Loss of a batch of pairs: infonce, or vse++ for the hinge of the hardest negative."""

    captions_per_image: int = 3
    """Number of captions sampled of a picture in a pass."""

    locked_epochs: int = 12
    """Passes over the pictures while the trunk is frozen."""

    locked_views: int = 2
    """Number of views of a picture whose features are kept; the first is the picture itself."""

    locked_batch_size: int = 256
    """Number of pictures in a batch of one process while the trunk is frozen."""

    locked_rate: float = 1e-3
    """Peak learning rate while the trunk is frozen."""

    finetune_epochs: int = 10
    """Passes over the pictures while the upper trunk is trainable."""

    finetune_validations: float = 0.5
    """Validations in a pass while the upper trunk is trainable; 0.5 for every other pass."""

    whole_epochs: int = 1
    """How many of the last passes see whole pictures while the upper trunk is trainable."""

    patch_dropout: float = 0.5
    """Share of a picture's patches that is left out in the passes before, at least 0 and below 1."""

    weight_average: float = 0.99
    """Decay of the running average of weights, a step."""

    coarse_share: float = Augmentation.coarse_share
    """Share of the augmented pictures that have fewer pixels than the tower reads, 0 to 1."""

    coarsest: int = Augmentation.coarsest
    """Long side of the coarsest of these, in pixels."""

    squashed_share: float = Augmentation.squashed_share
    """Share of the augmented pictures that are squashed to a square first, 0 to 1; others keep theirs."""

    finetune_batch_size: int = 96
    """Number of pictures in a batch of one process while the upper trunk is trainable."""

    finetune_rate: float = 2e-4
    """Peak learning rate of text tower and projection while the upper trunk is trainable."""

    trunk_rate: float = 1.5e-4
    """Peak learning rate of the trunk's last block."""

    trunk_decay: float = 0.8
    """Factor on the learning rate from a block of the trunk to the block below it."""

    trunk_blocks: int = 8
    """Number of the trunk's upper blocks that are trainable."""

    weight_decay: float = 0.1
    """Weight decay of AdamW, on matrices only."""

    workers: int = 0
    """Number of processes that read and augment pictures beside the main one."""

    def __post_init__(self) -> None:
        TrainingOptions.__post_init__(self)
        TextEncoderOptions.__post_init__(self)
        if self.loss not in ("infonce", "vse++"):
            raise BadSettings(f"--loss must be infonce or vse++, found {self.loss!r}")
        require_number(
            "--patch_dropout", self.patch_dropout, lambda share: 0 <= share < 1, "at least 0 and below 1"
        )
        if self.shares and (len(self.shares) != len(self.captions) or abs(sum(self.shares) - 1) > 1e-6):
            raise BadSettings(
                f"--shares must name one share a data set, 1 together, found {self.shares} for "
                f"{len(self.captions)} data sets"
            )
        if self.pictures is not None:
            require_int("--pictures", self.pictures)
        sizes = ("locked_views", "locked_batch_size", "finetune_batch_size", "captions_per_image")
        for name in (*sizes, "width", "text_heads"):
            require_int(f"--{name}", getattr(self, name))
        for name in ("base", "tokenizer"):
            if self.text_model is not None and getattr(self, name) is not None:
                raise BadSettings(f"--text_model starts afresh, by its own tokenizer: leave --{name} out")
        if self.base is None and self.text_model is None and self.width % self.text_heads:
            raise BadSettings(
                f"--width must be a multiple of --text_heads, found {self.width} and {self.text_heads}"
            )


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    sets = sample_pictures(
        [read_captioned_images(path, ("train",)) for path in config.captions], config.pictures, config.seed
    )
    train = [row for rows in sets for row in rows]
    dev = [
        row
        for path in config.validation or config.captions
        for row in read_captioned_images(path, ("dev", "val"))
    ]
    scorer = start_scorer(config)
    has_locked_stage = config.locked_epochs > 0 and hasattr(scorer.model.visual, "trunk")
    if not has_locked_stage and not config.finetune_epochs:
        raise BadSettings(
            "nothing to train: give --finetune_epochs, or --locked_epochs and a tower with a trunk"
        )
    with ImageFiles(config.images) as images:
        open_run_folder(out, asdict(config), MAY_CHANGE)
        data = Data(config, scorer, images, train, dev, domains(config, sets))
        if has_locked_stage:
            locked_stage(config, scorer, data, out / LOCKED)
            reload(scorer, out / LOCKED / "best")
        if config.finetune_epochs:
            finetune_stage(config, scorer, data, out / FINETUNE)
    best = out / (FINETUNE if config.finetune_epochs else LOCKED) / "best"
    if processes.is_first():
        reload(scorer, best).save_pretrained(out / "best")


def domains(config: Config, sets: Sequence[Sequence[CaptionedImage]]) -> Domains | None:
    """The data sets' shares of a step; None where pictures are sampled evenly.

    Raises:
        BadSettings: a share is less than one picture of a step, which would never be read.
    """
    if not config.shares:
        return None
    smallest = config.step_rows(min(config.locked_batch_size, config.finetune_batch_size))
    if lost := [share for share in config.shares if 0 < share < 1 / smallest]:
        raise BadSettings(
            f"--shares must be at least one picture of a step of {smallest}, found {lost[0]:g}; "
            "use a larger batch or a larger share"
        )
    return Domains([len(rows) for rows in sets], config.shares)


class Data:
    """Pictures of both splits, as pixels (3, H, W) or pooled features (F), and what the scorer is to keep."""

    def __init__(
        self,
        config: Config,
        scorer: ImageTextScorer,
        images: ImageFiles,
        train: Sequence[CaptionedImage],
        dev: Sequence[CaptionedImage],
        domains: Domains | None,
    ) -> None:
        self.config, self.scorer, self.images, self.domains = config, scorer, images, domains
        self.train, self.dev = train, dev
        self.teacher = None
        if config.teacher is not None:
            vectors = TeacherVectors.load(config.teacher).in_space_of(scorer, seed=config.seed)
            self.teacher = TeacherTerm(vectors, config.teacher_weight)
        self.augmented = RandomViews(images, scorer.config["preprocess_cfg"], Augmentation.of(config))

    def plain(self, _: int, row: CaptionedImage) -> Tensor:
        """The picture as the scorer reads it, (3, H, W)."""
        return self.scorer.pixels(self.images.read(row.image))

    @cached_property
    def plain_features(self) -> Tensor:
        """(N, F) features of the whole training pictures by the trunk as it was when training began."""
        return self.features("train-0", self.train, self.plain)

    def features(self, name: str, rows: Sequence[CaptionedImage], view: Picture, seed: int = 0) -> Tensor:
        """(N, F) pooled features of the frozen trunk, computed once and kept in a file of that name."""
        pairs = Pairs(rows, view, 1, self.config.seed + seed)
        trunk = fingerprint(self.scorer.model.visual.trunk)
        key = digest(trunk, [row.image for row in rows], self.augmented.settings)
        file = Path(self.config.out) / "features" / f"{name}-{key}.pt"
        bfloat16 = self.config.mixed_precision == "bf16"
        return load_or_compute(
            file, lambda: pooled_features(self.scorer, pairs, workers=self.config.workers, bfloat16=bfloat16)
        )

    def objective(self, **settings: Any) -> Contrastive:
        """The loss of a batch, with the terms that keep what the scorer knows before this stage."""
        config, class_vector = self.config, self.scorer.class_vector
        classes = None
        if class_vector is not None and config.class_weight:
            classes = ClassTerm(class_vector.classifier, self.plain_features, config.class_weight)
        return Contrastive(
            self.scorer,
            loss=config.loss,
            lock_text=config.lock_text,
            teacher=self.teacher,
            classes=classes,
            **settings,
        )

    def recall(self, vectors: Tensor) -> dict[str, float]:
        """Recall on the validation pictures of these unit vectors (N, D)."""
        return recall(self.scorer, vectors, self.dev)


def locked_stage(config: Config, scorer: ImageTextScorer, data: Data, folder: Path) -> None:
    """Trunk frozen: projection and text tower learn on features that are computed once."""
    dev_features = data.features("dev", data.dev, data.plain)
    plain = data.plain_features
    others = [
        data.features(f"train-{number}", data.train, data.augmented, number)
        for number in range(1, config.locked_views)
    ]
    views = torch.stack([plain, *others])

    def pairs(epoch: int) -> Pairs:
        def features(number: int, _: CaptionedImage) -> Tensor:
            return views[torch.randint(len(views), ()), number]

        return Pairs(data.train, features, config.captions_per_image, config.seed + epoch)

    def validate(_: Any) -> dict[str, float]:
        vectors = scorer.model.visual.head(dev_features.to(scorer.device))
        return data.recall(F.normalize(vectors.float(), dim=-1))

    step_rows = config.step_rows(config.locked_batch_size)
    fit(
        data.objective(on_features=True),
        parameter_groups(config, scorer, config.locked_rate, trunk_rate=0),
        epoch=lambda epoch: pairs(epoch).epoch(step_rows, domains=data.domains),
        validate=validate,
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=config.loop(config.locked_epochs, description=LOCKED),
    )


def finetune_stage(config: Config, scorer: ImageTextScorer, data: Data, folder: Path) -> None:
    """Upper trunk trainable: everything above the frozen blocks learns, on augmented pictures."""
    whole_from = config.finetune_epochs - config.whole_epochs
    dropout = PatchDropoutSchedule(patch_dropout(scorer.model.visual), config.patch_dropout, whole_from)
    step_rows = config.step_rows(config.finetune_batch_size)

    def validate(_: Any) -> dict[str, float]:
        return data.recall(scorer.encode_images([data.images.read(row.image) for row in data.dev]))

    def epoch(number: int) -> Epoch:
        seed = config.seed + 1000 + number
        pairs = Pairs(data.train, data.augmented, config.captions_per_image, seed)
        return pairs.epoch(step_rows, config.workers, data.domains)

    fit(
        data.objective(patch_dropout=dropout),
        parameter_groups(config, scorer, config.finetune_rate, config.trunk_rate),
        epoch=epoch,
        validate=validate,
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=config.loop(
            config.finetune_epochs,
            validations_per_epoch=config.finetune_validations,
            average=config.weight_average,
            description=FINETUNE,
        ),
    )


def parameter_groups(
    config: Config, scorer: ImageTextScorer, rate: float, trunk_rate: float
) -> ParameterGroups:
    """Which weights learn in a stage, and how fast."""
    return layerwise(
        scorer.model,
        rate=rate,
        trunk_rate=trunk_rate,
        trunk_decay=config.trunk_decay,
        trunk_blocks=config.trunk_blocks,
        decay=config.weight_decay,
        encoder=EncoderRates(config.text_blocks, config.text_rate),
    )


def start_scorer(config: Config) -> ImageTextScorer:
    """The base, or a fresh scorer of the shape that the options give."""
    if config.base is not None:
        return ImageTextScorer.from_pretrained(config.base, config.tag)
    shape = ScorerShape.of(config)
    if config.text_model is not None:
        return scorer_of_encoder(shape, config.text_model, config.text_pool, config.image_weights)
    if config.tokenizer is not None:
        return fresh_scorer(shape, config.tokenizer, config.image_weights)
    raise BadSettings(
        "give --base MODEL to start from a model, or --tokenizer FOLDER or --text_model MODEL to start afresh"
    )


def reload(scorer: ImageTextScorer, folder: Path) -> ImageTextScorer:
    """The scorer with the weights that validated best."""
    scorer.model.load_state_dict(ImageTextScorer.from_pretrained(folder).model.state_dict())
    return scorer


if __name__ == "__main__":
    run(main, Config)
