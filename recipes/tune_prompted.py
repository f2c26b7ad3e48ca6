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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

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
    text: list[str] = field(
        metadata={"help": "data sets (train split, Flickr8k dev and test left out) or text files"}
    )
    validation_text: list[str] = field(
        metadata={"help": "data sets (their dev or val split) or text files; choose the checkpoint"}
    )
    out: str = field(metadata={"help": "folder of the new captioner; training goes to <out>/training"})
    base: str = field(default=DEFAULT, metadata={"help": "preset or captioner's folder to start from"})
    least_noise: float = field(
        default=NOISE[0],
        metadata={"help": "least length of the noise, in standard deviations of captions' vectors"},
    )
    greatest_noise: float = field(
        default=NOISE[1], metadata={"help": "greatest; each sentence's is sampled between the two"}
    )
    memory_samples: int = field(
        default=20_000,
        metadata={"help": "captions that the language model samples as the memory of a base without one"},
    )
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
    mixed_precision: str = field(default="no", metadata={"help": "no or bf16"})
    seed: int = field(default=1, metadata={"help": "of weights, order and noise"})
    cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})

    def __post_init__(self) -> None:
        require_int("--memory_samples", self.memory_samples)
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
