"""How far a language model's steps, a token at a time, are from its own forward of the whole text.

    python eval/own_forward.py --language_model smollm2 --tokens 30

The text is random: every token of it is as likely as another.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from transformers import HfArgumentParser

from magicap.errors import BadSettings, MagicapError
from magicap.models.language_files import run_in_full
from magicap.models.language_model import LanguageModel


@dataclass(frozen=True)
class Config:
    language_model: str = field(metadata={"help": "folder or hub id"})
    tokens: int = field(default=30, metadata={"help": "how many behind the start token"})
    seed: int = field(default=0, metadata={"help": "of the text"})


@torch.inference_mode()
def differences(model: LanguageModel, tokens: int, seed: int = 0) -> tuple[float, float]:
    """The largest of hidden states of length one, and of probabilities of the next token, of all positions.

    Raises:
        BadSettings: so many tokens do not fit.
    """
    model.require_room(tokens)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(model.vocabulary_size, (tokens,), generator=generator)
    prefixes, rows = model.start(), []
    for token in text.tolist():
        rows.append(model.probabilities(prefixes.last))
        prefixes = model.append(prefixes, token)
    rows.append(model.probabilities(prefixes.last))
    hidden, logits = run_in_full(model.network, prefixes.ids)
    of_hidden = F.normalize(hidden.float(), dim=-1) - prefixes.hidden
    of_probabilities = logits[0].float().softmax(dim=-1) - torch.cat(rows)
    return of_hidden.abs().max().item(), of_probabilities.abs().max().item()


def main() -> None:
    (config,) = HfArgumentParser(Config).parse_args_into_dataclasses()
    try:
        if config.tokens < 1:
            raise BadSettings(f"--tokens: expected at least 1, found {config.tokens}")
        model = LanguageModel.from_pretrained(config.language_model)
        of_hidden, of_probabilities = differences(model, config.tokens, config.seed)
    except MagicapError as error:
        sys.exit(f"own_forward.py: {error}")
    print(f"hidden states {of_hidden:.1e}, probabilities {of_probabilities:.1e}")


if __name__ == "__main__":
    main()
