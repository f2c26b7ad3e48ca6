"""Train a CLIP-type scorer on captioned pictures: the image-text model that steers magic search.

Two stages, each of which keeps the checkpoint that validates best and hands it to the next:

1. *align*: the image trunk rests, and projection and text tower meet its pooled features, computed once for
   a few views of each picture;
2. *tune*: the upper trunk learns with them on augmented pictures, of which it sees only some patches in all
   but the last passes (FLIP, Li et al. 2023), with a running average of the weights.

Starts from an ImageNet trunk (``--image_weights``, timm's names) or from any scorer (``--base``, ``--tag``);
a tower without a trunk apart from its projection, such as CLIP's own, skips the first stage. A base with a
class vector, as build_classifier_scorer.py makes one, keeps what its classifier knows (``--class_weight``),
and a text tower that was distilled stays near its teacher (``--teacher``, ``--teacher_weight``). Data sets
may be of any form that ``magicap.data.read_captions`` knows; each can have a fixed share of every batch.

    python recipes/train_scorer.py --out runs/scorer --base runs/unpaired --teacher runs/text_tower \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/coco/captions.jsonl --shares 0.3 0.7 \\
        --validation $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar \\
        $MAGICAP_DATA/coco/images-train.tar

A second run of the same command resumes where the first one stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from timm.layers import PatchDropout
from torch import Tensor, nn
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.data import CaptionedImage, ImageFiles
from magicap.images.reader import open_image
from magicap.models.scorer import ImageTextScorer
from magicap.training.checks import open_run_folder
from magicap.training.contrastive import pair_loss, text_vectors
from magicap.training.fresh_scorer import ScorerShape, fresh_scorer
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.pairs import Domains, Pairs, augmentation, cached, captioned
from magicap.training.parameter_groups import layerwise, split_by_decay
from magicap.training.teacher import TeacherVectors
from magicap.training.validation import recall

MAY_CHANGE = (
    "out",
    "align_epochs",
    "tune_epochs",
    "max_steps",
    "align_rate",
    "tune_rate",
    "trunk_rate",
    "workers",
    "cpu",
)
Picture = Callable[[int, CaptionedImage], Tensor]


@dataclass(frozen=True)
class Config:
    captions: list[str] = field(metadata={"help": "data sets, of which the train split is read"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures of all splits"})
    out: str = field(metadata={"help": "folder of this run; the best model goes to <out>/best"})
    validation: list[str] = field(
        default_factory=list,
        metadata={"help": "data sets whose dev or val split chooses the checkpoint; default: --captions"},
    )
    shares: list[float] = field(
        default_factory=list,
        metadata={"help": "share of each data set in a batch, 1 together; default: by their sizes"},
    )
    base: str | None = field(
        default=None, metadata={"help": "open_clip model to start from: name, hf-hub: or folder"}
    )
    tag: str | None = field(default=None, metadata={"help": "its weights' tag, where base is a name"})
    tokenizer: str | None = field(default=None, metadata={"help": "tokenizer of a fresh text tower"})
    image_model: str = field(
        default=ScorerShape.image_model, metadata={"help": "timm name of a fresh image tower"}
    )
    image_weights: str | None = field(
        default=None, metadata={"help": "safetensors of that trunk, timm's names"}
    )
    image_size: int = field(
        default=ScorerShape.image_size, metadata={"help": "side of the square picture a fresh tower reads"}
    )
    pool: str = field(
        default=ScorerShape.pool, metadata={"help": "pooling of a fresh image tower: token or avg"}
    )
    width: int = field(
        default=ScorerShape.width, metadata={"help": "of the shared space and of a fresh text tower"}
    )
    text_layers: int = field(
        default=ScorerShape.text_layers, metadata={"help": "blocks of a fresh text tower"}
    )
    text_heads: int = field(
        default=ScorerShape.text_heads, metadata={"help": "attention heads of a fresh text tower"}
    )
    context_length: int = field(
        default=ScorerShape.context_length, metadata={"help": "longest text, in tokens"}
    )
    teacher: str | None = field(
        default=None, metadata={"help": "folder of a run of distill_text_tower.py, near which the text stays"}
    )
    teacher_weight: float = field(default=0.5, metadata={"help": "of the loss that keeps it there"})
    lock_text: bool = field(
        default=False, metadata={"help": "leave the text tower as it is (locked-image tuning, turned round)"}
    )
    class_weight: float = field(
        default=0.1, metadata={"help": "of the loss that keeps the answers of a class vector's classifier"}
    )
    loss: str = field(
        default="infonce", metadata={"help": "infonce, or vse++ for the hardest-negative hinge"}
    )
    captions_per_image: int = field(default=3, metadata={"help": "captions drawn for a picture each time"})
    align_epochs: int = field(default=12, metadata={"help": "passes with the trunk at rest"})
    align_views: int = field(
        default=2,
        metadata={"help": "views of a picture whose features are kept; the first is the picture"},
    )
    align_batch_size: int = field(default=256, metadata={"help": "pictures a step, trunk at rest"})
    align_rate: float = field(default=1e-3, metadata={"help": "peak learning rate, trunk at rest"})
    tune_epochs: int = field(default=10, metadata={"help": "passes with the upper trunk awake"})
    tune_validations: float = field(
        default=0.5, metadata={"help": "validations a pass of that; 0.5 for every other one"}
    )
    whole_epochs: int = field(default=1, metadata={"help": "the last of them, that see whole pictures"})
    patch_dropout: float = field(
        default=0.5, metadata={"help": "share of a picture's patches left out in the others"}
    )
    weight_average: float = field(default=0.99, metadata={"help": "decay of the running average of weights"})
    tune_batch_size: int = field(default=96, metadata={"help": "pictures a step, trunk awake"})
    tune_rate: float = field(
        default=2e-4, metadata={"help": "peak learning rate of text tower and projection"}
    )
    trunk_rate: float = field(default=1.5e-4, metadata={"help": "peak rate of the trunk's last block"})
    trunk_decay: float = field(default=0.8, metadata={"help": "factor on the rate, block by block downwards"})
    trunk_blocks: int = field(default=8, metadata={"help": "how many upper blocks are tuned"})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW's, on matrices only"})
    max_steps: int | None = field(default=None, metadata={"help": "stop each stage after so many steps"})
    seed: int = field(default=1, metadata={"help": "of weights, order and augmentation"})
    mixed_precision: str = field(default="no", metadata={"help": "no or bf16"})
    workers: int = field(default=0, metadata={"help": "processes that read and augment pictures"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
        if self.loss not in ("infonce", "vse++"):
            raise SystemExit(f"--loss must be infonce or vse++, found {self.loss!r}")
        if not 0 <= self.patch_dropout < 1:
            raise SystemExit(f"--patch_dropout must be at least 0 and below 1, found {self.patch_dropout}")
        if self.shares and (len(self.shares) != len(self.captions) or abs(sum(self.shares) - 1) > 1e-6):
            raise SystemExit(
                f"--shares must name one share a data set, 1 together, found {self.shares} for "
                f"{len(self.captions)} data sets"
            )
        if self.align_views < 1:
            raise SystemExit(f"--align_views must be at least 1, found {self.align_views}")


def main(config: Config) -> None:
    set_seed(config.seed)
    out = Path(config.out)
    sets = [captioned(path, ("train",)) for path in config.captions]
    train = [row for rows in sets for row in rows]
    dev = [row for path in config.validation or config.captions for row in captioned(path, ("dev", "val"))]
    scorer = start_scorer(config)
    aligned = config.align_epochs > 0 and hasattr(scorer.model.visual, "trunk")
    if not aligned and not config.tune_epochs:
        raise SystemExit("nothing to train: give --tune_epochs, or --align_epochs and a tower with a trunk")
    with ImageFiles(config.images) as images:
        open_run_folder(out, asdict(config), MAY_CHANGE)
        data = Data(config, scorer, images, train, dev, domains(config, sets))
        if aligned:
            align(config, scorer, data, out / "align")
            reload(scorer, out / "align" / "best")
        if config.tune_epochs:
            tune(config, scorer, data, out / "tune")
    best = out / ("tune" if config.tune_epochs else "align") / "best"
    reload(scorer, best).save_pretrained(out / "best")


def domains(config: Config, sets: Sequence[Sequence[CaptionedImage]]) -> Domains | None:
    """The data sets' shares of a batch; None where pictures are drawn evenly."""
    return Domains([len(rows) for rows in sets], config.shares) if config.shares else None


