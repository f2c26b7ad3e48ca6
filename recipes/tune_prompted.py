"""Teach a captioner's language model to be told of pictures, from caption text alone.

    python recipes/tune_prompted.py --out runs/prompted \\
        --text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl \\
        --validation_text $MAGICAP_DATA/flickr8k/captions.jsonl
    magicap caption photo.jpg --preset runs/prompted

No picture is read: every sentence is told by its own vector, with noise that stands for what separates a picture
from what is said of it, and by what the captioner's memory holds near that. The checkpoint is chosen on
validation text. A second run of the same command resumes where the first one stopped.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate.utils import set_seed
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap import BeamMagicSearch, Captioner, CaptionMemory, LanguageModel
from magicap.data import read_sentences
from magicap.errors import MagicapError
from magicap.models.soft_prompt import SoftPrompt
from magicap.presets import DEFAULT
from magicap.training.checks import claim_folder, refuse_empty
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.losses import next_token_cross_entropy
from magicap.training.parameter_groups import split_by_decay
from magicap.training.prompting import Prompted, told_by
from magicap.training.sentences import Sentences, surprise_of

MAY_CHANGE = ("out", "epochs", "max_steps", "learning_rate", "prompt_rate", "drawn", "cpu")


@dataclass(frozen=True)
class Config:
    text: list[str] = field(
        metadata={"help": "data sets (train split, Flickr8k dev and test left out) or text files"}
    )
    validation_text: str = field(
        metadata={"help": "data set (its dev or val split) or text file; chooses the checkpoint"}
    )
    out: str = field(metadata={"help": "folder of the new captioner; training goes to <out>/training"})
    base: str = field(default=DEFAULT, metadata={"help": "preset or captioner's folder to start from"})
    least_noise: float = field(
        default=1.5, metadata={"help": "length of the noise beside a vector of length 1: the least"}
    )
    greatest_noise: float = field(default=3.5, metadata={"help": "the greatest"})
    remember: int = field(
        default=20_000,
        metadata={"help": "captions that the language model says, to be remembered by a base without memory"},
    )
    drawn: int = field(default=50, metadata={"help": "captions that the search draws for a picture"})
    epochs: int = field(default=1, metadata={"help": "passes over the text"})
    batch_size: int = field(default=64, metadata={"help": "sentences a step"})
    learning_rate: float = field(
        default=5e-4, metadata={"help": "peak rate of the language model; 2e-5 suits a GPT-2 of full size"}
    )
    prompt_rate: float = field(default=1e-3, metadata={"help": "of the soft prompt"})
    weight_decay: float = field(default=0.02, metadata={"help": "AdamW's, on matrices only"})
    max_tokens: int = field(default=40, metadata={"help": "longer sentences are cut here"})
    validations_per_epoch: int = field(default=4, metadata={"help": "how often the checkpoint is considered"})
    max_steps: int | None = field(default=None, metadata={"help": "stop after so many steps"})
    seed: int = field(default=1, metadata={"help": "of weights, order and noise"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})


def main(config: Config) -> None:
    set_seed(config.seed)
    out = Path(config.out)
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    claim_folder(out / "training", asdict(config), MAY_CHANGE)
    memory = captioner.memory or remembered(captioner, config)
    train = [text for path in config.text for text in sentences(path, ("train",))]
    held_out = sentences(config.validation_text, ("dev", "val"), held_out=())
    batches, check = (prepared(captioner, memory, texts, config) for texts in (train, held_out))

    language_model = captioner.language_model
    model = copy.deepcopy(language_model.model).float()
    prompt = copy.deepcopy(language_model.prompt) or SoftPrompt(
        memory.vectors.shape[1], model.get_input_embeddings().embedding_dim
    )
    prompted = Prompted(model, prompt.float(), memory, (config.least_noise, config.greatest_noise))

    def loss(_: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return next_token_cross_entropy(prompted(batch), batch["ids"], batch["mask"])

    def validate(_: torch.nn.Module) -> dict[str, float]:
        with torch.random.fork_rng():  # the same noise each time
            torch.manual_seed(config.seed)
            return surprise_of(prompted, check, config.batch_size, captioner.device)

    best = out / "training" / "best"
    progress = fit(
        prompted,
        [
            *split_by_decay(model.parameters(), config.learning_rate, config.weight_decay),
            *split_by_decay(prompt.parameters(), config.prompt_rate, config.weight_decay),
        ],
        loader=lambda epoch: batches.batches(config.batch_size, shuffle=config.seed + epoch),
        loss=loss,
        validate=validate,
        save_best=lambda _: LanguageModel(model, language_model.tokenizer, prompt).save_pretrained(best),
        folder=out / "training",
        config=LoopConfig(
            epochs=config.epochs,
            validations_per_epoch=config.validations_per_epoch,
            max_steps=config.max_steps,
            cpu=config.cpu,
        ),
    )
