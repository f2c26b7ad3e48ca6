"""Trained networks of timm as they begin in another model: their weights, and batch norm that stays."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from magicap.errors import BadModel


def keep_batch_statistics(network: nn.Module) -> None:
    """Let batch norm compute with the statistics it came with while others learn: batches are small."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def load_weights(network: nn.Module, model: str, path: str | Path) -> None:
    """Take over trained weights from a safetensors file.

    The file's names may be timm's, those of an open_clip model with this network as its trunk
    (``visual.trunk.``), those of a supervised captioner (``encoder.network.``), or ``layers.N.weight`` and
    ``.bias``: convolutions in the network's order, batch norm folded in. Folded biases become those of a
    batch norm that changes nothing else.

    Args:
        network: of timm.
        model: its name in timm, for messages.
        path: the file; weights that the network has no place for, such as a classifier's, are left out.

    Raises:
        BadModel: unreadable, or weights of another network.
    """
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises its own kind and the system's
        raise BadModel(f"{path} cannot be read as safetensors: {error}") from error
    for prefix in ("visual.trunk.", "encoder.network."):
        if any(name.startswith(prefix) for name in weights):
            below = [name for name in weights if name.startswith(prefix)]
            weights = {name.removeprefix(prefix): weights[name] for name in below}
    if "layers.0.bias" in weights:
        weights = _unfolded(network, model, weights, path)
    try:
        missing, _ = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # torch raises this one alone for other shapes
        raise BadModel(f"{path} holds weights of another shape than {model!r}: {error}") from error
    if missing:
        raise BadModel(
            f"{path} does not hold the weights of {model!r}: {len(missing)} are missing, "
            f"the first {missing[0]}"
        )


def _unfolded(
    network: nn.Module, model: str, folded: dict[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """Weights under timm's names, of batch norms that add the folded biases and change nothing else."""
    state = dict(network.state_dict())
    convolutions = [(conv, m) for conv, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    norms = [(norm, m) for norm, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    if len(convolutions) != len(norms):
        raise BadModel(
            f"{path} holds convolutions with batch norm folded in, but {model!r} "
            f"has no batch norm after each of its convolutions"
        )
    for number, ((conv, module), (norm, after)) in enumerate(zip(convolutions, norms, strict=True)):
        weight, bias = (folded.get(f"layers.{number}.{part}") for part in ("weight", "bias"))
        if weight is None or bias is None or weight.shape != module.weight.shape:
            shape = None if weight is None else tuple(weight.shape)
            expected = f"{tuple(module.weight.shape)} as layers.{number}.weight for {conv}"
            raise BadModel(f"{path}: expected {expected}, found {shape}")
        state[f"{conv}.weight"], state[f"{norm}.bias"] = weight, bias
        state[f"{norm}.weight"] = torch.ones_like(bias)
        state[f"{norm}.running_mean"] = torch.zeros_like(bias)
        state[f"{norm}.running_var"] = torch.ones_like(bias) - after.eps
    return state