class Data:
    """What the stages that see pictures learn from and are held against."""

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
            self.teacher = TeacherVectors.load(config.teacher).in_space_of(scorer, seed=config.seed)
        self.augment = augmentation(scorer.config["preprocess_cfg"])
        self.classifier = None
        if scorer.class_vector is not None and config.class_weight:
            self.classifier = copy.deepcopy(scorer.class_vector.classifier).requires_grad_(False)

    def plain(self, _: int, row: CaptionedImage) -> Tensor:
        """The picture as the scorer reads it, (3, H, W)."""
        return self.scorer.pixels(self.images.read(row.image))

    def augmented(self, _: int, row: CaptionedImage) -> Tensor:
        """A random view of the picture, (3, H, W)."""
        return self.augment(open_image(self.images.read(row.image)), row.captions)

    def plain_features(self) -> Tensor:
        """(N, F) features of the whole training pictures by the trunk as it was when training began."""
        return self.features("train-0", self.train, self.plain)

    def features(self, name: str, rows: Sequence[CaptionedImage], view: Picture, seed: int = 0) -> Tensor:
        """(N, F) pooled features of the resting trunk, computed once and kept in a file of that name."""
        pairs = Pairs(rows, view, 1, self.config.seed + seed)
        return cached(Path(self.config.out) / "features" / f"{name}.pt", lambda: self._features(pairs))

    @torch.no_grad()
    def _features(self, pairs: Pairs) -> Tensor:
        trunk = self.scorer.model.visual.trunk.eval()
        device = self.scorer.device
        half = self.config.mixed_precision == "bf16"
        parts = []
        for batch in tqdm(pairs.in_order(64, self.config.workers), desc="features", disable=None):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                pooled = trunk(batch["images"].to(device)).float().cpu()
                parts.append(pooled.clone())  # or it might keep all tokens alive
        return torch.cat(parts)

    def loss(self, pooled: Tensor, batch: Batch, plain: Tensor | None) -> Tensor:
        """What a batch costs, given the trunk's pooled features (B, F) of its views.

        Args:
            plain: (N, F) features of all whole pictures by the trunk as it was; None: no classes to keep.
        """
        vectors = self.scorer.model.visual.head(pooled)
        with torch.set_grad_enabled(not self.config.lock_text):
            texts = text_vectors(self.scorer, batch["spelled"])
        total = pair_loss(self.scorer, vectors, texts, batch["owner"], self.config.loss)
        if self.teacher is not None and not self.config.lock_text:
            rows, wanted = self.teacher.of(batch["texts"])
            cosine = (texts[rows.to(texts.device)] * wanted.to(texts.device)).sum(dim=1)
            total = total + self.config.teacher_weight * (1 - cosine).mean()
        if self.classifier is not None and plain is not None:
            answers = self.scorer.class_vector.classifier(pooled).float().log_softmax(dim=1)
            before = self.classifier(plain[batch["rows"].cpu()].to(pooled.device)).float().log_softmax(dim=1)
            kept = F.kl_div(answers, before, log_target=True, reduction="batchmean")
            total = total + self.config.class_weight * kept
        return total

    def recall(self, vectors: Tensor) -> dict[str, float]:
        """Recall on the validation pictures of these unit vectors (N, D)."""
        return recall(self.scorer, vectors, self.dev)


