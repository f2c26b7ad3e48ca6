"""Train a CLIP-type scorer on captioned pictures: the visual-semantic embedding that steers magic search.

Three stages, each of which keeps the checkpoint that validates best and hands it to the next:

1. *warm*: the text tower learns from text alone that captions of one picture mean the same (``--warm_text``);
2. *align*: the image trunk rests, and projection and text tower meet its pooled features, computed once for
   a few views of each picture;
3. *tune*: the upper trunk learns with them on augmented pictures, of which it sees only some patches in all
   but the last passes (FLIP, Li et al. 2023), with a running average of the weights.

Starts from an ImageNet trunk (``--image_weights``, timm's names) or from any open_clip model (``--base``,
``--tag``); a tower without a trunk apart from its projection, such as CLIP's own, skips the second stage. The
data set may be of any form that ``magicap.data.read_captions`` knows: captions.jsonl, Karpathy, Flickr8k,
imagefolder.

    python recipes/train_scorer.py --out runs/scorer --tokenizer runs/tokenizer/scorer \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar \\
        --warm_text $MAGICAP_DATA/text/flickr30k.jsonl \\
        --image_weights $MAGICAP_DATA/../weights/vit_tiny_patch16_224.safetensors

A second run of the same command resumes where the first one stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from safetensors.torch import load_file
from timm.layers import PatchDropout
from torch import Tensor, nn
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.data import CaptionedImage, ImageFiles
from magicap.errors import BadModel
from magicap.images import open_image
from magicap.models.scorer import ImageTextScorer
from magicap.training.checks import claim_folder, refuse_empty
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.losses import hardest_negative_hinge, info_nce
from magicap.training.pairs import Pairs, augmentation, cached, captioned
from magicap.training.parameter_groups import layerwise, split_by_decay
from magicap.training.validation import recall, text_recall

MAY_CHANGE = (
    "out",
    "warm_epochs",
    "align_epochs",
    "tune_epochs",
    "max_steps",
    "warm_rate",
    "align_rate",
    "tune_rate",
    "trunk_rate",
    "workers",
    "cpu",
)
LARGEST_LOGIT_SCALE = math.log(100)  # CLIP's own bound (Radford et al. 2021)


@dataclass(frozen=True)
class Config:
    captions: str = field(metadata={"help": "data set with a train and a dev (or val) split"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures of both splits"})
    out: str = field(metadata={"help": "folder of this run; the best model goes to <out>/best"})
    base: str | None = field(
        default=None, metadata={"help": "open_clip model to start from: name, hf-hub: or folder"}
    )
    tag: str | None = field(default=None, metadata={"help": "its weights' tag, where base is a name"})
    tokenizer: str | None = field(default=None, metadata={"help": "tokenizer of a fresh text tower"})
    image_model: str = field(
        default="vit_tiny_patch16_224", metadata={"help": "timm name of a fresh image tower"}
    )
    image_weights: str | None = field(
        default=None, metadata={"help": "safetensors of that trunk, timm's names"}
    )
    image_size: int = field(default=224, metadata={"help": "side of the square picture a fresh tower reads"})
    pool: str = field(default="token", metadata={"help": "pooling of a fresh image tower: token or avg"})
    width: int = field(default=256, metadata={"help": "of the shared space and of a fresh text tower"})
    text_layers: int = field(default=3, metadata={"help": "blocks of a fresh text tower"})
    text_heads: int = field(default=4, metadata={"help": "attention heads of a fresh text tower"})
    context_length: int = field(default=40, metadata={"help": "longest text, in tokens"})
    loss: str = field(
        default="infonce", metadata={"help": "infonce, or vse++ for the hardest-negative hinge"}
    )
    warm_text: list[str] = field(
        default_factory=list,
        metadata={
            "help": "data sets with several captions a picture, no picture needed, to warm the text up"
        },
    )
    warm_epochs: int = field(default=4, metadata={"help": "passes over --warm_text"})
    warm_batch_size: int = field(default=256, metadata={"help": "pairs of captions a step"})
    warm_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of that"})
    captions_per_image: int = field(default=3, metadata={"help": "captions drawn for a picture each time"})
    align_epochs: int = field(default=12, metadata={"help": "passes with the trunk at rest"})
    align_views: int = field(
        default=2,
        metadata={"help": "views of a picture whose features are kept; the first is the picture"},
    )
    align_batch_size: int = field(default=256, metadata={"help": "pictures a step, trunk at rest"})
    align_rate: float = field(default=1e-3, metadata={"help": "peak learning rate, trunk at rest"})
    tune_epochs: int = field(default=10, metadata={"help": "passes with the upper trunk awake"})
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
    workers: int = field(default=0, metadata={"help": "processes that read and augment pictures"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
        if self.loss not in ("infonce", "vse++"):
            raise SystemExit(f"--loss must be infonce or vse++, found {self.loss!r}")
        if not 0 <= self.patch_dropout < 1:
            raise SystemExit(f"--patch_dropout must be at least 0 and below 1, found {self.patch_dropout}")
        if self.align_views < 1:
            raise SystemExit(f"--align_views must be at least 1, found {self.align_views}")


def main(config: Config) -> None:
    set_seed(config.seed)
    out = Path(config.out)
    scorer = start_scorer(config)
    train = captioned(config.captions, ("train",))
    dev = captioned(config.captions, ("dev", "val"))
    warmed = bool(config.warm_text) and config.warm_epochs > 0
    aligned = config.align_epochs > 0 and hasattr(scorer.model.visual, "trunk")
    if not aligned and not config.tune_epochs:
        raise SystemExit("nothing to train: give --tune_epochs, or --align_epochs and a tower with a trunk")
    with ImageFiles(config.images) as images:
        claim_folder(out, asdict(config), MAY_CHANGE)
        if warmed:
            warm(config, scorer, dev, out / "warm")
            reload(scorer, out / "warm" / "best")
        if aligned:
            align(config, scorer, images, train, dev, out / "align")
            reload(scorer, out / "align" / "best")
        if config.tune_epochs:
            tune(config, scorer, images, train, dev, out / "tune")
    best = out / ("tune" if config.tune_epochs else "align") / "best"
    reload(scorer, best).save_pretrained(out / "best")


def warm(config: Config, scorer: ImageTextScorer, dev: Sequence[CaptionedImage], folder: Path) -> None:
    """Text alone: two captions of a picture are each other's positive, all others of the batch are not."""
    held_out = ("dev", "test")
    groups = [row for path in config.warm_text for row in captioned(path, ("train",), held_out, at_least=2)]
    judges = [row for row in dev if len(row.captions) > 1]
    refuse_empty(judges, config.captions, ("dev", "val with two captions a picture"))
    text = [p for name, p in scorer.model.named_parameters() if not name.startswith("visual.")]

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        vectors = text_vectors(scorer, batch["texts"])
        first, second = vectors[0::2], vectors[1::2]
        return info_nce(
            first, second, torch.arange(len(first), device=first.device), inverse_temperature(scorer)
        )

    fit(
        scorer.model,
        split_by_decay(text, config.warm_rate, config.weight_decay),
        loader=lambda epoch: Pairs(groups, None, 2, config.seed + epoch).loader(config.warm_batch_size),
        loss=loss,
        validate=lambda _: text_recall(scorer, judges),
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(epochs=config.warm_epochs, max_steps=config.max_steps, cpu=config.cpu),
    )


