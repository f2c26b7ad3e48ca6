"""Train a CLIP-type scorer on captioned pictures: the visual-semantic embedding that steers magic search.

Two stages. First the image trunk rests and its pooled features are computed once, while the projection and
the text tower learn to meet them; then the upper trunk is tuned with them on augmented pictures. Starts from
an ImageNet trunk (``--image_weights``, timm's names) or from any open_clip model (``--base``, ``--tag``); a
tower without a trunk apart from its projection, such as CLIP's own, skips the first stage. The data set may
be of any form that ``magicap.data.read_captions`` knows: captions.jsonl, Karpathy, Flickr8k, imagefolder.

    python recipes/train_scorer.py --out runs/scorer --tokenizer runs/tokenizer/scorer \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar \\
        --image_weights $MAGICAP_DATA/../weights/vit_tiny_patch16_224.safetensors

A second run of the same command resumes where the first one stopped.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.data import CaptionedImage, ImageFiles, normalise_caption, read_captions
from magicap.errors import BadModel
from magicap.images import open_image
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.scorer import ImageTextScorer
from magicap.models.text_tower import CausalTextTower
from magicap.training.checks import claim_folder, refuse_empty
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.losses import hardest_negative_hinge, info_nce

MAY_CHANGE = (
    "out",
    "align_epochs",
    "tune_epochs",
    "max_steps",
    "align_rate",
    "tune_rate",
    "trunk_rate",
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
    captions_per_image: int = field(default=3, metadata={"help": "captions drawn for a picture each time"})
    align_epochs: int = field(default=12, metadata={"help": "passes with the trunk at rest"})
    align_batch_size: int = field(default=256, metadata={"help": "pictures a step, trunk at rest"})
    align_rate: float = field(default=1e-3, metadata={"help": "peak learning rate, trunk at rest"})
    tune_epochs: int = field(default=4, metadata={"help": "passes with the upper trunk awake"})
    tune_batch_size: int = field(default=96, metadata={"help": "pictures a step, trunk awake"})
    tune_rate: float = field(
        default=3e-4, metadata={"help": "peak learning rate of text tower and projection"}
    )
    trunk_rate: float = field(default=5e-5, metadata={"help": "peak learning rate of the trunk's last block"})
    trunk_decay: float = field(default=0.8, metadata={"help": "factor on the rate, block by block downwards"})
    trunk_blocks: int = field(default=6, metadata={"help": "how many upper blocks are tuned"})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW's, on matrices only"})
    max_steps: int | None = field(default=None, metadata={"help": "stop each stage after so many steps"})
    seed: int = field(default=1, metadata={"help": "of weights, order and augmentation"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
        if self.loss not in ("infonce", "vse++"):
            raise SystemExit(f"--loss must be infonce or vse++, found {self.loss!r}")


def main(config: Config) -> None:
    set_seed(config.seed)
    out = Path(config.out)
    scorer = start_scorer(config)
    train = captioned(config.captions, ("train",))
    dev = captioned(config.captions, ("dev", "val"))
    aligned = config.align_epochs > 0 and hasattr(scorer.model.visual, "trunk")
    if not aligned and not config.tune_epochs:
        raise SystemExit("nothing to train: give --tune_epochs, or --align_epochs and a tower with a trunk")
    with ImageFiles(config.images) as images:
        claim_folder(out, asdict(config), MAY_CHANGE)
        if aligned:
            align(config, scorer, images, train, dev, out / "align")
            scorer = reload(scorer, out / "align" / "best")
        if config.tune_epochs:
            tune(config, scorer, images, train, dev, out / "tune")
    best = out / ("tune" if config.tune_epochs else "align") / "best"
    reload(scorer, best).save_pretrained(out / "best")


def captioned(path: str, splits: Sequence[str]) -> list[CaptionedImage]:
    """The pictures of these splits that have a caption; at least one."""
    rows = [row for row in read_captions(path, splits) if row.captions]
    refuse_empty(rows, path, splits)
    return rows


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
    features = cached(folder / "train.pt", lambda: trunk_features(scorer, images, train))
    dev_features = cached(folder / "dev.pt", lambda: trunk_features(scorer, images, dev))

    def pairs(epoch: int) -> Pairs:
        return Pairs(
            train, lambda number, _: features[number], config.captions_per_image, config.seed + epoch
        )

    def validate(_: torch.nn.Module) -> dict[str, float]:
        return recall(scorer, F.normalize(visual.head(dev_features.to(scorer.device)), dim=-1), dev)

    head = [p for name, p in scorer.model.named_parameters() if not name.startswith("visual.trunk.")]
    fit(
        scorer.model,
        split_by_decay(head, config.align_rate, config.weight_decay),
        loader=lambda epoch: pairs(epoch).loader(config.align_batch_size),
        loss=lambda _, batch: pair_loss(config, scorer, visual.head(batch["images"]), batch),
        validate=validate,
        save_best=lambda _: bounded(scorer).save_pretrained(folder / "best"),
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
    augment = augmentation(scorer)
    mirror = v2.RandomHorizontalFlip(0.5)

    def picture(number: int, row: CaptionedImage) -> Tensor:
        view: Tensor = augment(open_image(images.read(row.image)))
        return view if names_a_side(row.captions) else mirror(view)

    def validate(_: torch.nn.Module) -> dict[str, float]:
        return recall(scorer, scorer.encode_images([images.read(row.image) for row in dev]), dev)

    def pairs(epoch: int) -> Pairs:
        return Pairs(train, picture, config.captions_per_image, config.seed + 1000 + epoch)

    fit(
        scorer.model,
        tuning_groups(config, scorer.model),
        loader=lambda epoch: pairs(epoch).loader(config.tune_batch_size),
        loss=lambda _, batch: pair_loss(config, scorer, scorer.model.visual(batch["images"]), batch),
        validate=validate,
        save_best=lambda _: bounded(scorer).save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(epochs=config.tune_epochs, max_steps=config.max_steps, cpu=config.cpu),
    )


class Pairs(Dataset[Batch]):
    """Pictures of one epoch, each with some of its captions.

    Order, captions and augmentation follow from the seed and the row alone, so that a resumed run sees what
    an uninterrupted one would have seen.
    """

    def __init__(
        self,
        rows: Sequence[CaptionedImage],
        picture: Callable[[int, CaptionedImage], Tensor],
        captions_per_image: int,
        seed: int,
    ) -> None:
        self.rows, self.picture, self.captions_per_image = rows, picture, captions_per_image
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Batch:
        row = self.rows[number]
        chance = random.Random(f"{self.seed}-{number}")
        drawn = chance.sample(row.captions, min(self.captions_per_image, len(row.captions)))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(chance.getrandbits(63))  # of the CPU alone
            picture = self.picture(number, row)
        return {"image": picture, "texts": [normalise_caption(text) for text in drawn]}

    def loader(self, batch_size: int) -> DataLoader[Any]:
        """Whole batches; with fewer rows than one batch, a batch of all of them."""
        order = torch.Generator().manual_seed(self.seed)
        size = min(batch_size, len(self))
        return DataLoader(self, size, shuffle=True, generator=order, collate_fn=collate, drop_last=True)


def collate(rows: Sequence[Batch]) -> Batch:
    return {
        "images": torch.stack([row["image"] for row in rows]),
        "texts": [text for row in rows for text in row["texts"]],
        "owner": torch.tensor([number for number, row in enumerate(rows) for _ in row["texts"]]),
    }


def pair_loss(config: Config, scorer: ImageTextScorer, features: Tensor, batch: Batch) -> Tensor:
    tower = causal_tower(scorer)
    texts = tower.encode([tower.cut(row) for row in scorer.tokenize(batch["texts"])])
    images = F.normalize(features, dim=-1)
    scale = bounded(scorer).model.logit_scale.exp()
    if config.loss == "vse++":
        # The hinge knows no temperature, but magic search's softmax needs one: it alone learns from InfoNCE.
        temper = info_nce(images.detach(), texts.detach(), batch["owner"], scale)
        return hardest_negative_hinge(images, texts, batch["owner"]) + temper
    return info_nce(images, texts, batch["owner"], scale)


def bounded(scorer: ImageTextScorer) -> ImageTextScorer:
    """The scorer, its inverse temperature brought back to 100 where a step went beyond."""
    with torch.no_grad():
        scorer.model.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)
    return scorer


def recall(
    scorer: ImageTextScorer, image_vectors: Tensor, rows: Sequence[CaptionedImage]
) -> dict[str, float]:
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.captions])
    texts = scorer.encode_texts([normalise_caption(text) for row in rows for text in row.captions])
    figures = retrieval_recall(image_vectors.cpu() @ texts.cpu().T, owner)
    return {"score": figures["image_to_text_r1"] + figures["text_to_image_r1"], **figures}


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


def causal_tower(scorer: ImageTextScorer) -> CausalTextTower:
    if scorer.text_tower is None:
        raise BadModel("this recipe trains causal text towers; choose a base with one")
    return scorer.text_tower


def augmentation(scorer: ImageTextScorer) -> Callable[[Any], Tensor]:
    settings = scorer.config["preprocess_cfg"]
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(settings["size"], scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(settings["mean"], settings["std"]),
        ]
    )


def names_a_side(captions: Sequence[str]) -> bool:
    """Whether mirroring the picture would make one of its captions false."""
    return any(re.search(r"\b(left|right)\b", text, re.IGNORECASE) for text in captions)


def trunk_features(scorer: ImageTextScorer, images: ImageFiles, rows: Sequence[CaptionedImage]) -> Tensor:
    """(N, W) pooled features of the resting trunk, without augmentation."""
    trunk = scorer.model.visual.trunk.eval()
    parts = []
    with torch.no_grad():
        for start in tqdm(range(0, len(rows), 32), desc="features", disable=None):
            part = [scorer.preprocess(open_image(images.read(row.image))) for row in rows[start : start + 32]]
            parts.append(trunk(torch.stack(part).to(scorer.device)).cpu())
    return torch.cat(parts)


def cached(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        torch.save(compute(), new)
        new.rename(path)
    tensor: Tensor = torch.load(path, weights_only=True)
    return tensor


def tuning_groups(config: Config, model: torch.nn.Module) -> list[dict[str, Any]]:
    """Text tower and projection at the full rate; trunk blocks slower the lower they lie, or at rest.

    A trunk without a list of blocks, such as a ResNet, is tuned as a whole at the trunk's rate, and so is an
    image tower without a trunk.
    """
    trunk = getattr(model.visual, "trunk", None)
    blocks = len(getattr(trunk, "blocks", ()))
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = config.tune_rate
        if name.startswith("visual.trunk.") and blocks:
            found = re.search(r"\.blocks\.(\d+)\.", name)
            above = blocks - 1 - int(found[1]) if found else (0 if ".norm." in name else blocks)
            rate = config.trunk_rate * config.trunk_decay**above if above < config.trunk_blocks else 0.0
        elif name.startswith("visual." if trunk is None else "visual.trunk."):
            rate = config.trunk_rate
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault(rate, []).append(parameter)
    return [
        group
        for rate, members in groups.items()
        for group in split_by_decay(members, rate, config.weight_decay)
    ]


def split_by_decay(
    parameters: Sequence[torch.nn.Parameter], rate: float, decay: float
) -> list[dict[str, Any]]:
    """Matrices decay, vectors and the temperature do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "lr": rate, "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "lr": rate, "weight_decay": 0.0},
    ]


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
