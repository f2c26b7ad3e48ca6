"""Train the supervised baseline: a CNN's grid of features, attention, and an LSTM that writes.

Three stages, each of which keeps the checkpoint whose greedy captions have the best CIDEr-D on the dev split,
and hands it to the next:

1. *xe*: cross-entropy. The encoder is frozen, and the decoder learns the captions word by word from a few
   views of each picture, whose features are computed once;
2. *finetune*: the upper encoder learns with it, on augmented pictures;
3. *scst*: self-critical sequence training. The encoder is frozen again, and the reward is the CIDEr-D of
   captions that the decoder samples.

The decoder is one of ``--decoder soft`` (Show, Attend and Tell), ``hard``, ``none`` (Show and Tell) and
``transformer``; the encoder is any timm network. The data set may be of any form that
``magicap.data.read_captions`` knows: captions.jsonl, Karpathy, Flickr8k, imagefolder.

    python recipes/train_cnn_lstm.py --out runs/cnn_lstm \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/flickr8k/images-dev.tar \\
        --image_weights $MAGICAP_DATA/../weights/mobilenet_v2_folded_dequant.safetensors

The captioner is in <out>/best, each stage's in <out>/<stage>/best. A second run of the same command resumes
where the first one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import set_seed
from cli import run
from safetensors.torch import load_file
from torch import Tensor

from magicap.captioners.supervised import SupervisedCaptioner
from magicap.checks import require_int
from magicap.data import CaptionedImage, ImageFiles
from magicap.errors import BadSettings
from magicap.models.fingerprint import fingerprint
from magicap.supervised.decoder import DecoderConfig
from magicap.supervised.grid import GridConfig, load_backbone
from magicap.supervised.network import WEIGHTS_FILE, CaptionNetwork
from magicap.supervised.settings import BeamSearch
from magicap.supervised.vocabulary import Vocabulary, caption_words
from magicap.training import processes
from magicap.training.augmentation import RandomViews
from magicap.training.captioning import validation
from magicap.training.checks import open_run_folder
from magicap.training.loop import fit
from magicap.training.objectives.captioning import CaptionCrossEntropy, CaptionObjective, SelfCritical
from magicap.training.options import TrainingOptions
from magicap.training.pairs import Pairs, read_captioned_images
from magicap.training.parameter_groups import split_by_decay
from magicap.training.phases import load_or_compute
from magicap.training.progress import progress
from magicap.training.rewards import CiderReward

XE, FINETUNE, SCST = "xe", "finetune", "scst"
MAY_CHANGE = (
    "features",
    "xe_epochs",
    "finetune_epochs",
    "scst_epochs",
    "xe_rate",
    "finetune_rate",
    "encoder_rate",
    "scst_rate",
    "beam_size",
    "length_penalty",
    "dtype",
)
ALL_CAPTIONS = 100  # of a picture: more than any data set has


@dataclass(frozen=True)
class Config(TrainingOptions):
    captions: str
    """Data set with a train and a dev (or val) split."""

    images: list[str]
    """Tar files or folders with the pictures of both splits."""

    out: str
    """Folder of this run; the captioner goes to <out>/best."""

    base: str | None = None
    """Folder of a captioner of the very shape of this one, whose weights to start from."""

    image_model: str = "mobilenetv2_100"
    """Name in timm of the encoder."""

    image_options: list[str] = field(default_factory=lambda: ["pad_type=same"])
    """Options of timm.create_model for the encoder, each written NAME=VALUE."""

    image_weights: str | None = None
    """File in safetensors format with the weights of a trained encoder; default: random weights."""

    image_size: int = 224
    """Side of the square picture that the encoder reads, in pixels."""

    decoder: Literal["soft", "hard", "none", "transformer"] = "soft"
    """Kind of the decoder: soft or hard attention with an LSTM, none for an LSTM without attention, or a
    transformer."""

    width: int = 512
    """Width of the decoder's hidden state."""

    embedding: int = 256
    """Width of a word's embedding."""

    attention: int = 256
    """Width of the space where the decoder's state and locations of the picture are compared."""

    layers: int = 3
    """Number of blocks of a Transformer decoder."""

    heads: int = 8
    """Number of attention heads in each block of a Transformer decoder."""

    dropout: float = 0.5
    """Share of activations that are dropped while the decoder learns word by word, 0 to 1."""

    max_words: int = 24
    """Longest caption in words."""

    min_count: int = 5
    """How often a word must stand in the captions to be in the vocabulary."""

    features: str | None = None
    """Folder of the encoder's features, which several runs may share; default: <out>/features."""

    views: int = 3
    """Number of views of a picture that are kept as features; the first is the picture itself."""

    batch_size: int = 32
    """Number of pictures in a batch of one process."""

    captions_per_image: int = 5
    """Number of captions of a picture in a step."""

    smoothing: float = 0.1
    """Share of probability that label smoothing gives to the other words, 0 to 1."""

    coverage: float = 1.0
    """Weight of the doubly stochastic attention loss."""

    xe_epochs: int = 12
    """Passes of cross-entropy training while the encoder is frozen."""

    xe_rate: float = 1e-3
    """Peak learning rate of cross-entropy training while the encoder is frozen."""

    finetune_epochs: int = 0
    """Passes of cross-entropy training while the upper encoder is trainable."""

    finetune_rate: float = 3e-4
    """Peak learning rate of the decoder while the upper encoder is trainable."""

    encoder_rate: float = 1e-4
    """Peak learning rate of the upper encoder."""

    frozen: list[str] = field(
        default_factory=lambda: ["conv_stem", "bn1", "blocks.0.", "blocks.1.", "blocks.2."]
    )
    """Parts of the encoder, by the beginning of their names, that stay frozen while the upper encoder is
    trainable."""

    scst_epochs: int = 8
    """Passes of self-critical training."""

    scst_rate: float = 1e-4
    """Peak learning rate of self-critical training."""

    scst_samples: int = 5
    """Number of captions that self-critical training samples of a picture; at least 2."""

    weight_average: float = 0.995
    """Decay of the running average of weights, a step."""

    weight_decay: float = 0.01
    """Weight decay of AdamW, on matrices only."""

    beam_size: int = 3
    """Beam size of the captioner that is written."""

    length_penalty: float = 1.0
    """Length penalty of the captioner that is written; above 1 prefers longer captions."""

    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the weights in <out>/best."""

    workers: int = 0
    """Number of processes that read and augment pictures beside the main one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("views", "batch_size", "captions_per_image"):
            require_int(f"--{name}", getattr(self, name))
        require_int("--scst_samples", self.scst_samples, least=2)
        if not self.xe_epochs + self.finetune_epochs + self.scst_epochs:
            raise BadSettings("nothing to train: give --xe_epochs, --finetune_epochs or --scst_epochs")
        if malformed := [option for option in self.image_options if "=" not in option]:
            raise BadSettings(f"--image_options are written NAME=VALUE, found {malformed[0]!r}")


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    train = read_captioned_images(config.captions, ("train",))
    dev = read_captioned_images(config.captions, ("dev", "val"))
    network = start_network(config, train)
    stages = {
        XE: (config.xe_epochs, cross_entropy_stage),
        FINETUNE: (config.finetune_epochs, finetune_stage),
        SCST: (config.scst_epochs, self_critical_stage),
    }
    with ImageFiles(config.images) as images:
        open_run_folder(out, asdict(config), MAY_CHANGE)
        data = Data(config, network, images, train, dev)
        for name, (epochs, stage) in stages.items():
            if epochs:
                stage(config, network, data, out / name)
                network.load_state_dict(load_file(out / name / "best" / WEIGHTS_FILE))
    if processes.is_first():
        save(config, network, out / "best", config.dtype)


