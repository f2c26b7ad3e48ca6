"""Where a scorer's training starts: an ImageNet trunk and a causal text tower of a given shape."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from magicap.models.backbone import load_weights
from magicap.models.scorer import ImageTextScorer


@dataclass(frozen=True, kw_only=True)
class ScorerShape:
    """Shape of an open_clip model made of a timm trunk, a projection and a causal text tower.

    A recipe that makes one inherits these fields as its options.
    """

    image_model: str = "vit_tiny_patch16_224"
    """Name in timm of the trunk of a fresh image tower."""

    image_size: int = 224
    """Side of the square picture that a fresh image tower reads, in pixels."""

    pool: Literal["token", "avg"] = "token"
    """Pooling of timm at the end of a fresh image tower's trunk: token or avg."""

    width: int = 256
    """Dimensions of the shared space, and width of a fresh text tower."""

    text_layers: int = 3
    """Number of blocks of a fresh text tower."""

    text_heads: int = 4
    """Number of attention heads in each block of a fresh text tower."""

    context_length: int = 40
    """Longest text that a fresh text tower reads, in tokens."""

    @classmethod
    def of(cls, config: Any) -> Self:
        """The shape that a recipe's options of the same names ask for."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


def fresh_scorer(shape: ScorerShape, tokenizer: str, image_weights: str | None = None) -> ImageTextScorer:
    """A scorer to train: random but for the trunk.

    Args:
        tokenizer: folder of the transformers tokenizer that the text tower is to read.
        image_weights: safetensors of the trunk, as :func:`load_trunk` reads them; None: random.
    """
    scorer = ImageTextScorer.from_config(scorer_config(shape, _causal_text(shape, tokenizer)), tokenizer)
    if image_weights is not None:
        load_trunk(scorer, image_weights)
    return scorer


def load_trunk(scorer: ImageTextScorer, image_weights: str) -> None:
    """Take over the weights of a fresh image tower's trunk, its classifier left out.

    Args:
        image_weights: a file of a form that :func:`~magicap.models.backbone.load_weights` knows.

    Raises:
        BadModel: unreadable, or weights of another network.
    """
    name = scorer.config["model_cfg"]["vision_cfg"]["timm_model_name"]
    load_weights(scorer.model.visual.trunk, name, image_weights)


def with_image_tower(
    base: ImageTextScorer, vision: dict[str, Any], preprocess: dict[str, Any]
) -> ImageTextScorer:
    """A scorer with the text tower and temperature of another, and an untrained image tower.

    Args:
        base: stays as it is.
        vision: ``vision_cfg`` of the new image tower.
        preprocess: ``preprocess_cfg`` of the pictures that it reads.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = copy.deepcopy(base.config)
    config["model_cfg"]["vision_cfg"], config["preprocess_cfg"] = vision, preprocess
    shape = copy.deepcopy(config["model_cfg"])
    kind = open_clip.CustomTextCLIP if shape.pop("custom_text", False) else open_clip.CLIP
    model = kind(**shape)
    text = {name: t for name, t in base.model.state_dict().items() if not name.startswith("visual.")}
    model.load_state_dict(text, strict=False)
    transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    return ImageTextScorer(model, base.tokenizer, transform, config)


def scorer_config(shape: ScorerShape, text: dict[str, Any]) -> dict[str, Any]:
    """``model_cfg`` and ``preprocess_cfg`` of a timm trunk under a projection beside a ``text_cfg``."""
    return {
        "model_cfg": {
            "embed_dim": shape.width,
            "vision_cfg": {
                "timm_model_name": shape.image_model,
                "timm_model_pretrained": False,
                "timm_pool": shape.pool,
                "timm_proj": "mlp",
                "image_size": shape.image_size,
            },
            "text_cfg": text,
        },
        # Flickr8k's pictures come squashed to a square; squashing keeps the whole of any other picture too.
        "preprocess_cfg": {
            "size": shape.image_size,
            "mode": "RGB",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def _causal_text(shape: ScorerShape, tokenizer: str) -> dict[str, Any]:
    from transformers import AutoTokenizer

    reader = AutoTokenizer.from_pretrained(tokenizer)
    return {
        "context_length": shape.context_length,
        "vocab_size": len(reader),
        "width": shape.width,
        "heads": shape.text_heads,
        "layers": shape.text_layers,
        "pool_type": "eos",
        "eos_id": reader.eos_token_id,
        "hf_tokenizer_name": "local",
    }