def align(
    config: Config,
    scorer: ImageTextScorer,
    images: ImageFiles,
    train: Sequence[CaptionedImage],
    dev: Sequence[CaptionedImage],
    folder: Path,
) -> None:
    """Trunk at rest: projection and text tower learn on features that are computed once."""
    visual = scorer.model.visual
    augment = augmentation(scorer.config["preprocess_cfg"])

    def augmented(row: CaptionedImage) -> Tensor:
        return augment(open_image(images.read(row.image)), row.captions)

    def plain(row: CaptionedImage) -> Tensor:
        return scorer.pixels(images.read(row.image))

    dev_features = cached(folder / "dev.pt", lambda: trunk_features(scorer, dev, plain))
    views = torch.stack(
        [
            cached(
                folder / f"train-{number}.pt",
                lambda view=augmented if number else plain: trunk_features(scorer, train, view),
            )
            for number in range(config.align_views)
        ]
    )

    def pairs(epoch: int) -> Pairs:
        def features(number: int, _: CaptionedImage) -> Tensor:
            return views[torch.randint(len(views), ()), number]

        return Pairs(train, features, config.captions_per_image, config.seed + epoch)

    def validate(_: nn.Module) -> dict[str, float]:
        return recall(scorer, F.normalize(visual.head(dev_features.to(scorer.device)), dim=-1), dev)

    head = [p for name, p in scorer.model.named_parameters() if not name.startswith("visual.trunk.")]
    fit(
        scorer.model,
        split_by_decay(head, config.align_rate, config.weight_decay),
        loader=lambda epoch: pairs(epoch).loader(config.align_batch_size),
        loss=lambda _, batch: pair_loss(config, scorer, visual.head(batch["images"]), batch),
        validate=validate,
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(epochs=config.align_epochs, max_steps=config.max_steps, cpu=config.cpu),
    )


