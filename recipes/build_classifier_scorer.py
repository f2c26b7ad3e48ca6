"""Make a scorer of any timm classifier and any sentence encoder: captions without one captioned picture.

The classifier recognises kinds of things, the sentence encoder has vectors of their names, and the text
tower of a scorer that was distilled from text (distill_text_tower.py) has vectors of captions. A picture's
vector is its class vector (magicap/models/class_vector.py). No network is trained: a linear map from the
encoder's space to the tower's is fitted on sentences, and so are the class vector's matrix and the
temperature of magic search's softmax.

    pip install 'magicap[train]'
    python recipes/build_classifier_scorer.py --out runs/unpaired --base runs/text_tower/best \\
        --weights $MAGICAP_DATA/../weights/vit_tiny_patch16_224.safetensors \\
        --text $MAGICAP_DATA/text/coco_restval.txt
    python recipes/build_classifier_scorer.py --out runs/plants --text plant_captions.txt \\
        --classifier hf-hub:someone/plants --class_names plants.txt

The new folder is a whole scorer: assemble_captioner.py makes a captioner of it, and train_scorer.py can start
from it where there are captioned pictures after all.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from cli import run
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from magicap.captioners.load import load_scorer
from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.checks import require_int
from magicap.data import read_sentences
from magicap.errors import BadData, BadModel, BadSettings
from magicap.models.class_vector import TOP, ClassVector, attach_class_vector
from magicap.models.scorer import ImageTextScorer
from magicap.reading import read_text
from magicap.training.fresh_scorer import with_image_tower
from magicap.training.losses import info_nce
from magicap.training.teacher import apply_map, encode_with_teacher, linear_map

SCALES = (5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0, 100.0)
CANDIDATES = (
    45  # sentences that compete while the temperature is fitted, as many as magic search has candidates
)
SHARPNESS = 0.05  # temperature of the softmax of a sentence's cosines to class names: a pseudo classification
RIDGE = 0.1  # as a share of the class vectors' mean square
FEWEST_SENTENCES = 500


@dataclass(frozen=True)
class Config:
    text: list[str]
    """Data sets, of which the train split is read, or text files; some thousand sentences."""

    out: str
    """Folder of the new scorer."""

    base: str = DEFAULT
    """Preset, or folder of a captioner or scorer, whose text tower is taken."""

    classifier: str = "vit_tiny_patch16_224"
    """Name in timm, or hf-hub: id, of the classifier."""

    weights: str | None = None
    """File in safetensors format with the classifier's weights; default: timm's pretrained ones."""

    class_names: str | None = None
    """Text file with a class a line in the classifier's order; default: the names that timm knows."""

    sentence_encoder: str | None = None
    """Name or folder of a sentence-transformers model; default: all-MiniLM-L6-v2 as packaged."""

    template: str = "a photo of a {}."
    """Sentence with a class name, which takes the place of {}."""

    top: int = TOP
    """Number of a picture's likeliest classes that count."""

    sentences: int = 20_000
    """The most sentences of --text that are read, chosen at random."""

    seed: int = 1
    """Seed of the choice of sentences."""

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise BadSettings(f"--template must hold {{}} where the class name goes, found {self.template!r}")
        require_int("--top", self.top)


def main(config: Config) -> None:
    base = base_scorer(config.base)
    network = classifier(config)
    names = class_names(config, network)
    texts = list(dict.fromkeys(text for path in config.text for text in read_sentences(path)))
    if len(texts) < FEWEST_SENTENCES:
        raise BadData(
            f"{', '.join(config.text)}: expected at least {FEWEST_SENTENCES} different sentences to "
            f"fit on, found {len(texts)}; give more text"
        )
    texts = random.Random(config.seed).sample(texts, min(config.sentences, len(texts)))

    vectors = base.encode_texts(texts)
    encoded = encode_with_teacher(config.sentence_encoder, texts)
    encoded_names = encode_with_teacher(
        config.sentence_encoder, [config.template.format(name) for name in names]
    )
    name_vectors = apply_map(encoded_names, linear_map(encoded, vectors))

    scorer = with_classifier(base, network, config.classifier)
    attach_class_vector(scorer.model, ClassVector(network.get_classifier(), name_vectors, config.top))
    scale, loss = fit_class_vector(scorer, vectors)
    scorer.save_pretrained(config.out)
    print(
        json.dumps(
            {"classes": len(names), "sentences": len(texts), "logit_scale": scale, "info_nce": loss},
            allow_nan=False,
        )
    )


