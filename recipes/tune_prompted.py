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

from cli import run

from magicap import Captioner, CaptionMemory, LanguageModel
from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int, require_number
from magicap.data import read_sentences
from magicap.decoding.searches import as_beam_magic
from magicap.errors import BadSettings
from magicap.retrieval.sampled_captions import sample_captions
from magicap.training import processes
from magicap.training.checks import open_run_folder, require_rows
from magicap.training.loop import TrainingState, fit
from magicap.training.objectives.soft_prompt import CONDITION_DROPOUT, NOISE, SoftPromptCrossEntropy
from magicap.training.options import TrainingOptions
from magicap.training.phases import digest, load_or_write
from magicap.training.progress import progress
from magicap.training.sentences import Sentences
from magicap.training.soft_prompts import (
    SoftPromptTuning,
    conditioned_sentences,
    evaluate_conditioned_text,
)

MAY_CHANGE = ("epochs", "learning_rate", "prompt_rate")
BEST = Path("training", "best")


@dataclass(frozen=True)
class Config(TrainingOptions, SoftPromptTuning):
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

    condition_dropout: float = CONDITION_DROPOUT
    """Share of sentences that are not conditioned on their own vector, and as many not on the memory, 0 to
    1."""

    memory_samples: int = 20_000
    """Number of captions that the language model samples as the memory of a base without one."""

    epochs: int = 1
    """Number of passes over the text."""

    validations_per_epoch: int = 4
    """How many times in a pass over the text the checkpoint is validated."""

    validation_limit: int | None = None
    """The most sentences that are read of each of --validation_text, its first; default: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("memory_samples", "batch_size", "max_tokens"):
            require_int(f"--{name}", getattr(self, name))
        if self.validation_limit is not None:
            require_int("--validation_limit", self.validation_limit)
        require_number(
            "--condition_dropout",
            self.condition_dropout,
            lambda share: 0 <= share < 1,
            "at least 0 and below 1",
        )
        if not 0 <= self.least_noise <= self.greatest_noise:
            raise BadSettings(
                "--least_noise must be between 0 and --greatest_noise, found "
                f"{self.least_noise} and {self.greatest_noise}"
            )


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    open_run_folder(out / "training", asdict(config), MAY_CHANGE)
    memory = captioner.memory or sampled_memory(captioner, config)
    texts = [text for path in config.text for text in read_texts(path, ("train",))]
    held_out = [
        text
        for path in config.validation_text
        for text in read_texts(path, ("dev", "val"), held_out=())[: config.validation_limit]
    ]
    texts = list(dict.fromkeys(texts))
    sentences = encoded(captioner, memory, texts, config, "train")
    state = train(
        config, captioner, memory, sentences, encoded(captioner, memory, held_out, config, "held_out")
    )
    if processes.is_first():
        save(config, captioner, memory, len(sentences), state)


def save(
    config: Config, captioner: Captioner, memory: CaptionMemory, sentences: int, state: TrainingState
) -> None:
    """The captioner with the best language model and soft prompt, and its model card."""
    out = Path(config.out)
    decoding = replace(as_beam_magic(captioner.decoding), soft_prompt=True)
    language_model = LanguageModel.from_pretrained(out / BEST, device=captioner.device)
    conditioned = Captioner(language_model, captioner.scorer, decoding, memory)
    conditioned.save_pretrained(out, dtype="float16")
    (out / "README.md").write_text(model_card(config, sentences, state), encoding="utf-8")
    print(json.dumps({"sentences": sentences, **state.state_dict()}, allow_nan=False))


def train(
    config: Config, captioner: Captioner, memory: CaptionMemory, sentences: Sentences, held_out: Sentences
) -> TrainingState:
    """Tune language model and soft prompt; the best of both goes to <out>/training/best."""
    out = Path(config.out)
    captioner.language_model.require_room(config.max_tokens - 1)
    language_model = captioner.language_model.to_train()
    noise = config.least_noise, config.greatest_noise
    objective = SoftPromptCrossEntropy(language_model, memory, noise, config.condition_dropout)
    step_rows = config.step_rows(config.batch_size)
    return fit(
        objective,
        config.groups(objective),
        epoch=lambda epoch: sentences.epoch(step_rows, shuffle=config.seed + epoch),
        validate=lambda _: evaluate_conditioned_text(objective, held_out, config.batch_size, config.seed),
        save_best=lambda _: language_model.save_pretrained(out / BEST),
        folder=out / "training",
        config=config.loop(
            config.epochs,
            validations_per_epoch=config.validations_per_epoch,
            description="tuning the soft prompt",
        ),
    )


def read_texts(path: str, splits: tuple[str, ...], held_out: tuple[str, ...] = ("dev", "test")) -> list[str]:
    """Sentences of some splits of a data set, or a text file."""
    sentences = read_sentences(path, splits=splits, held_out=held_out)
    require_rows(sentences, path, splits)
    return sentences


def sampled_memory(captioner: Captioner, config: Config) -> CaptionMemory:
    """Captions that the language model samples unconditioned, for a captioner without a memory."""

    def sample() -> list[str]:
        with progress(config.memory_samples, "sampling a memory", unit="caption") as bar:
            return sample_captions(
                captioner.language_model, config.memory_samples, seed=config.seed, on_progress=bar.update
            )

    texts = load_or_write(Path(config.out, "training", "samples.json"), sample)
    with progress(len(texts), "encoding the memory", unit="caption") as bar:
        return CaptionMemory.from_texts(captioner.scorer, texts, on_progress=bar.update)


def encoded(
    captioner: Captioner, memory: CaptionMemory, texts: Sequence[str], config: Config, name: str
) -> Sentences:
    """Sentences with their vectors, which are kept in a file, and their positions in the memory."""
    key = digest(captioner.scorer.fingerprint, memory.texts, texts)
    with progress(len(texts), "encoding sentences", unit="sentence") as bar:
        return conditioned_sentences(
            captioner.language_model,
            captioner.scorer,
            memory,
            texts,
            config.max_tokens,
            bar.update,
            Path(config.out, "training", f"{name}-{key}.pt"),
        )


def model_card(config: Config, sentences: int, state: TrainingState) -> str:
    step_rows = config.step_rows(config.batch_size)
    return f"""# A captioner whose language model has a soft prompt

Made by `recipes/tune_prompted.py` from `{config.base}` with caption text alone: {", ".join(config.text)}
({sentences} different sentences, {state.step} steps of {step_rows}, seed {config.seed}).
Validation text: {", ".join(config.validation_text)};
{-state.best:.3f} bits a character with noised vectors.

Origin and licence of the base hold on; those of the text are to be added by whoever gives this on.
"""


if __name__ == "__main__":
    run(main, Config)
