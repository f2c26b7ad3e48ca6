"""A short name for weights, so that figures and indexes name the model they are of."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def combined(*parts: object) -> str:
    """Twelve hexadecimal digits of the ``repr`` of several things."""
    return hashlib.blake2b("\n".join(map(repr, parts)).encode(), digest_size=6).hexdigest()


def fingerprint(*models: nn.Module) -> str:
    """Twelve hexadecimal digits that change with any name, shape, type or value of any weight."""
    digest = hashlib.blake2b(digest_size=6)
    for model in models:
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