def base_scorer(source: str) -> ImageTextScorer:
    """The scorer of a preset, of a captioner's folder, or whatever open_clip loads."""
    if source in PRESETS or (Path(source) / "magicap.json").is_file():
        return load_scorer(source, device="cpu")
    return ImageTextScorer.from_pretrained(source)


def classifier(config: Config) -> Any:
    """The timm classifier; one whose last layer is not linear is refused."""
    network: Any = timm.create_model(config.classifier, pretrained=config.weights is None)
    if config.weights is not None:
        weights = load_file(config.weights)
        last = weights.get(f"{network.default_cfg['classifier']}.weight")
        if last is not None:
            network.reset_classifier(len(last))
        network.load_state_dict(weights)
    if not isinstance(network.get_classifier(), nn.Linear):
        raise BadModel(
            f"{config.classifier}: expected a classifier that ends in one linear layer, found "
            f"{type(network.get_classifier()).__name__}; take another"
        )
    return network.eval()


def class_names(config: Config, network: Any) -> list[str]:
    """Names of the classes, from the file or from the classifier's own metadata."""
    if config.class_names is not None:
        return [line.strip() for line in read_text(config.class_names).splitlines() if line.strip()]
    described = network.pretrained_cfg.get("label_names")
    if not described:
        subset = infer_imagenet_subset(network)
        if subset is None:
            raise BadModel(
                f"{config.classifier} has no names for its {network.num_classes} classes: give --class_names"
            )
        described = map(ImageNetInfo(subset).index_to_description, range(network.num_classes))
    return [name.split(",")[0].strip() for name in described]  # synonyms stand behind commas


def with_classifier(base: ImageTextScorer, network: Any, name: str) -> ImageTextScorer:
    """The base's text tower beside the classifier's trunk, under a projection that is zero."""
    settings = resolve_data_config({}, model=network)
    size = settings["input_size"][-1]
    vision = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": network.global_pool if isinstance(getattr(network, "global_pool", None), str) else "avg",
        "timm_proj": "mlp",
        "image_size": size,
    }
    preprocess = {
        "size": size,
        "mode": "RGB",
        "mean": list(settings["mean"]),
        "std": list(settings["std"]),
        "interpolation": settings["interpolation"],
        "resize_mode": "squash",
    }
    scorer = with_image_tower(base, vision, preprocess)
    trunk = scorer.model.visual.trunk
    trunk.load_state_dict({n: t for n, t in network.state_dict().items() if n in trunk.state_dict()})
    for parameter in scorer.model.visual.head.mlp.fc2.parameters():
        nn.init.zeros_(parameter)
    return scorer


@torch.no_grad()
def fit_class_vector(scorer: ImageTextScorer, vectors: Tensor) -> tuple[float, float]:
    """Fit the class vector's matrix and the temperature on sentences in place of pictures.

    A softmax of a sentence's cosines to the class names is in place of a picture's classification. The matrix
    maps the class vectors of these as near as it can to the sentences (ridge regression), which removes what
    names have in common and captions have not. The temperature is the one with the least InfoNCE loss of
    these sentences, in groups of as many as magic search has candidates.

    Args:
        scorer: with a class vector; is changed.
        vectors: (N, D) unit vectors of the sentences by the text tower.

    Returns:
        The factor on cosines, and the InfoNCE loss that it leaves, in nats.
    """
    class_vector = scorer.class_vector
    assert class_vector is not None
    cosines = vectors @ F.normalize(class_vector.names, dim=1).T  # (N, C)
    named = class_vector.name((cosines / SHARPNESS).softmax(dim=1))  # (N, D)
    gram = named.T @ named
    gram += RIDGE * len(named) * named.square().mean() * torch.eye(len(gram))
    class_vector.matrix.weight.copy_(torch.linalg.solve(gram, named.T @ vectors).T)
    images = F.normalize(class_vector.matrix(named), dim=1)

    groups = list(zip(images.split(CANDIDATES), vectors.split(CANDIDATES), strict=True))[:-1]
    owner = torch.arange(CANDIDATES)
    losses = {s: sum(float(info_nce(*group, owner, s)) for group in groups) / len(groups) for s in SCALES}
    best = min(losses, key=losses.__getitem__)
    scorer.model.logit_scale.fill_(math.log(best))
    return best, losses[best]


if __name__ == "__main__":
    run(main, Config)
