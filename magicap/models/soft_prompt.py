"""What a language model is told of a picture before its first word.

A prompted language model has learned from text alone: of every caption it was told the caption's own vector,
with noise in place of what separates pictures from captions (CapDec, Nukrai et al. 2022), and what a memory
holds near that vector (DeCap, Li et al. 2023; IFCap, Lee et al. 2024). A picture then takes its place.

Shapes: B pictures, D embedding width of the scorer, W hidden width of the language model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from magicap.errors import BadModel, BadSettings

PROMPT_FILE = "soft_prompt.safetensors"
_UNREADABLE = (OSError, KeyError, RuntimeError, SafetensorError)


class SoftPrompt(nn.Module):
    """Two mapping networks (ClipCap, Mokady et al. 2021) whose sum is added to the start token's embedding.

    So a prompt takes no position of its own: all that holds of a prefix holds of a prompted one.
    """

    def __init__(self, scorer_width: int, width: int) -> None:
        super().__init__()
        self.picture = _mapping(scorer_width, width)
        self.memory = _mapping(scorer_width, width)

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
                f"this language model is told of pictures by vectors of width {self.scorer_width}, found "
                f"some of width {width}: they are of two scorers; tune it with the captioner's own"
            )

    def require_width(self, width: int) -> None:
        """Refuse to tell a language model of another width.

        Raises:
            BadModel: it is of another width.
        """
        last: Any = self.picture[-1]
        if last.out_features != width:
            raise BadModel(
                f"expected a soft prompt of width {width} as the language model's, found one of width "
                f"{last.out_features}"
            )

    @property
    def _first(self) -> Any:
        return self.picture[0]

    def forward(self, pictures: Tensor, remembered: Tensor | None, told: Tensor | None = None) -> Tensor:
        """(B, W) what is added to the start token's embedding.

        Args:
            pictures: (B, D) unit vectors, or what stands in for them.
            remembered: (B, D) means of nearby captions' unit vectors; None: there is no memory.
            told: (2, B, 1) whether each is told of the picture, and of what is remembered; None: all are.
        """
        scale = self.scorer_width**0.5  # numbers of a unit vector are small, the wider the smaller
        parts = [self.picture(scale * pictures.to(self._first.weight))]
        if remembered is not None:
            parts.append(self.memory(scale * remembered.to(self._first.weight)))
        if told is not None:
            parts = [part * each for part, each in zip(parts, told, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the weights into a folder, in ``dtype`` where given."""
        from safetensors.torch import save_file

        weights = {name: each.to(dtype).contiguous() for name, each in self.state_dict().items()}
        save_file(weights, Path(folder) / PROMPT_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SoftPrompt:
        """Read what :meth:`save_pretrained` wrote, in float32.

        Raises:
            BadModel: the file is damaged.
        """
        from safetensors.torch import load_file

        path = Path(folder) / PROMPT_FILE
        try:
            weights = load_file(path)
            prompt = cls(weights["picture.0.weight"].shape[1], weights["picture.2.weight"].shape[0])
            prompt.load_state_dict(weights)
        except _UNREADABLE as error:
            raise BadModel(f"{path} holds no soft prompt that can be read: {error}") from error
        return prompt.eval()


def _mapping(scorer_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(scorer_width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