def tune(
    config: Config,
    scorer: ImageTextScorer,
    images: ImageFiles,
    train: Sequence[CaptionedImage],
    dev: Sequence[CaptionedImage],
    folder: Path,
) -> None:
    """Upper trunk awake: everything above the resting blocks learns, on augmented pictures."""
    augment = augmentation(scorer.config["preprocess_cfg"])
    first_whole = config.tune_epochs - config.whole_epochs
    visual = scorer.model.visual
    dropout = patch_dropout(visual)

    def picture(_: int, row: CaptionedImage) -> Tensor:
        return augment(open_image(images.read(row.image)), row.captions)

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        dropout.prob = config.patch_dropout if batch["epoch"] < first_whole else 0.0
        return pair_loss(config, scorer, visual(batch["images"]), batch)

    def validate(_: nn.Module) -> dict[str, float]:
        return recall(scorer, scorer.encode_images([images.read(row.image) for row in dev]), dev)

    def pairs(epoch: int) -> Pairs:
        return Pairs(train, picture, config.captions_per_image, config.seed + 1000 + epoch)

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
        loader=lambda epoch: pairs(epoch).loader(config.tune_batch_size, config.workers),
        loss=loss,
        validate=validate,
        save_best=lambda _: scorer.save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(
            epochs=config.tune_epochs,
            validations_per_epoch=0.5,
            average=config.weight_average,
            max_steps=config.max_steps,
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


def pair_loss(config: Config, scorer: ImageTextScorer, features: Tensor, batch: Batch) -> Tensor:
    texts = text_vectors(scorer, batch["texts"])
    images = F.normalize(features, dim=-1)
    scale = inverse_temperature(scorer)
    if config.loss == "vse++":
        # The hinge knows no temperature, but magic search's softmax needs one: it alone learns from InfoNCE.
        temper = info_nce(images.detach(), texts.detach(), batch["owner"], scale)
        return hardest_negative_hinge(images, texts, batch["owner"]) + temper
    return info_nce(images, texts, batch["owner"], scale)


def text_vectors(scorer: ImageTextScorer, texts: Sequence[str]) -> Tensor:
    """Unit vectors (N, D), differentiable."""
    tower = scorer.text_tower
    if tower is None:
        raise BadModel("this recipe trains causal text towers; choose a base with one")
    return tower.encode([tower.cut(row) for row in scorer.tokenize(texts)])


def inverse_temperature(scorer: ImageTextScorer) -> Tensor:
    """The trained factor on cosines, its parameter brought back to CLIP's bound where a step went beyond."""
    with torch.no_grad():
        scorer.model.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)
    scale: Tensor = scorer.model.logit_scale.exp()
    return scale


def start_scorer(config: Config) -> ImageTextScorer:
    if config.base is not None:
        return ImageTextScorer.from_pretrained(config.base, config.tag)
    if config.tokenizer is None:
        raise SystemExit("give --base MODEL to start from a model, or --tokenizer FOLDER to start afresh")
    scorer = ImageTextScorer.from_config(fresh_shape(config), config.tokenizer)
    if config.image_weights is not None:
        weights = {
            name: t for name, t in load_file(config.image_weights).items() if not name.startswith("head.")
        }
        scorer.model.visual.trunk.load_state_dict(weights)
    return scorer


def fresh_shape(config: Config) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    return {
        "model_cfg": {
            "embed_dim": config.width,
            "vision_cfg": {
                "timm_model_name": config.image_model,
                "timm_model_pretrained": False,
                "timm_pool": config.pool,
                "timm_proj": "mlp",
                "image_size": config.image_size,
            },
            "text_cfg": {
                "context_length": config.context_length,
                "vocab_size": len(tokenizer),
                "width": config.width,
                "heads": config.text_heads,
                "layers": config.text_layers,
                "pool_type": "eos",
                "eos_id": tokenizer.eos_token_id,
                "hf_tokenizer_name": "local",
            },
        },
        # Flickr8k's pictures come squashed to a square; squashing keeps the whole of any other picture too.
        "preprocess_cfg": {
            "size": config.image_size,
            "mode": "RGB",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def reload(scorer: ImageTextScorer, folder: Path) -> ImageTextScorer:
    """The scorer with the weights that validated best."""
    scorer.model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return scorer


def trunk_features(
    scorer: ImageTextScorer, rows: Sequence[CaptionedImage], view: Callable[[CaptionedImage], Tensor]
) -> Tensor:
    """(N, W) pooled features of the resting trunk."""
    trunk = scorer.model.visual.trunk.eval()
    parts = []
    with torch.no_grad():
        for start in tqdm(range(0, len(rows), 32), desc="features", disable=None):
            part = [view(row) for row in rows[start : start + 32]]
            parts.append(trunk(torch.stack(part).to(scorer.device)).cpu())
    return torch.cat(parts)


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
