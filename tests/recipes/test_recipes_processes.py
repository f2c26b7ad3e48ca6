"""Recipes started by torchrun learn what they learn in one process, and resume after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from captioned_pictures import captioned_pictures
from repository import RECIPES, recipe


@dataclass(frozen=True)
class Run:
    """A recipe on tiny data, with what makes it the same in any number of processes: no dropout, no noise."""

    recipe: str
    options: str
    sizes: tuple[str, ...] = ("batch_size",)
    stages: tuple[str, ...] = (".",)

    def command(self, out: Path, count: int, **places: Path) -> list[str]:
        """Sixteen rows a step, shared by so many processes."""
        start = ["-m", "torch.distributed.run", f"--nproc-per-node={count}"] if count > 1 else []
        sizes = [f"--{name}={16 // count}" for name in self.sizes]
        common = ["--out", str(out), "--cpu", "--log_every=1", "--max_steps=20", "--checkpoint_minutes=0"]
        words = [word.format(**places) for word in self.options.split()]
        return [sys.executable, *start, str(RECIPES / f"{self.recipe}.py"), *words, *sizes, *common]

    def losses(self, out: Path) -> list[float]:
        """Of every step of every stage; of steps that were taken again after a kill, the last."""
        found = {}
        for stage in self.stages:
            rows = [json.loads(line) for line in (out / stage / "log.jsonl").open()]
            found |= {(stage, row["step"]): row["loss"] for row in rows if "loss" in row}
        return list(found.values())


CAPTIONED = "--captions {data}/captions.jsonl --images {data}/images.tar"
TEXT = "--text {data}/captions.jsonl --validation_text {data}/captions.jsonl --epochs 6"
RUNS = {
    "language model": Run(
        "tune_language_model",
        f"{TEXT} --tokenizer {{parts}}/tokenizer/language_model --layers 2 --width 32 --heads 2 "
        "--contrastive 0.5",
    ),
    "scorer": Run(
        "train_scorer",
        f"{CAPTIONED} --tokenizer {{parts}}/tokenizer/scorer --image_model test_vit --image_size 160 "
        "--width 16 --text_layers 2 --text_heads 2 --locked_epochs 4 --finetune_epochs 4 --patch_dropout 0",
        ("locked_batch_size", "finetune_batch_size"),
        ("locked", "finetune"),
    ),
    "text tower": Run(
        "distill_text_tower",
        "--text {data}/captions.jsonl --validation {data}/captions.jsonl "
        "--tokenizer {parts}/tokenizer/scorer --image_model test_vit --image_size 160 --width 16 "
        "--text_layers 2 --text_heads 2 --epochs 6",
        stages=("training",),
    ),
    "soft prompt": Run(
        "tune_prompted",
        f"{TEXT} --base {{parts}}/captioner --least_noise 0 --greatest_noise 0 --condition_dropout 0",
        stages=("training",),
    ),
    "adversarial": Run(
        "train_adversarial",
        "--images {data}/images.tar --text {data}/captions.jsonl --validation {data}/captions.jsonl "
        "--validation_images {data}/images.tar --base {parts}/conditioned --samples 3 --text_weight 0 "
        "--watching_scorer {parts}/scorer/best --discriminator_layers 1 --epochs 6",
        stages=("training",),
    ),
    "self-critical": Run(
        "train_cnn_lstm",
        f"{CAPTIONED} --image_model mobilenetv2_035 --image_size 64 --width 16 --embedding 8 --attention 8 "
        "--max_words 8 --min_count 1 --views 2 --dropout 0 --xe_epochs 0 --scst_epochs 4",
        stages=("scst",),
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Captioned pictures, tokenizers, and a captioner whose language model can learn a soft prompt."""
    data, parts = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("parts")
    write_captioned_images(data, 80, 8)
    places = {"data": data, "parts": parts}
    captions, tokens, assemble = (
        str(data / "captions.jsonl"),
        recipe("train_tokenizer"),
        recipe("assemble_captioner"),
    )
    tokens.main(tokens.Config(text=[captions], out=str(parts / "tokenizer"), vocabulary_size=300))
    for name in ("language model", "scorer"):
        run_recipe(RUNS[name].command(parts / name, 1, **places))
    assemble.main(
        assemble.Config(
            language_model=str(parts / "language model" / "best"),
            scorer=str(parts / "scorer" / "best"),
            memory_text=[captions],
            out=str(parts / "captioner"),
        )
    )
    run_recipe(RUNS["soft prompt"].command(parts / "conditioned", 1, **places))
    return places


def write_captioned_images(folder: Path, train: int, dev: int) -> None:
    """Pictures of noise, with three different sentences each."""
    words = random.Random(0)
    subjects, verbs = "dog man girl cat boy bird".split(), "runs sits jumps sleeps".split()
    places = "grass snow stone wood".split()

    def texts(_: int) -> list[str]:
        return [
            f"A {words.choice(subjects)} {words.choice(verbs)} on {words.choice(places)}." for _ in range(3)
        ]

    captioned_pictures(folder, texts, train, dev)


def run_recipe(command: list[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def kill_in_the_middle(command: list[str], log: Path) -> None:
    """Kill all processes of a recipe without warning after a few steps."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    started = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    while not log.is_file() or len(log.read_text().splitlines()) < 5:
        assert started.poll() is None
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_learns_the_same_in_two_processes(name, places, tmp_path):
    run = RUNS[name]
    run_recipe(run.command(tmp_path / "one", 1, **places))
    run_recipe(run.command(tmp_path / "two", 2, **places))
    alone, shared = run.losses(tmp_path / "one"), run.losses(tmp_path / "two")
    assert len(alone) == 20 * len(run.stages)
    assert shared == pytest.approx(alone, abs=1e-5)

    command, last = run.command(tmp_path / "killed", 2, **places), run.stages[-1]
    kill_in_the_middle(command, tmp_path / "killed" / last / "log.jsonl")
    assert len(run.losses(tmp_path / "killed")) < len(shared)
    run_recipe(command)
    assert run.losses(tmp_path / "killed") == pytest.approx(shared, abs=1e-6)
