"""A short name for weights, so that figures and indexes name the model they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def combined(*parts: object) -> str:
    """Twelve hexadecimal digits of the ``repr`` of several things."""
    return hashlib.blake2b("\n".join(map(repr, parts)).encode(), digest_size=6).hexdigest()


def fingerprint(*models: nn.Module) -> str:
    """Twelve hexadecimal digits that change with any name, shape, type or value of any weight."""
    return fingerprint_of_weights(weight for model in models for weight in model.state_dict().items())


def fingerprint_of_weights(weights: Iterable[tuple[str, Tensor]]) -> str:
    """As :func:`fingerprint`, of weights by name."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in weights:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
