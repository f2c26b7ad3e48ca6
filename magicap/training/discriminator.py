"""A model that tells sentences people wrote from captions that a language model wrote.

Shapes: N sentences, T tokens, W hidden width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from magicap.checks import require_int
from magicap.models.language_model import LanguageModel


class Discriminator(nn.Module):
    """The first blocks of a language model, and a linear layer on the mean of their hidden states.

    So it begins with what that model has learned of the language, as the pretrained RoBERTa of CgT-GAN does
    (Yu et al. 2023, arXiv 2308.12045).

    Args:
        language_model: whose blocks are copied, in float32.
        layers: how many.

    Raises:
        BadSettings: the model has not so many blocks.
    """

    def __init__(self, language_model: LanguageModel, layers: int) -> None:
        super().__init__()
        body: Any = language_model.model.base_model
        require_int("--discriminator_layers", layers, most=body.config.num_hidden_layers)
        config = copy.deepcopy(body.config)
        config.num_hidden_layers = layers
        self.body: Any = type(body)(config)
        self.body.load_state_dict(body.state_dict(), strict=False)  # blocks behind these are left out
        self.head = nn.Linear(language_model.width, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(N,) logits that people wrote the sentences.

        Args:
            ids, mask: (N, T), see :class:`magicap.training.sentences.Sentences`.
        """
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        logits: Tensor = self.head(mean).squeeze(1)
        return logits

    def log_probability(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(N,) logarithms of the probability that people wrote the sentences, at most 0."""
        return F.logsigmoid(self(ids, mask))
