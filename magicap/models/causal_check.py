"""Whether a language model's steps give what its own forward gives: not every causal model works so.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.errors import BadModel
from magicap.models.finite import require_unit
from magicap.models.language_files import kind_of, run_in_full
from magicap.models.prefixes import Prefixes


@torch.inference_mode()
def require_same_as_forward(network: Any, walk: Callable[[], tuple[Prefixes, Tensor]]) -> None:
    """Hold steps against the network's own forward.

    Args:
        walk: takes steps; gives one prefix of T tokens and the probabilities (1, V) of the next.

    Raises:
        BadModel: they disagree, so captions would silently be wrong.
    """
    kind = kind_of(network)
    try:
        prefixes, of_steps = walk()
        states, logits = run_in_full(network, prefixes.ids)
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise BadModel(f"{kind} does not work as GPT-2 does: {error}") from error
    require_unit(prefixes.hidden, f"hidden states of the {kind}")
    hidden = F.normalize(states.float(), dim=-1)
    probabilities = torch.softmax(logits[:, -1].float(), dim=-1)
    tolerance = 1e-3 if network.dtype == torch.float32 else 5e-2
    wrong = max((hidden - prefixes.hidden).abs().max(), (probabilities - of_steps).abs().max())
    if not wrong <= tolerance:
        raise BadModel(
            f"{kind} does not work as GPT-2 does (its own output differs by "
            f"{wrong:.1e}); use a causal language model of the GPT-2 kind"
        )
