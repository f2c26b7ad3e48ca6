"""Tune a GPT-2 on caption text alone: the language model of magic search.

Starts from a model of the hub (``--base gpt2``) or, with a tokenizer only, from random weights of the given
shape. No picture is read. The checkpoint is chosen on validation text.

    python recipes/tune_language_model.py --out runs/language_model \\
        --tokenizer runs/tokenizer/language_model \\
        --text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl \\
               $MAGICAP_DATA/text/coco_restval.txt \\
        --domain_text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl \\
        --validation_text $MAGICAP_DATA/flickr8k/captions.jsonl

A second run of the same command resumes where the first one stopped. A line of a text file may be a whole
story, its title first: give ``--max_tokens`` and ``--positions`` for so many tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

from cli import run
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from magicap.checks import require_int
from magicap.data import read_sentences
from magicap.errors import BadSettings
from magicap.models.language_model import LanguageModel
from magicap.training import processes
from magicap.training.batches import Epoch
from magicap.training.checks import open_run_folder, require_rows
from magicap.training.loop import fit
from magicap.training.objectives.base import Objective
from magicap.training.objectives.language import CrossEntropy, SimCTG
from magicap.training.options import TrainingOptions
from magicap.training.parameter_groups import split_by_decay
from magicap.training.sentences import Sentences, evaluate_model

MAY_CHANGE = ("epochs", "domain_epochs", "learning_rate")


@dataclass(frozen=True)
class Config(TrainingOptions):
    text: list[str]
    """Data sets, of which the train split is read without Flickr8k's dev and test captions, or text files
    with a caption a line."""

    validation_text: list[str]
    """Data sets, of which the dev or val split is read, or text files; the checkpoint is chosen on them."""

    out: str
    """Folder of this run; the best model goes to <out>/best."""

    base: str | None = None
    """Model to start from: a folder or a hub id such as gpt2."""

    tokenizer: str | None = None
    """Folder or hub id of the tokenizer of a fresh model, where no --base is given."""

    layers: int = 6
    """Number of blocks of a fresh model."""

    width: int = 256
    """Embedding width of a fresh model."""

    heads: int = 8
    """Number of attention heads in each block of a fresh model."""

    positions: int = 64
    """Longest sentence of a fresh model, in tokens."""

    epochs: int = 1
    """Number of passes over all of the text."""

    domain_text: list[str] = field(default_factory=list)
    """Text of the domain, of --text or other, that is read last."""

    domain_epochs: int = 2
    """Number of passes over --domain_text, after those over all of the text."""

    batch_size: int = 128
    """Number of sentences in a batch of one process."""

    learning_rate: float = 2e-3
    """Peak learning rate; 2e-5 suits a pretrained base."""

    weight_decay: float = 0.05
    """Weight decay of AdamW, on matrices only."""

    dropout: float = 0.0
    """Share of activations that are dropped in a fresh model, 0 to 1."""

    contrastive: float = 0.0
    """Weight of SimCTG's contrastive loss; its authors used 1."""

    margin: float = 0.5
    """Margin rho of SimCTG's contrastive loss."""

    max_tokens: int = 40
    """Longest sentence in tokens; longer ones are cut here."""

    validations_per_epoch: int = 4
    """How many times in a pass over the text the checkpoint is validated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "width", "heads", "positions", "batch_size", "max_tokens"):
            require_int(f"--{name}", getattr(self, name))
        if self.base is None and self.width % self.heads:
            raise BadSettings(f"--width must be a multiple of --heads, found {self.width} and {self.heads}")
        if self.base is None and self.positions < self.max_tokens:
            raise BadSettings(
                f"--positions must be at least --max_tokens, found {self.positions} and {self.max_tokens}; "
                "give the model more positions or cut sentences earlier"
            )


def main(config: Config) -> None:
    config.begin()
    language_model = start_model(config)
    require_positions(language_model, config)
    texts = {path: read_file(language_model, path, config) for path in {*config.text, *config.domain_text}}
    every = reduce(add, [texts[path] for path in config.text])
    domain = reduce(add, [texts[path] for path in config.domain_text]) if config.domain_text else None
    held_out = read_validation(language_model, config)
    step_rows = config.step_rows(config.batch_size)

    def epoch(number: int) -> Epoch:
        train = every if number < config.epochs or domain is None else domain
        return train.epoch(step_rows, shuffle=config.seed + number)

    out = Path(config.out)
    open_run_folder(out, asdict(config), MAY_CHANGE)
    state = fit(
        objective(config, language_model),
        split_by_decay(language_model.model.parameters(), config.learning_rate, config.weight_decay),
        epoch=epoch,
        validate=lambda _: evaluate_model(language_model.model, held_out, config.batch_size),
        save_best=lambda _: language_model.save_pretrained(out / "best"),
        folder=out,
        config=config.loop(
            config.epochs + (0 if domain is None else config.domain_epochs),
            validations_per_epoch=config.validations_per_epoch,
            description="tuning the language model",
        ),
    )
    if processes.is_first():
        print(json.dumps({"sentences": len(every), **state.state_dict()}, allow_nan=False))


def objective(config: Config, language_model: LanguageModel) -> Objective:
    """Cross-entropy of the next token, with the contrastive term of SimCTG where it has a weight."""
    if config.contrastive > 0:
        return SimCTG(language_model.model, config.contrastive, config.margin)
    return CrossEntropy(language_model.model)


def start_model(config: Config) -> LanguageModel:
    """The base without its soft prompt, or a GPT-2 with random weights."""
    if config.base is not None:
        language_model = LanguageModel.from_pretrained(config.base)
        language_model.soft_prompt = None  # learned here unconditioned; tune_prompted.py trains a new one
        return language_model
    if config.tokenizer is None:
        raise BadSettings("give --base MODEL to start from a model, or --tokenizer FOLDER to start afresh")
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    shape = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=config.positions,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LanguageModel(GPT2LMHeadModel(shape), tokenizer)


def require_positions(language_model: LanguageModel, config: Config) -> None:
    """Refuse texts that a base has no positions for."""
    positions = language_model.max_new_tokens + 1
    if config.max_tokens > positions:
        raise BadSettings(
            f"--max_tokens must be at most the {positions} positions of --base, found {config.max_tokens}; "
            "cut sentences earlier, or start afresh with --tokenizer and --positions"
        )


def read_file(language_model: LanguageModel, path: str, config: Config) -> Sentences:
    """The train split of a data set, or a text file."""
    texts = read_sentences(path, splits=("train",))
    require_rows(texts, path, ("train",))
    return Sentences.of(language_model, texts, config.max_tokens)


def read_validation(language_model: LanguageModel, config: Config) -> Sentences:
    """The dev or val splits of data sets, or text files."""
    texts = [
        text
        for path in config.validation_text
        for text in read_sentences(path, splits=("dev", "val"), held_out=())
    ]
    require_rows(texts, ", ".join(config.validation_text), ("dev", "val"))
    return Sentences.of(language_model, texts, config.max_tokens)


if __name__ == "__main__":
    run(main, Config)
