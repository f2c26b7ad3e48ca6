"""A Hugging Face encoder as the text tower of an open_clip model: found on disk, and run without padding.

Shapes: N texts, T tokens, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magicap.models.text_tower import encode_by_length

LOCAL = "local"
"""What an ``open_clip_config.json`` has as ``hf_model_name`` where the shape lies beside it."""

SHAPE_FILE = "config.json"
"""The encoder's shape, as transformers writes it."""


def encode_whole(model: Any, ids: Tensor) -> Tensor:
    """Vectors (N, D), not of length one, of padded rows of ids (N, T) by a model's own text encoder.

    A Hugging Face encoder masks padding, so columns that only hold padding are left out.
    """
    encoder = _encoder_of(model)
    if encoder is None:
        vectors: Tensor = model.encode_text(ids)
        return vectors
    columns = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    lengths = ((ids != encoder.config.pad_token_id) * columns).amax(dim=1).clamp(min=1)

    def encode(part: Sequence[int]) -> Tensor:
        rows = torch.tensor(part, device=ids.device)
        encoded: Tensor = model.encode_text(ids[rows, : lengths[rows].max()])
        return encoded

    return encode_by_length(lengths.tolist(), encode, ids.device)


def save_shape(model: Any, config: dict[str, Any], folder: Path) -> None:
    """Write an encoder's shape beside the weights, so that loading asks no hub for it.

    Args:
        model: of open_clip; nothing is written unless its text tower is a Hugging Face encoder.
        config: the ``open_clip_config.json`` to be; a folder's name in it becomes :data:`LOCAL`.
    """
    encoder = _encoder_of(model)
    if encoder is None:
        return
    encoder.config.save_pretrained(folder)
    text = config["model_cfg"]["text_cfg"]
    text["hf_model_pretrained"] = False  # its weights are the scorer's
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(name) and Path(text[name]).is_dir():
            text[name] = LOCAL


def with_local_shape(text: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A ``text_cfg`` that finds its encoder's shape in the scorer's folder; without an encoder as it is."""
    if not text.get("hf_model_name"):
        return text
    return {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}


def _encoder_of(model: Any) -> Any:
    """The text tower, if it is an encoder of transformers; else None."""
    tower = getattr(model, "text", None)
    return tower if hasattr(getattr(tower, "config", None), "pad_token_id") else None
