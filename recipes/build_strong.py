"""Build a strong captioner on a GPU from published models and the text of COCO or Flickr30k, and measure it.

    python recipes/build_strong.py --config recipes/strong/coco_gpt2_vit_l_14.yaml \\
        --captions dataset_coco.json --images val2014 --plan    # the expected time and disk, and nothing else
    python recipes/build_strong.py --config recipes/strong/coco_gpt2_vit_l_14.yaml \\
        --captions dataset_coco.json --images val2014
    magicap caption photo.jpg --preset runs/coco_gpt2_vit_l_14/captioner

The stages: the language model is tuned on captions alone (tune_language_model.py), the scorer encodes them as
the memory (assemble_captioner.py), a soft prompt is trained (tune_prompted.py), the settings of the search
are chosen on dev pictures (choose_decoding.py), and the test pictures are captioned and scored
(eval/compare.py). No picture is learned from. Without --images the settings are chosen on text, and nothing
is measured. A second run of the same command goes on where the first one stopped, within a stage too.

With --published the row goes to <out>/evaluation/published.txt, beside the figures that papers give for the
same test split (eval/published.py): of other models, none of which is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from chain import PASSING
from choose_decoding import Grid
from cli import arguments_of, parse, run
from estimate import Text, costs, shape_of, table
from running import Job, note, run_jobs

from magicap.checks import require_int, require_number
from magicap.data import read_captions, read_sentences
from magicap.errors import BadModel
from magicap.evaluation.systems import open_pictures
from magicap.files import write_whole
from magicap.training.pairs import read_captioned_images
from magicap.training.phases import digest

EVAL = Path(__file__).parents[1] / "eval"
FIGURES, BESIDE = "figures.csv", "published.txt"
OTHERS = "Rows with a paper are of other models, as published; none of them was run here."


@dataclass(frozen=True)
class Config(Grid):
    captions: str = field(kw_only=True)
    """Karpathy's dataset_coco.json or dataset_flickr30k.json, or another data set with the splits train, dev
    and test. The captions of train are learned from; those of dev choose."""

    out: str = field(kw_only=True)
    """Folder of all stages; the captioner goes to <out>/captioner."""

    language_model: str = field(kw_only=True)
    """Folder or hub id of the language model that is tuned, such as gpt2."""

    scorer: str = field(kw_only=True)
    """Scorer: a name of open_clip, an hf-hub: id or a folder."""

    scorer_tag: str | None = None
    """Tag of the weights for open_clip, where --scorer is a name."""

    images: list[str] = field(default_factory=list)
    """Folders or tar files with the pictures of dev and test."""

    published: Literal["coco", "flickr30k"] | None = None
    """Data set whose published figures the row stands beside, where --captions has Karpathy's test split of
    it; default: none."""

    more_text: list[str] = field(default_factory=list)
    """Text files or data sets (train split) that are learned from too."""

    language_epochs: int = 3
    """Passes over the text in which the language model is tuned."""

    prompt_epochs: int = 2
    """Passes over the text in which the soft prompt is trained, and the language model with it."""

    tuning_batch_size: int = 128
    """Number of sentences in a batch of these two."""

    learning_rate: float = 2e-5
    """Peak learning rate of the language model."""

    prompt_rate: float = 1e-3
    """Peak learning rate of the soft prompt."""

    contrastive: float = 0.0
    """Weight of SimCTG's contrastive loss while the language model is tuned."""

    max_tokens: int = 40
    """Longer sentences are cut here in training."""

    max_steps: int | None = None
    """Stop the training of each of these two after so many steps, to try it out."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Compute losses under autocast in fewer bits: bf16, or fp16 on a GPU."""

    memory_size: int | None = None
    """The most captions of the text that go into the memory, chosen at random; default: all."""

    memory_samples: int = 0
    """Number of captions that the language model samples for the memory besides."""

    memory_bits: Literal[8, 4] = 8
    """Bits of a number of the memory's vectors on disk."""

    max_new_tokens: int = 20
    """Longest caption in tokens."""

    dev_pictures: int = 500
    """The most dev pictures that the settings are chosen on."""

    batch_size: int = 16
    """Number of pictures that are captioned together."""

    validation_limit: int | None = None
    """The most dev captions that choose the checkpoint of the soft prompt; default: all."""

    seed: int = 1
    """Seed of everything that is random."""

    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""

    teraflops: float = 20.0
    """Operations a second, in millions of millions, that the device is assumed to keep up when the time is
    estimated; of a GPU a fraction of what its data sheet says."""

    plan: bool = False
    """Print the expected time and disk, and build nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tuning_batch_size", "max_tokens", "max_new_tokens", "language_epochs", "prompt_epochs"):
            require_int(f"--{name}", getattr(self, name))
        require_number("--teraflops", self.teraflops, lambda rate: rate > 0, "above 0")

    @property
    def text(self) -> list[str]:
        """What is learned from."""
        return [self.captions, *self.more_text]

    def folder(self, stage: str) -> Path:
        """The folder of a stage."""
        return Path(self.out, stage)


@dataclass(frozen=True)
class Stage:
    """A recipe of the chain with its options."""

    name: str
    recipe: str
    options: Mapping[str, Any]
    makes: tuple[str, ...]


def main(config: Config) -> None:
    stages = stages_of(config)
    for stage in stages:  # a wrong option is found before anything runs
        parse(import_module(stage.recipe).Config, arguments_of(stage.options), stage.recipe)
    if config.images:
        require_pictures(config)
    print_plan(config)
    if config.plan:
        return
    jobs = [job_of(stages, number) for number in range(len(stages))]
    if config.images:
        jobs.append(evaluation(config, jobs[-1]))
    run_jobs(jobs)
    print(f"magicap caption photo.jpg --preset {config.folder('captioner')}")
    if config.images and config.published is not None:
        print_beside_published(config)


def require_pictures(config: Config) -> None:
    """Look for the pictures that are captioned after hours of training, before it.

    Raises:
        BadData, ImageNotFound: no rows of dev or test, a path without pictures, or a picture that is missing.
    """
    dev = read_captioned_images(config.captions, ("dev",))[: config.dev_pictures]
    rows = [*dev, *read_captioned_images(config.captions, ("test",))]
    with open_pictures([row.image for row in rows], config.images):
        pass


def stages_of(config: Config) -> list[Stage]:
    """The stages that make the captioner, in order; each reads the folder of the one before."""
    trained: dict[str, Any] = {
        "text": config.text,
        "validation_text": [config.captions],
        "batch_size": config.tuning_batch_size,
        "learning_rate": config.learning_rate,
        "max_tokens": config.max_tokens,
        "max_steps": config.max_steps,
        "mixed_precision": config.mixed_precision,
        "validations_per_epoch": 2,
    }
    shared: dict[str, Any] = {"seed": config.seed, "cpu": config.cpu}
    language_model = {
        "base": config.language_model,
        "epochs": config.language_epochs,
        "contrastive": config.contrastive,
    }
    memory = {
        "language_model": str(config.folder("language_model") / "best"),
        "scorer": config.scorer,
        "scorer_tag": config.scorer_tag,
        "memory_text": config.text,
        "memory_size": config.memory_size,
        "memory_samples": config.memory_samples,
        "memory_bits": config.memory_bits,
        "max_new_tokens": config.max_new_tokens,
    }
    soft_prompt = {
        "base": str(config.folder("memory")),
        "epochs": config.prompt_epochs,
        "prompt_rate": config.prompt_rate,
        "validation_limit": config.validation_limit,
    }
    captioner = {
        "base": str(config.folder("soft_prompt")),
        "captions": config.captions,
        "images": config.images,
        "limit": config.dev_pictures,
        "batch_size": config.batch_size,
        **{name: getattr(config, name) for name in Grid.__dataclass_fields__},
    }
    whole = ("magicap.json", "memory")
    return [
        Stage(name, recipe, {**options, **shared, "out": str(config.folder(name))}, makes)
        for name, recipe, options, makes in (
            ("language_model", "tune_language_model", trained | language_model, ("best/model.safetensors",)),
            ("memory", "assemble_captioner", memory, whole),
            (
                "soft_prompt",
                "tune_prompted",
                trained | soft_prompt,
                (*whole, "language_model/soft_prompt.safetensors"),
            ),
            ("captioner", "choose_decoding", captioner, whole),
        )
    ]


def job_of(stages: list[Stage], number: int) -> Job:
    """A stage as a job, which is another where the stages before it are."""
    stage = stages[number]
    module = import_module(stage.recipe)
    options = [
        sorted((name, value) for name, value in earlier.options.items() if name not in PASSING)
        for earlier in stages[: number + 1]
    ]
    work = partial(run, module.main, module.Config, arguments_of(stage.options))
    folder = Path(stage.options["out"])
    return _job(stage.name, f"{stage.recipe}.py", work, folder, stage.makes, digest(options))


def evaluation(config: Config, captioner: Job) -> Job:
    """The job that captions the test pictures and scores the captions."""
    folder = config.folder("evaluation")
    options = {
        "references": config.captions,
        "split": "test",
        "images": config.images,
        "systems": [f"{Path(config.out).name}={captioner.folder}"],
        "batch_size": config.batch_size,
        "keep": str(folder / "captions"),
        "csv": str(folder / FIGURES),
        "markdown": str(folder / "figures.md"),
    }
    command = [sys.executable, str(EVAL / "compare.py"), *arguments_of(options)]
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if config.cpu else {})}
    work = partial(os.execve, sys.executable, command, environment)
    return _job("evaluation", "compare.py", work, folder, (FIGURES,), digest(captioner.options, options))


def _job(
    name: str, command: str, work: Callable[[], object], folder: Path, makes: tuple[str, ...], options: str
) -> Job:
    return Job(name, command, work, folder, makes, options, options_in="the command line and its --config")


def print_plan(config: Config) -> None:
    """The expected time and disk of every stage, on stderr."""
    texts = [text for path in config.text for text in read_sentences(path)]
    held_out = read_sentences(config.captions, splits=("dev",), held_out=())
    test_pictures = len(read_captions(config.captions, ("test",))) if config.images else 0
    shape = shape_of(config.language_model, config.scorer)
    plan = costs(config, shape, Text.of(texts), Text.of(held_out), test_pictures)
    out = Path(config.out).absolute()
    free = shutil.disk_usage(next(path for path in (out, *out.parents) if path.is_dir())).free / 1e9
    for line in table(plan, config.teraflops).splitlines():
        note(line)
    note(
        f"estimates, of operations at {config.teraflops:g} million millions a second (--teraflops); reading "
        f"pictures and comparing captions come on top. {free:.1f} GB are free at {config.out}"
    )
    if not config.images:
        note("no --images: settings are chosen on text, and nothing is measured")


def print_beside_published(config: Config) -> None:
    """The row of the captioner below those of papers, on stdout and in a file.

    Raises:
        BadModel: the figures cannot be read.
    """
    folder = config.folder("evaluation")
    options = {"dataset": config.published, "ours": str(folder / FIGURES)}
    command = [sys.executable, str(EVAL / "published.py"), *arguments_of(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadModel(f"{folder}: expected figures of eval/compare.py, found other: {done.stderr.strip()}")
    rows = f"{done.stdout}\n{OTHERS}\n"
    write_whole(folder / BESIDE, rows)
    print(rows, end="")


if __name__ == "__main__":
    run(main, Config)
