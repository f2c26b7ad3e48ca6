"""Tune a GPT-2 on caption text alone: the language model of magic search.

Starts from a model of the hub (``--base gpt2``) or, with a tokenizer only, from random weights of the given
shape. No picture is read. The checkpoint is chosen on validation text.

    python recipes/tune_language_model.py --out runs/language_model \\
        --tokenizer runs/tokenizer/language_model \\
        --text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl \\
               $MAGICAP_DATA/text/coco_restval.txt \\
        --domain_text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl \\
        --validation_text $MAGICAP_DATA/flickr8k/captions.jsonl

A second run of the same command resumes where the first one stopped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, HfArgumentParser

from magicap.data import read_sentences
from magicap.models.language_model import LanguageModel
from magicap.training.checks import claim_folder, refuse_empty
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.losses import next_token_cross_entropy, simctg_contrastive
from magicap.training.parameter_groups import split_by_decay

MAY_CHANGE = ("out", "epochs", "domain_epochs", "max_steps", "learning_rate", "cpu")


@dataclass(frozen=True)
class Config:
    text: list[str] = field(
        metadata={"help": "data sets (train split, Flickr8k dev and test left out) or text files"}
    )
    validation_text: str = field(
        metadata={"help": "data set (its dev or val split) or text file; chooses the checkpoint"}
    )
    out: str = field(metadata={"help": "folder of this run; the best model goes to <out>/best"})
    base: str | None = field(
        default=None, metadata={"help": "model to start from: a folder or a hub id such as gpt2"}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "tokenizer to start afresh with, where no base is given"}
    )
    layers: int = field(default=6, metadata={"help": "blocks of a fresh model"})
    width: int = field(default=256, metadata={"help": "embedding width of a fresh model"})
    heads: int = field(default=8, metadata={"help": "attention heads of a fresh model"})
    positions: int = field(default=64, metadata={"help": "longest sentence of a fresh model, in tokens"})
    epochs: int = field(default=1, metadata={"help": "passes over all of the text"})
    domain_text: list[str] = field(
        default_factory=list, metadata={"help": "those of --text, or others, that are read last: the domain"}
    )
    domain_epochs: int = field(default=2, metadata={"help": "passes over --domain_text after those"})
    batch_size: int = field(default=128, metadata={"help": "sentences a step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak rate; 2e-5 suits a pretrained base"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's, on matrices only"})
    dropout: float = field(default=0.0, metadata={"help": "of a fresh model"})
    contrastive: float = field(
        default=0.0, metadata={"help": "weight of the SimCTG term; its authors used 1"}
    )
    margin: float = field(default=0.5, metadata={"help": "rho of the SimCTG term"})
    max_tokens: int = field(default=40, metadata={"help": "longer sentences are cut here"})
    validations_per_epoch: int = field(default=4, metadata={"help": "how often the checkpoint is considered"})
    max_steps: int | None = field(default=None, metadata={"help": "stop after so many steps"})
    seed: int = field(default=1, metadata={"help": "of weights, order and dropout"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
        if self.base is None and self.positions < self.max_tokens:
            raise SystemExit(
                f"--positions must be at least --max_tokens, found {self.positions} and {self.max_tokens}; "
                "give the model more positions or cut sentences earlier"
            )


def main(config: Config) -> None:
    set_seed(config.seed)
    language_model = start_model(config)
    texts = {path: encode_file(language_model, path, config) for path in {*config.text, *config.domain_text}}
    every = [row for path in config.text for row in texts[path]]
    domain = [row for path in config.domain_text for row in texts[path]]
    validation = read_sentences(config.validation_text, splits=("dev", "val"), held_out=())
    refuse_empty(validation, config.validation_text, ("dev", "val"))
    held_out = encode(language_model, validation, config.max_tokens)
    characters = sum(len(text) + 1 for text in validation)

    def batches(data: list[list[int]], order: list[list[int]]) -> DataLoader[list[int]]:
        return DataLoader(data, batch_sampler=order, collate_fn=lambda rows: pad(rows, language_model.pad_id))  # type: ignore[arg-type]

    def epoch_batches(epoch: int) -> DataLoader[list[int]]:
        train = every if epoch < config.epochs else domain
        return batches(train, by_length(train, config.batch_size, shuffle=config.seed + epoch))

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        output = model(
            batch["ids"], attention_mask=batch["mask"], output_hidden_states=config.contrastive > 0
        )
        value = next_token_cross_entropy(output.logits, batch["ids"], batch["mask"])
        if config.contrastive > 0:
            value = value + config.contrastive * simctg_contrastive(
                output.hidden_states[-1], batch["mask"], config.margin
            )
        return value

    def validate(model: torch.nn.Module) -> dict[str, float]:
        nats = tokens = 0.0
        for batch in batches(held_out, by_length(held_out, config.batch_size)):
            batch = {name: tensor.to(next(model.parameters()).device) for name, tensor in batch.items()}
            count = float(batch["mask"][:, 1:].sum())
            logits = model(batch["ids"], attention_mask=batch["mask"]).logits
            nats += float(next_token_cross_entropy(logits, batch["ids"], batch["mask"])) * count
            tokens += count
        bits_per_character = nats / characters / torch.log(torch.tensor(2.0)).item()
        return {
            "score": -bits_per_character,
            "bits_per_character": bits_per_character,
            "nats_per_token": nats / tokens,
        }

    out = Path(config.out)
    claim_folder(out, asdict(config), MAY_CHANGE)
    progress = fit(
        language_model.model,
        split_by_decay(language_model.model.parameters(), config.learning_rate, config.weight_decay),
        loader=epoch_batches,
        loss=loss,
        validate=validate,
        save_best=lambda _: language_model.save_pretrained(out / "best"),
        folder=out,
        config=LoopConfig(
            epochs=config.epochs + (config.domain_epochs if domain else 0),
            validations_per_epoch=config.validations_per_epoch,
            max_steps=config.max_steps,
            cpu=config.cpu,
        ),
    )
    print(json.dumps({"sentences": len(every), **progress.state_dict()}))


def start_model(config: Config) -> LanguageModel:
    if config.base is not None:
        return LanguageModel.from_pretrained(config.base)
    if config.tokenizer is None:
        raise SystemExit("give --base MODEL to start from a model, or --tokenizer FOLDER to start afresh")
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


def encode_file(language_model: LanguageModel, path: str, config: Config) -> list[list[int]]:
    """Token ids of the train split of a data set, or of a text file."""
    sentences = read_sentences(path, splits=("train",))
    refuse_empty(sentences, path, ("train",))
    return encode(language_model, sentences, config.max_tokens)


def encode(language_model: LanguageModel, sentences: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids between the start and the end token; a sentence cut at ``max_tokens`` gets no end."""
    rows = language_model.tokenizer(list(sentences), add_special_tokens=False).input_ids
    rows = [[language_model.start_id, *ids, language_model.end_id] for ids in rows]
    return [row[:max_tokens] for row in rows]


def by_length(rows: Sequence[Sequence[int]], batch_size: int, shuffle: int | None = None) -> list[list[int]]:
    """Batches of row numbers of about equal length, so that little is padding; shuffled by a seed."""
    chance = random.Random(shuffle)
    order = list(range(len(rows)))
    if shuffle is not None:
        chance.shuffle(order)
    chunk = batch_size * 50
    batches = []
    for start in range(0, len(order), chunk):
        part = sorted(order[start : start + chunk], key=lambda row: len(rows[row]))
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    if shuffle is not None:
        chance.shuffle(batches)
    return batches


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"ids": ids, "mask": mask}


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
