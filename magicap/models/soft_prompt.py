"""What conditions a language model on a picture before its first word.

A language model with a soft prompt has learned from text alone: it was conditioned on every caption's own
vector, with noise in place of what separates pictures from captions (CapDec, Nukrai et al. 2022), and on what
a memory holds near that vector (DeCap, Li et al. 2023; IFCap, Lee et al. 2024). A picture then takes its
place.

Shapes: B pictures, D embedding width of the scorer, W hidden width of the language model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from magicap.errors import BadModel, BadSettings
from magicap.models.finite import require_finite, require_signal
from magicap.models.weight_names import keep_weight_names

PROMPT_FILE = "soft_prompt.safetensors"
_UNREADABLE = (OSError, KeyError, RuntimeError, SafetensorError)
_STORED_NAMES = {"image_projection": "picture", "memory_projection": "memory"}


class SoftPrompt(nn.Module):
    """Two mapping networks (ClipCap, Mokady et al. 2021) whose sum is added to the start token's embedding.

    So a prompt takes no position of its own: all that holds of a prefix holds of one behind a soft prompt.

    Args:
        scorer_width: D.
        width: W.
    """

    def __init__(self, scorer_width: int, width: int) -> None:
        super().__init__()
        self.image_projection = mapping_network(scorer_width, width)
        self.memory_projection = mapping_network(scorer_width, width)
        keep_weight_names(self, _STORED_NAMES)

    @property
    def scorer_width(self) -> int:
        """D."""
        return int(self._first.in_features)

    def require_scorer_width(self, width: int) -> None:
        """Refuse vectors of another scorer, as far as their width tells it.

        Raises:
            BadSettings: they are of another width.
        """
        if width != self.scorer_width:
            raise BadSettings(
                f"this language model's soft prompt reads vectors of width {self.scorer_width}, found some "
                f"of width {width}: they are of two scorers; tune it with the captioner's own"
            )

    def require_width(self, width: int) -> None:
        """Refuse to condition a language model of another width.

        Raises:
            BadModel: it is of another width.
        """
        last: Any = self.image_projection[-1]
        if last.out_features != width:
            raise BadModel(
                f"expected a soft prompt of width {width} as the language model's, found one of width "
                f"{last.out_features}"
            )

    @property
    def _first(self) -> Any:
        return self.image_projection[0]

    def forward(self, images: Tensor, projected: Tensor | None, kept: Tensor | None = None) -> Tensor:
        """(B, W) what is added to the start token's embedding.

        Args:
            images: (B, D) unit vectors of pictures, or pseudo images.
            projected: (B, D) the same projected onto a memory: weighted means of nearby captions' unit
                vectors; None: there is no memory.
            kept: (2, B, 1) whether each is conditioned on the picture, and on the memory; None: all are.
        """
        scale = self.scorer_width**0.5  # components of a unit vector are small, the wider the smaller
        parts = [self.image_projection(scale * images.to(self._first.weight))]
        if projected is not None:
            parts.append(self.memory_projection(scale * projected.to(self._first.weight)))
        if kept is not None:
            parts = [part * rows for part, rows in zip(parts, kept, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the weights into a folder, in ``dtype`` where given."""
        from safetensors.torch import save_file

        weights = {name: weight.to(dtype).contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, Path(folder) / PROMPT_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SoftPrompt:
        """Read what :meth:`save_pretrained` wrote, in float32.

        Raises:
            BadModel: the file is damaged, or holds weights that say nothing.
        """
        from safetensors.torch import load_file

        path = Path(folder) / PROMPT_FILE
        try:
            weights = load_file(path)
            prompt = cls(weights["picture.0.weight"].shape[1], weights["picture.2.weight"].shape[0])
            prompt.load_state_dict(weights)
        except _UNREADABLE as error:
            raise BadModel(f"{path} holds no soft prompt that can be read: {error}") from error
        prompt.eval()._require_signal(f"soft prompt {str(path)!r}")
        return prompt

    @torch.inference_mode()
    def _require_signal(self, what: str) -> None:
        """Refuse broken weights, and a branch that gives the same zeros for whatever it is told."""
        require_finite(self, what)
        probe = torch.ones(1, self.scorer_width)  # of the size of unit vectors times their scale
        for name, branch in self.named_children():
            require_signal(branch(probe), f"{name} of the {what}")


def mapping_network(scorer_width: int, width: int) -> nn.Sequential:
    """A perceptron of one hidden layer of width 2 W, from vectors (B, D) to (B, W)."""
    return nn.Sequential(nn.Linear(scorer_width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
