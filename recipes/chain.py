"""The chain that makes what ships: its steps in order, the YAML file of each, and what reads what.

A step is a recipe with its options from ``recipes/configs/<step>.yaml``. One step reads another where an
option names a path in the other's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from cli import parse
from configfile import read_yaml

from magicap.errors import BadSettings
from magicap.training.options import RUN_MAY_CHANGE
from magicap.training.phases import digest

CONFIGS = Path(__file__).parent / "configs"

PASSING = set(RUN_MAY_CHANGE) - {"max_steps"}
"""Options that say where and how to compute, and so change nothing that is made; fewer steps do."""


@dataclass(frozen=True)
class Step:
    """A recipe and what it must have written, relative to its folder, once it is done."""

    recipe: str
    makes: tuple[str, ...]
    ships: bool = True
    """Whether it, or what is made from it, is in the package; else it runs where it is asked for by name."""


_SCORER = ("open_clip_model.safetensors",)
_TRAINED_SCORER = ("best/open_clip_model.safetensors",)
_NETWORK = ("best/network.safetensors", "best/magicap.json")

STEPS = {
    "tokenizer": Step("train_tokenizer", ("language_model/tokenizer.json", "scorer/tokenizer.json")),
    "language_model": Step("tune_language_model", ("best/model.safetensors",)),
    "text_tower": Step("distill_text_tower", (*_TRAINED_SCORER, "teacher.safetensors")),
    "unpaired_scorer": Step("build_classifier_scorer", (*_SCORER, "class_vector.safetensors")),
    "unpaired": Step("assemble_captioner", ("scorer", "memory")),
    "classifier_scorer": Step("build_classifier_scorer", (*_SCORER, "class_vector.safetensors")),
    "scorer": Step("train_scorer", _TRAINED_SCORER),
    "scorer_longer": Step("train_scorer", _TRAINED_SCORER),
    "averaged_scorer": Step("average_scorers", _SCORER),
    "base_captioner": Step("assemble_captioner", ("magicap.json", "memory")),
    "soft_prompt": Step("tune_prompted", ("magicap.json", "language_model/soft_prompt.safetensors")),
    "fine_grained": Step("train_fine_grained", ("best/fine_grained.safetensors",)),
    "embedded": Step("assemble_captioner", ("magicap.json", "memory", "fine_grained")),
    "confidence": Step("calibrate_confidence", ("magicap.json", "memory", "fine_grained", "confidence.json")),
    "adversarial": Step("train_adversarial", ("magicap.json", "memory"), ships=False),
    "cnn_lstm": Step("train_cnn_lstm", _NETWORK),
    "cnn_lstm_longer": Step("train_cnn_lstm", _NETWORK),
    "scorer_cnn_bert": Step("train_scorer", _TRAINED_SCORER, ships=False),
}
"""The steps in the order in which they run; each has a YAML file of its name."""


def config_file(step: str) -> Path:
    """The YAML file of a step."""
    return CONFIGS / f"{step}.yaml"


def about(step: str) -> str:
    """What a step makes, as the comment at the top of its YAML file says."""
    lines = config_file(step).read_text(encoding="utf-8").splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.lstrip("# ") for line in comment)


def recipe(step: str) -> ModuleType:
    """The module of a step's recipe."""
    return import_module(STEPS[step].recipe)


def arguments(step: str, more: Sequence[str] = ()) -> list[str]:
    """A step's command line, behind the recipe's name.

    Args:
        more: options that win over the file's.
    """
    return ["--config", str(config_file(step)), *more]


def config_of(step: str, more: Sequence[str] = ()) -> Any:
    """A step's options, as its recipe reads them.

    Raises:
        BadSettings: the file or an option of ``more`` cannot be used.
    """
    return parse(recipe(step).Config, arguments(step, more), STEPS[step].recipe)


@cache
def written(step: str) -> Mapping[str, Any]:
    """A step's options as its file has them: text and lists of text, variables not expanded."""
    return read_yaml(config_file(step))


def out_of(step: str) -> Path:
    """The folder that a step writes, relative to the working directory."""
    return Path(written(step)["out"])


def paths(step: str) -> Iterator[str]:
    """Every path that a step reads, as its file has it."""
    for option, value in written(step).items():
        if option != "out":
            yield from (item for item in ([value] if isinstance(value, str) else value) if "/" in item)


def inputs(step: str) -> list[str]:
    """The steps whose folders a step reads, in the order in which they run."""
    return [other for other in STEPS if any(Path(path).is_relative_to(out_of(other)) for path in paths(step))]


def with_inputs(step: str) -> list[str]:
    """A step and all that it is made from, in the order in which they run."""
    needed, waiting = set(), [step]
    while waiting:
        needed.add(current := waiting.pop())
        waiting += set(inputs(current)) - needed
    return [other for other in STEPS if other in needed]


def chosen(names: Sequence[str]) -> list[str]:
    """The steps of these names, in the order in which they run; all that ship without names.

    Raises:
        BadSettings: no step has such a name.
    """
    if unknown := [name for name in names if name not in STEPS]:
        raise BadSettings(f"--only takes some of {', '.join(STEPS)}, found {unknown[0]!r}")
    return [step for step in STEPS if (step in names if names else STEPS[step].ships)]


def digest_of(step: str, overrides: Mapping[str, Sequence[str]]) -> str:
    """Twelve digits of the options that a step and all that it is made from have, as the files write them.

    Args:
        overrides: step to options that win over its file's.
    """
    sources = [
        (other, sorted((name, value) for name, value in written(other).items() if name not in PASSING))
        for other in with_inputs(step)
    ]
    return digest(sources, [list(overrides.get(other, ())) for other in with_inputs(step)])
