"""Names of weights in files: attributes renamed after weights were written keep those they had there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def keep_weight_names(module: nn.Module, names: Mapping[str, str]) -> None:
    """Write and read the weights of some of a module's attributes under other names, in the same order.

    Files written before load as ever, and fingerprints, which count names, do not change.

    Args:
        names: attribute of the module to its name in files.
    """
    attributes = {name: attribute for attribute, name in names.items()}
    module.register_state_dict_post_hook(partial(_rename_saved, names))
    module.register_load_state_dict_pre_hook(partial(_rename_loaded, attributes))


def _rename_saved(
    names: Mapping[str, str], _: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any
) -> None:
    _rename(names, state_dict, prefix)


def _rename_loaded(
    names: Mapping[str, str], _: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any
) -> None:
    _rename(names, state_dict, prefix)


def _rename(names: Mapping[str, str], state_dict: dict[str, Any], prefix: str) -> None:
    """Every key below the prefix is put back in turn, so that the order stays."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        tensor = state_dict.pop(key)
        first, dot, behind = key.removeprefix(prefix).partition(".")
        state_dict[f"{prefix}{names.get(first, first)}{dot}{behind}"] = tensor


def fits(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of a model, by name and shape, and floating-point numbers."""
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return expected == {name: tensor.shape for name, tensor in weights.items()} and all(
        tensor.is_floating_point() for tensor in weights.values()
    )


def table(rows: int, width: int) -> nn.Embedding:
    """An embedding whose weights are still to be read.

    Its random ones would take time, most of all on the meta device, for which torch imports its compiler.
    """
    empty: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)
    return empty