def start_network(config: Config, train: Sequence[CaptionedImage]) -> CaptionNetwork:
    """A fresh decoder on a trained encoder, or the weights of ``--base``."""
    grid = GridConfig(
        config.image_model, dict(option.split("=", 1) for option in config.image_options), config.image_size
    )
    decoder = DecoderConfig(
        config.decoder,
        config.width,
        config.embedding,
        config.attention,
        config.layers,
        config.heads,
        config.dropout,
        config.max_words,
    )
    vocabulary = Vocabulary.of((text for row in train for text in row.captions), config.min_count)
    network = CaptionNetwork(grid, decoder, vocabulary)
    if config.image_weights is not None:
        load_backbone(network.encoder, config.image_weights)
    if config.base is not None:
        network.load_state_dict(load_file(Path(config.base) / WEIGHTS_FILE))
    return network.to("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")


@dataclass(frozen=True)
class Data:
    """Pictures of both splits, as pixels (3, H, W) or as grids (L, D)."""

    config: Config
    network: CaptionNetwork
    images: ImageFiles
    train: Sequence[CaptionedImage]
    dev: Sequence[CaptionedImage]

    def plain(self, row: CaptionedImage) -> Tensor:
        return self.network.encoder.pixels(self.images.read(row.image))

    def augmented(self, row: CaptionedImage) -> Tensor:
        return RandomViews(self.images, self.network.encoder.config.preprocess)(0, row)

    def views(self) -> list[Tensor]:
        """Grids (N, L, D) of the training pictures in several views, in half precision."""
        return [
            self._features(f"train-{number}", self.train, self.augmented if number else self.plain, number)
            for number in range(self.config.views)
        ]

    def dev_grids(self) -> list[Tensor]:
        """Grids of the dev pictures, in parts, by the encoder as it came."""
        return list(self._features("dev", self.dev, self.plain).float().split(250))

    def new_dev_grids(self) -> list[Tensor]:
        """Grids of the dev pictures, in parts, by the encoder as it is now."""
        return list(self.grids(self.dev, self.plain).float().split(250))

    def grids(
        self, rows: Sequence[CaptionedImage], view: Callable[[CaptionedImage], Tensor], seed: int = 0
    ) -> Tensor:
        """(N, L, D) features of the frozen encoder, in half precision."""
        self.network.eval()
        pictures = Pairs(rows, lambda _, row: view(row), 1, seed).in_order(32, self.config.workers)
        parts = []
        with torch.no_grad(), progress(len(rows), "features", unit="picture") as bar:
            for batch in pictures:
                grids = self.network(batch["images"].to(self.network.device))
                parts.append(grids.half().cpu())
                bar.update(len(parts[-1]))
        return torch.cat(parts)

    def _features(
        self,
        name: str,
        rows: Sequence[CaptionedImage],
        view: Callable[[CaptionedImage], Tensor],
        seed: int = 0,
    ) -> Tensor:
        folder = Path(self.config.features or Path(self.config.out) / "features")
        encoder, seed = self.network.encoder, self.config.seed + seed
        source = f"{fingerprint(encoder)} {encoder.config} {seed} {[row.image for row in rows]}"
        path = folder / f"{name}-{blake2b(source.encode(), digest_size=6).hexdigest()}.pt"
        return load_or_compute(path, lambda: self.grids(rows, view, seed))