def align(config: Config, scorer: ImageTextScorer, data: Data, folder: Path) -> None:
    """Trunk at rest: projection and text tower learn on features that are computed once."""
    dev_features = data.features("dev", data.dev, data.plain)
    plain = data.plain_features()
    others = [
        data.features(f"train-{number}", data.train, data.augmented, number)
        for number in range(1, config.align_views)
    ]
    views = torch.stack([plain, *others])

    def pairs(epoch: int) -> Pairs:
        def features(number: int, _: CaptionedImage) -> Tensor:
            return views[torch.randint(len(views), ()), number]

        return Pairs(data.train, features, config.captions_per_image, config.seed + epoch)

    def validate(_: nn.Module) -> dict[str, float]:
        vectors = scorer.model.visual.head(dev_features.to(scorer.device))
        return data.recall(F.normalize(vectors.float(), dim=-1))

    head = [p for name, p in scorer.model.named_parameters() if not name.startswith("visual.trunk.")]
    fit(
        scorer.model,
        split_by_decay(head, config.align_rate, config.weight_decay),
        loader=lambda epoch: pairs(epoch).loader(config.align_batch_size, domains=data.domains),
        loss=lambda _, batch: data.loss(batch["images"], batch, plain),
        validate=validate,
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(
            epochs=config.align_epochs,
            max_steps=config.max_steps,
            mixed_precision=config.mixed_precision,
            cpu=config.cpu,
        ),
    )


