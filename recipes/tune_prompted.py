"""Train a soft prompt that conditions a captioner's language model on pictures, from caption text alone.

    python recipes/tune_prompted.py --out runs/prompted \\
        --text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl \\
        --validation_text $MAGICAP_DATA/flickr8k/captions.jsonl
    magicap caption photo.jpg --preset runs/prompted

Every sentence is conditioned on its own vector, with noise in place of the modality gap, and on what the
captioner's memory holds near that. The checkpoint is chosen on validation text. A second run of the same
command resumes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from accelerate.utils import set_seed
from cli import run
from tqdm import tqdm

from magicap import Captioner, CaptionMemory, LanguageModel
from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int
from magicap.data import read_sentences
from magicap.decoding.searches import as_beam_magic
from magicap.errors import BadSettings
from magicap.training.checks import open_run_folder, require_rows
from magicap.training.loop import LoopConfig, TrainingState, fit
from magicap.training.parameter_groups import split_by_decay
from magicap.training.sentences import Sentences
from magicap.training.soft_prompts import (
    NOISE,
    SoftPromptObjective,
    conditioned_sentences,
    evaluate_conditioned_text,
)

MAY_CHANGE = ("out", "epochs", "max_steps", "learning_rate", "prompt_rate", "mixed_precision", "cpu")
BEST = Path("training", "best")


@dataclass(frozen=True)
class Config:
    text: list[str]
    """Data sets, of which the train split is read without Flickr8k's dev and test captions, or text files
    with a caption a line."""

    validation_text: list[str]
    """Data sets, of which the dev or val split is read, or text files; the checkpoint is chosen on them."""

    out: str
    """Folder of the new captioner; training goes to <out>/training."""

    base: str = DEFAULT
    """Preset or folder of the captioner to start from."""

    least_noise: float = NOISE[0]
    """Least length of the noise, in standard deviations of captions' vectors."""

    greatest_noise: float = NOISE[1]
    """Greatest length of the noise; that of each sentence is sampled between the two."""

    memory_samples: int = 20_000
    """Number of captions that the language model samples as the memory of a base without one."""

    epochs: int = 1
    """Number of passes over the text."""

    batch_size: int = 64
    """Number of sentences in a step."""

    learning_rate: float = 5e-4
    """Peak learning rate of the language model; 2e-5 suits a GPT-2 of full size."""

    prompt_rate: float = 1e-3
    """Peak learning rate of the soft prompt."""

    weight_decay: float = 0.02
    """Weight decay of AdamW, on matrices only."""

    max_tokens: int = 40
    """Longest sentence in tokens; longer ones are cut here."""

    validations_per_epoch: int = 4
    """How many times in a pass over the text the checkpoint is validated."""

    max_steps: int | None = None
    """Stop after this many steps; default: no limit."""

    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the computation: no for float32, bf16 for autocast to bfloat16."""

    seed: int = 1
    """Seed of weights, order and noise."""

    cpu: bool = False
    """Whether to leave a GPU alone and compute on the CPU."""

    def __post_init__(self) -> None:
        for name in ("memory_samples", "batch_size", "max_tokens"):
            require_int(f"--{name}", getattr(self, name))
        if not 0 <= self.least_noise <= self.greatest_noise:
            raise BadSettings(
                "--least_noise must be between 0 and --greatest_noise, found "
                f"{self.least_noise} and {self.greatest_noise}"
            )


def main(config: Config) -> None:
    set_seed(config.seed)
    out = Path(config.out)
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    open_run_folder(out / "training", asdict(config), MAY_CHANGE)
    memory = captioner.memory or sampled_memory(captioner, config)
    texts = [text for path in config.text for text in read_texts(path, ("train",))]
    held_out = [
        text for path in config.validation_text for text in read_texts(path, ("dev", "val"), held_out=())
    ]
    sentences = encoded(captioner, memory, list(dict.fromkeys(texts)), config)
    state = train(config, captioner, memory, sentences, encoded(captioner, memory, held_out, config))
    decoding = replace(as_beam_magic(captioner.decoding), soft_prompt=True)
    language_model = LanguageModel.from_pretrained(out / BEST, device=captioner.device)
    conditioned = Captioner(language_model, captioner.scorer, decoding, memory)
    conditioned.save_pretrained(out, dtype="float16")
    (out / "README.md").write_text(model_card(config, len(sentences), state), encoding="utf-8")
    print(json.dumps({"sentences": len(sentences), **state.state_dict()}))


def train(
    config: Config, captioner: Captioner, memory: CaptionMemory, sentences: Sentences, held_out: Sentences
) -> TrainingState:
    """Tune language model and soft prompt; the best of both goes to <out>/training/best."""
    out = Path(config.out)
    captioner.language_model.require_room(config.max_tokens - 1)
    language_model = captioner.language_model.to_train()
    objective = SoftPromptObjective(language_model, memory, (config.least_noise, config.greatest_noise))
    return fit(
        objective,
        [
            *split_by_decay(objective.model.parameters(), config.learning_rate, config.weight_decay),
            *split_by_decay(objective.prompt.parameters(), config.prompt_rate, config.weight_decay),
        ],
        loader=lambda epoch: sentences.batches(config.batch_size, shuffle=config.seed + epoch),
        loss=lambda model, batch: model(batch),
        validate=lambda model: evaluate_conditioned_text(model, held_out, config.batch_size, config.seed),
        save_best=lambda _: language_model.save_pretrained(out / BEST),
        folder=out / "training",
        config=LoopConfig(
            epochs=config.epochs,
            validations_per_epoch=config.validations_per_epoch,
            max_steps=config.max_steps,
            mixed_precision=config.mixed_precision,
            cpu=config.cpu,
        ),
    )


def read_texts(path: str, splits: tuple[str, ...], held_out: tuple[str, ...] = ("dev", "test")) -> list[str]:
    """Sentences of some splits of a data set, or a text file."""
    sentences = read_sentences(path, splits=splits, held_out=held_out)
    require_rows(sentences, path, splits)
    return sentences


def sampled_memory(captioner: Captioner, config: Config) -> CaptionMemory:
    """Captions that the language model samples unconditioned, for a captioner without a memory."""
    with tqdm(total=2 * config.memory_samples, desc="sampling and encoding a memory", disable=None) as bar:
        return CaptionMemory.from_language_model(
            captioner.language_model,
            captioner.scorer,
            config.memory_samples,
            seed=config.seed,
            on_progress=bar.update,
        )


def encoded(captioner: Captioner, memory: CaptionMemory, texts: Sequence[str], config: Config) -> Sentences:
    """Sentences with their vectors and their positions in the memory."""
    with tqdm(total=len(texts), desc="encoding sentences", disable=None) as bar:
        return conditioned_sentences(
            captioner.language_model, captioner.scorer, memory, texts, config.max_tokens, bar.update
        )


def model_card(config: Config, sentences: int, state: TrainingState) -> str:
    return f"""# A captioner whose language model has a soft prompt

Made by `recipes/tune_prompted.py` from `{config.base}` with caption text alone: {", ".join(config.text)}
({sentences} different sentences, {state.step} steps of {config.batch_size}, seed {config.seed}).
Validation text: {", ".join(config.validation_text)};
{-state.best:.3f} bits a character with noised vectors.

Origin and licence of the base hold on; those of the text are to be added by whoever gives this on.
"""


if __name__ == "__main__":
    run(main, Config)