def cross_entropy_stage(config: Config, network: CaptionNetwork, data: Data, folder: Path) -> None:
    """Encoder frozen: the decoder learns captions word by word."""
    views, dev_grids = data.views(), data.dev_grids()

    def pairs(epoch: int) -> Pairs:
        return Pairs(data.train, one_of(views), config.captions_per_image, config.seed + epoch)

    train_stage(
        word_by_word(config, network, on_grids=True),
        split_by_decay(network.decoder.parameters(), config.xe_rate, config.weight_decay),
        pairs=pairs,
        dev_grids=lambda: dev_grids,
        data=data,
        folder=folder,
        epochs=config.xe_epochs,
    )


def finetune_stage(config: Config, network: CaptionNetwork, data: Data, folder: Path) -> None:
    """Upper encoder trainable: it learns with the decoder, on augmented pictures."""
    trainable = [
        parameter
        for name, parameter in network.encoder.network.named_parameters()
        if not name.startswith(tuple(config.frozen))
    ]

    def pairs(epoch: int) -> Pairs:
        seed = config.seed + 1000 + epoch
        return Pairs(data.train, lambda _, row: data.augmented(row), config.captions_per_image, seed)

    train_stage(
        word_by_word(config, network, on_grids=False),
        split_by_decay(network.decoder.parameters(), config.finetune_rate, config.weight_decay)
        + split_by_decay(trainable, config.encoder_rate, config.weight_decay),
        pairs=pairs,
        workers=config.workers,
        dev_grids=data.new_dev_grids,
        data=data,
        folder=folder,
        epochs=config.finetune_epochs,
    )


def self_critical_stage(config: Config, network: CaptionNetwork, data: Data, folder: Path) -> None:
    """Encoder frozen: the decoder learns from the rewards of captions that it samples."""
    views, dev_grids = data.views(), data.dev_grids()
    reward = CiderReward([[caption_words(text) for text in row.captions] for row in data.train])

    def pairs(epoch: int) -> Pairs:
        return Pairs(data.train, one_of(views), ALL_CAPTIONS, config.seed + 2000 + epoch)

    train_stage(
        SelfCritical(network, reward, samples=config.scst_samples),
        split_by_decay(network.decoder.parameters(), config.scst_rate, config.weight_decay),
        pairs=pairs,
        dev_grids=lambda: dev_grids,
        data=data,
        folder=folder,
        epochs=config.scst_epochs,
    )


def train_stage(
    objective: CaptionObjective,
    groups: list[dict[str, Any]],
    *,
    pairs: Callable[[int], Pairs],
    dev_grids: Callable[[], list[Tensor]],
    data: Data,
    folder: Path,
    epochs: int,
    workers: int = 0,
) -> None:
    """One stage: weights in no group are frozen."""
    config, network = data.config, data.network
    set_seed(config.seed)  # whether or not the stages before ran just now
    step_rows = config.step_rows(config.batch_size)

    def validate(_: CaptionObjective) -> dict[str, float]:
        parts = [part.to(network.device) for part in dev_grids()]
        return validation(network.decoder, parts, data.dev, network.vocabulary)

    fit(
        objective,
        groups,
        epoch=lambda epoch: pairs(epoch).epoch(step_rows, workers),
        validate=validate,
        save_best=lambda _: save(config, network, folder / "best"),
        folder=folder,
        config=config.loop(epochs, average=config.weight_average, description=folder.name),
    )


def word_by_word(config: Config, network: CaptionNetwork, *, on_grids: bool) -> CaptionCrossEntropy:
    """The objective of the first two stages."""
    return CaptionCrossEntropy(
        network, on_grids=on_grids, smoothing=config.smoothing, coverage=config.coverage
    )


def one_of(views: Sequence[Tensor]) -> Callable[[int, CaptionedImage], Tensor]:
    """From a picture's number to its grid (L, D) in a random view."""
    return lambda number, _: views[int(torch.randint(len(views), ()))][number]


def save(config: Config, network: CaptionNetwork, folder: Path, dtype: str = "float32") -> None:
    decoding = BeamSearch(config.beam_size, config.length_penalty, config.max_words)
    SupervisedCaptioner(network, decoding).save_pretrained(folder, dtype=dtype)


if __name__ == "__main__":
    run(main, Config)