def tune(config: Config, scorer: ImageTextScorer, data: Data, folder: Path) -> None:
    """Upper trunk awake: everything above the resting blocks learns, on augmented pictures."""
    first_whole = config.tune_epochs - config.whole_epochs
    visual = scorer.model.visual
    dropout = patch_dropout(visual)
    apart = hasattr(visual, "trunk")
    plain = data.plain_features() if data.classifier is not None else None

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        dropout.prob = config.patch_dropout if batch["epoch"] < first_whole else 0.0
        if apart:
            return data.loss(visual.trunk(batch["images"]), batch, plain)
        texts = text_vectors(scorer, batch["spelled"])
        return pair_loss(scorer, visual(batch["images"]), texts, batch["owner"], config.loss)

    def validate(_: nn.Module) -> dict[str, float]:
        return data.recall(scorer.encode_images([data.images.read(row.image) for row in data.dev]))

    def pairs(epoch: int) -> Pairs:
        return Pairs(data.train, data.augmented, config.captions_per_image, config.seed + 1000 + epoch)

    fit(
        scorer.model,
        layerwise(
            scorer.model,
            rate=config.tune_rate,
            trunk_rate=config.trunk_rate,
            trunk_decay=config.trunk_decay,
            trunk_blocks=config.trunk_blocks,
            decay=config.weight_decay,
        ),
        loader=lambda epoch: pairs(epoch).loader(config.tune_batch_size, config.workers, data.domains),
        loss=loss,
        validate=validate,
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(
            epochs=config.tune_epochs,
            validations_per_epoch=config.tune_validations,
            average=config.weight_average,
            max_steps=config.max_steps,
            mixed_precision=config.mixed_precision,
            cpu=config.cpu,
        ),
    )


def patch_dropout(visual: Any) -> PatchDropout:
    """The image trunk's patch dropout, put in at rate 0; one that nobody asks where a trunk takes none."""
    trunk = getattr(visual, "trunk", None)
    dropout = PatchDropout(0.0, num_prefix_tokens=getattr(trunk, "num_prefix_tokens", 1))
    if hasattr(trunk, "patch_drop"):
        trunk.patch_drop = dropout
    return dropout


def start_scorer(config: Config) -> ImageTextScorer:
    if config.base is not None:
        return ImageTextScorer.from_pretrained(config.base, config.tag)
    if config.tokenizer is None:
        raise SystemExit("give --base MODEL to start from a model, or --tokenizer FOLDER to start afresh")
    return fresh_scorer(ScorerShape.of(config), config.tokenizer, config.image_weights)


def reload(scorer: ImageTextScorer, folder: Path) -> ImageTextScorer:
    """The scorer with the weights that validated best."""
    scorer.model.load_state_dict(ImageTextScorer.from_pretrained(folder).model.state_dict())
    return scorer


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
