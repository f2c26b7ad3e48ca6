"""Average the weights of scorers that were trained on from one another: a model soup.

    python recipes/average_scorers.py --scorers runs/scorer/best runs/scorer_longer/best --out runs/soup

Uniform soups of fine-tuned models of one origin are often better than each of them, and cost no more to run
(Wortsman et al. 2022, arXiv 2203.05482). Scorers of different origins have nothing in common to average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from cli import run

from magicap import ImageTextScorer
from magicap.errors import BadModel, BadSettings


@dataclass(frozen=True)
class Config:
    scorers: list[str]
    """Folders of two scorers or more, all of one shape."""

    out: str
    """Folder of the averaged scorer."""

    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the stored weights."""

    def __post_init__(self) -> None:
        if len(self.scorers) < 2:
            raise BadSettings(f"--scorers must name two scorers or more, found {len(self.scorers)}")


def main(config: Config) -> None:
    average, *others = (ImageTextScorer.from_pretrained(folder) for folder in config.scorers)
    shapes = {name: tensor.shape for name, tensor in average.model.state_dict().items()}
    for folder, scorer in zip(config.scorers[1:], others, strict=True):
        if {name: tensor.shape for name, tensor in scorer.model.state_dict().items()} != shapes:
            raise BadModel(
                f"expected {folder} to have the weights' shapes of {config.scorers[0]}; it has others"
            )
    states = [scorer.model.state_dict() for scorer in (average, *others)]
    average.model.load_state_dict({name: _mean([state[name] for state in states]) for name in shapes})
    average.save_pretrained(config.out, dtype=getattr(torch, config.dtype))


def _mean(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The mean; of whole numbers, which are no weights, the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.float() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


if __name__ == "__main__":
    run(main, Config)
