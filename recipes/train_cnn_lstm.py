"""Train the supervised baseline: a CNN's grid of features, attention, and an LSTM that writes.

Three stages, each of which keeps the checkpoint whose greedy captions have the best CIDEr-D on the dev split,
and hands it to the next:

1. *teach*: the encoder rests, and the decoder learns the captions word by word from a few views of each
   picture, whose features are computed once;
2. *tune*: the upper encoder learns with it, on augmented pictures;
3. *pay*: the encoder rests again, and the decoder is paid for the CIDEr-D of captions of its own (SCST).

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
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.captioners.supervised import SupervisedCaptioner
from magicap.data import CaptionedImage, ImageFiles
from magicap.images.reader import open_image
from magicap.models.fingerprint import fingerprint
from magicap.supervised.decoder import DecoderConfig
from magicap.supervised.grid import GridConfig, load_backbone
from magicap.supervised.network import WEIGHTS_FILE, CaptionNetwork
from magicap.supervised.settings import BeamSearch
from magicap.supervised.vocabulary import Vocabulary, caption_words
from magicap.training.captioning import paid_loss, teaching_loss, validation
from magicap.training.checks import open_run_folder
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.pairs import Pairs, augmentation, cached, captioned
from magicap.training.parameter_groups import split_by_decay
from magicap.training.rewards import CiderReward

TEACH, TUNE, PAY = "teach", "tune", "pay"
MAY_CHANGE = (
    "out",
    "features",
    "teach_epochs",
    "tune_epochs",
    "pay_epochs",
    "max_steps",
    "teach_rate",
    "tune_rate",
    "encoder_rate",
    "pay_rate",
    "beam_size",
    "length_penalty",
    "dtype",
    "workers",
    "cpu",
)
ALL_CAPTIONS = 100  # of a picture: more than any data set has


@dataclass(frozen=True)
class Config:
    captions: str = field(metadata={"help": "data set with a train and a dev (or val) split"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures of both splits"})
    out: str = field(metadata={"help": "folder of this run; the captioner goes to <out>/best"})
    start: str | None = field(
        default=None, metadata={"help": "a captioner of this very shape whose weights to start from"}
    )
    image_model: str = field(default="mobilenetv2_100", metadata={"help": "timm name of the encoder"})
    image_options: list[str] = field(
        default_factory=lambda: ["pad_type=same"], metadata={"help": "NAME=VALUE of timm.create_model"}
    )
    image_weights: str | None = field(default=None, metadata={"help": "safetensors of a trained encoder"})
    image_size: int = field(default=224, metadata={"help": "side of the square picture it reads"})
    decoder: str = field(default="soft", metadata={"help": "soft, hard, none or transformer"})
    width: int = field(default=512, metadata={"help": "of the decoder's hidden state"})
    embedding: int = field(default=256, metadata={"help": "of a word"})
    attention: int = field(default=256, metadata={"help": "of the space where state and places meet"})
    layers: int = field(default=3, metadata={"help": "blocks of a Transformer"})
    heads: int = field(default=8, metadata={"help": "attention heads of a Transformer"})
    dropout: float = field(default=0.5, metadata={"help": "while learning word by word"})
    max_words: int = field(default=24, metadata={"help": "longest caption"})
    min_count: int = field(default=5, metadata={"help": "how often a word must stand in the captions"})
    features: str | None = field(
        default=None, metadata={"help": "folder of the features, which runs may share (<out>/features)"}
    )
    views: int = field(
        default=3, metadata={"help": "of a picture, kept as features; the first is the picture"}
    )
    batch_size: int = field(default=32, metadata={"help": "pictures a step"})
    captions_per_image: int = field(
        default=5, metadata={"help": "captions of a picture that are taught a step"}
    )
    smoothing: float = field(default=0.1, metadata={"help": "of labels"})
    coverage: float = field(default=1.0, metadata={"help": "weight of doubly stochastic attention"})
    teach_epochs: int = field(default=12, metadata={"help": "passes with the encoder at rest"})
    teach_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of that"})
    tune_epochs: int = field(default=0, metadata={"help": "passes with the upper encoder awake"})
    tune_rate: float = field(default=3e-4, metadata={"help": "peak learning rate of the decoder then"})
    encoder_rate: float = field(default=1e-4, metadata={"help": "peak learning rate of the encoder"})
    resting: list[str] = field(
        default_factory=lambda: ["conv_stem", "bn1", "blocks.0.", "blocks.1.", "blocks.2."],
        metadata={"help": "parts of the encoder, by the beginning of their names, that rest even then"},
    )
    pay_epochs: int = field(default=8, metadata={"help": "passes of self-critical training"})
    pay_rate: float = field(default=1e-4, metadata={"help": "peak learning rate of that"})
    pay_samples: int = field(default=5, metadata={"help": "captions drawn of a picture"})
    weight_average: float = field(default=0.995, metadata={"help": "decay of the running average of weights"})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's, on matrices only"})
    beam_size: int = field(default=3, metadata={"help": "of the captioner that is written"})
    length_penalty: float = field(default=1.0, metadata={"help": "of the captioner that is written"})
    dtype: str = field(default="float32", metadata={"help": "of the weights in <out>/best: or float16"})
    max_steps: int | None = field(default=None, metadata={"help": "stop each stage after so many steps"})
    seed: int = field(default=1, metadata={"help": "of weights, order, augmentation and draws"})
    workers: int = field(default=0, metadata={"help": "processes that read and augment pictures"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
        if self.views < 1:
            raise SystemExit(f"--views must be at least 1, found {self.views}")
        if self.pay_samples < 2:
            raise SystemExit(f"--pay_samples must be at least 2, found {self.pay_samples}")
        if not self.teach_epochs + self.tune_epochs + self.pay_epochs:
            raise SystemExit("nothing to train: give --teach_epochs, --tune_epochs or --pay_epochs")
        if bad := [option for option in self.image_options if "=" not in option]:
            raise SystemExit(f"--image_options are written NAME=VALUE, found {bad[0]!r}")


def main(config: Config) -> None:
    set_seed(config.seed)
    out = Path(config.out)
    train = captioned(config.captions, ("train",))
    dev = captioned(config.captions, ("dev", "val"))
    network = start_network(config, train)
    stages = {
        TEACH: (config.teach_epochs, teach),
        TUNE: (config.tune_epochs, tune),
        PAY: (config.pay_epochs, pay),
    }
    with ImageFiles(config.images) as images:
        open_run_folder(out, asdict(config), MAY_CHANGE)
        data = Data(config, network, images, train, dev)
        for name, (epochs, stage) in stages.items():
            if epochs:
                stage(config, network, data, out / name)
                network.load_state_dict(load_file(out / name / "best" / WEIGHTS_FILE))
    save(config, network, out / "best", config.dtype)


def start_network(config: Config, train: Sequence[CaptionedImage]) -> CaptionNetwork:
    """A fresh decoder on a trained encoder, or the weights of ``--start``."""
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
    if config.start is not None:
        network.load_state_dict(load_file(Path(config.start) / WEIGHTS_FILE))
    return network.to("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")


@dataclass(frozen=True)
class Data:
    """Pictures of both splits, as the stages read them."""

    config: Config
    network: CaptionNetwork
    images: ImageFiles
    train: Sequence[CaptionedImage]
    dev: Sequence[CaptionedImage]

    def plain(self, row: CaptionedImage) -> Tensor:
        return self.network.encoder.pixels(self.images.read(row.image))

    def augmented(self, row: CaptionedImage) -> Tensor:
        augment = augmentation(self.network.encoder.config.preprocess)
        return augment(open_image(self.images.read(row.image)), row.captions)

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
        """(N, L, D) features of the resting encoder, in half precision."""
        self.network.eval()
        pictures = Pairs(rows, lambda _, row: view(row), 1, seed).in_order(32, self.config.workers)
        parts = []
        with torch.no_grad():
            for batch in tqdm(pictures, desc="features", disable=None):
                parts.append(self.network(batch["images"].to(self.network.device)).half().cpu())
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
        return cached(path, lambda: self.grids(rows, view, seed))


def teach(config: Config, network: CaptionNetwork, data: Data, folder: Path) -> None:
    """Encoder at rest: the decoder learns captions word by word."""
    views = data.views()

    def loader(epoch: int) -> Any:
        pairs = Pairs(data.train, one_of(views), config.captions_per_image, config.seed + epoch)
        return pairs.loader(config.batch_size)

    run(
        network,
        split_by_decay(network.decoder.parameters(), config.teach_rate, config.weight_decay),
        loader=loader,
        loss=lambda batch: taught(config, network, batch["images"].float(), batch),
        dev_grids=data.dev_grids,
        data=data,
        folder=folder,
        epochs=config.teach_epochs,
    )


def tune(config: Config, network: CaptionNetwork, data: Data, folder: Path) -> None:
    """Upper encoder awake: it learns with the decoder, on augmented pictures."""
    awake = [
        p
        for name, p in network.encoder.network.named_parameters()
        if not name.startswith(tuple(config.resting))
    ]

    def loader(epoch: int) -> Any:
        pairs = Pairs(
            data.train,
            lambda _, row: data.augmented(row),
            config.captions_per_image,
            config.seed + 1000 + epoch,
        )
        return pairs.loader(config.batch_size, config.workers)

    run(
        network,
        split_by_decay(network.decoder.parameters(), config.tune_rate, config.weight_decay)
        + split_by_decay(awake, config.encoder_rate, config.weight_decay),
        loader=loader,
        loss=lambda batch: taught(config, network, network(batch["images"]), batch),
        dev_grids=data.new_dev_grids,
        data=data,
        folder=folder,
        epochs=config.tune_epochs,
    )


def pay(config: Config, network: CaptionNetwork, data: Data, folder: Path) -> None:
    """Encoder at rest: the decoder is paid for captions of its own (self-critical sequence training)."""
    views = data.views()
    reward = CiderReward([[caption_words(text) for text in row.captions] for row in data.train])

    def loader(epoch: int) -> Any:
        pairs = Pairs(data.train, one_of(views), ALL_CAPTIONS, config.seed + 2000 + epoch)
        return pairs.loader(config.batch_size)

    def loss(batch: Batch) -> Tensor:
        references: list[list[str]] = [[] for _ in batch["images"]]
        for text, owner in zip(batch["texts"], batch["owner"].tolist(), strict=True):
            references[owner].append(text)
        return paid_loss(
            network.decoder,
            batch["images"].float(),
            references,
            network.vocabulary,
            reward,
            captions=config.pay_samples,
            max_new_tokens=config.max_words,
        )

    run(
        network,
        split_by_decay(network.decoder.parameters(), config.pay_rate, config.weight_decay),
        loader=loader,
        loss=loss,
        dev_grids=data.dev_grids,
        data=data,
        folder=folder,
        epochs=config.pay_epochs,
    )


def run(
    network: CaptionNetwork,
    groups: list[dict[str, Any]],
    *,
    loader: Callable[[int], Any],
    loss: Callable[[Batch], Tensor],
    dev_grids: Callable[[], list[Tensor]],
    data: Data,
    folder: Path,
    epochs: int,
) -> None:
    """One stage: what stands in no group rests."""
    learning = {id(p) for group in groups for p in group["params"]}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in learning)
    config = data.config
    set_seed(config.seed)  # whether or not the stages before ran just now

    def validate(_: nn.Module) -> dict[str, float]:
        parts = [part.to(network.device) for part in dev_grids()]
        return validation(network.decoder, parts, data.dev, network.vocabulary)

    fit(
        network,
        groups,
        loader=loader,
        loss=lambda _, batch: loss(batch),
        validate=validate,
        save_best=lambda _: save(config, network, folder / "best"),
        folder=folder,
        config=LoopConfig(
            epochs=epochs, average=config.weight_average, max_steps=config.max_steps, cpu=config.cpu
        ),
    )


def taught(config: Config, network: CaptionNetwork, grid: Tensor, batch: Batch) -> Tensor:
    ids = network.vocabulary.batch(batch["texts"], batch["owner"].tolist(), config.max_words)
    return teaching_loss(
        network.decoder, grid, ids.to(grid.device), smoothing=config.smoothing, coverage=config.coverage
    )


def one_of(views: Sequence[Tensor]) -> Callable[[int, CaptionedImage], Tensor]:
    return lambda number, _: views[torch.randint(len(views), ())][number]


def save(config: Config, network: CaptionNetwork, folder: Path, dtype: str = "float32") -> None:
    decoding = BeamSearch(config.beam_size, config.length_penalty, config.max_words)
    SupervisedCaptioner(network, decoding).save_pretrained(folder, dtype=dtype)


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
