"""The one command line of all recipes: options, former names, errors in one sentence, exit codes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from test_recipes import RECIPES, recipe

from magicap.errors import BadData, BadSettings

NAMES = sorted(path.stem for path in RECIPES.glob("*_*.py"))


def command_line() -> Any:
    recipe(NAMES[0])  # puts recipes/ where Python looks for modules
    import cli

    return cli


def parse(config: type, arguments: list[str], name: str) -> Any:
    return command_line().parse(config, arguments, name)


@dataclass(frozen=True)
class Config:
    out: str = field(metadata={"help": "folder"})
    epochs: int = field(default=1, metadata={"help": "passes"})

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise BadSettings(f"--epochs must be at least 1, found {self.epochs}")


def exit_of(main, arguments: list[str]) -> SystemExit:
    with pytest.raises(SystemExit) as stopped:
        command_line().run(main, Config, arguments)
    return stopped.value


def test_options_become_the_config():
    configs: list[Config] = []

    def main(config: Config) -> None:
        configs.append(config)

    command_line().run(main, Config, ["--out", "x"])
    command_line().run(main, Config, ["--out", "y", "--epochs", "2"])
    assert configs == [Config("x", 1), Config("y", 2)]


def test_errors_are_one_sentence_with_the_name_of_the_recipe():
    def main(config: Config) -> None:
        raise BadData("captions.jsonl: expected rows, found none; give a file that has some")

    name = "test_recipes_cli.py"
    message = f"{name}: captions.jsonl: expected rows, found none; give a file that has some"
    assert exit_of(main, ["--out", "x"]).code == message  # on stderr, with exit code 1
    assert (
        exit_of(main, ["--out", "x", "--epochs", "0"]).code == f"{name}: --epochs must be at least 1, found 0"
    )


def test_ctrl_c_ends_with_130_and_other_errors_stay_what_they_are(capsys):
    def main(config: Config) -> None:
        raise {"stop": KeyboardInterrupt, "bug": ZeroDivisionError}[config.out]

    assert exit_of(main, ["--out", "stop"]).code == 130
    assert capsys.readouterr().err == "test_recipes_cli.py: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        command_line().run(main, Config, ["--out", "bug"])


@pytest.mark.parametrize(
    "arguments", [["--ou", "x"], ["--out", "x", "--nosuch", "1"], ["--out", "x", "y"], []]
)
def test_what_is_no_option_ends_with_the_usage(arguments, capsys):
    assert exit_of(lambda config: None, arguments).code == 2
    assert "usage: test_recipes_cli.py" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_former_name_stands_for_an_option_that_is_there(name):
    options = {option.name for option in fields(recipe(name).Config)}
    aliases = command_line().ALIASES.get(name, {})
    assert set(aliases.values()) <= options
    assert not set(aliases) & options


def test_former_names_are_of_recipes_that_are_there():
    assert set(command_line().ALIASES) <= set(NAMES)


def test_a_former_name_is_noted_and_its_value_stays(capsys):
    arguments = ["--align-epochs=3", "--out", "tune_rate", "--tune_rate", "1e-4"]
    replaced = [command_line().present_name(argument, "train_scorer") for argument in arguments]
    assert replaced == ["--locked_epochs=3", "--out", "tune_rate", "--finetune_rate", "1e-4"]
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first
        == "train_scorer.py: --align-epochs is now --locked_epochs; the next release knows that name only"
    )
    assert second.startswith("train_scorer.py: --tune_rate is now --finetune_rate")
    assert command_line().present_name("--tune_rate", "tune_language_model") == "--tune_rate"


def test_a_recipe_that_is_run_prints_its_error_and_exits_with_one(tmp_path):
    command = [sys.executable, str(RECIPES / "train_tokenizer.py"), "--text", "nosuch.txt", "--out", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("train_tokenizer.py: nosuch.txt")
    assert "Traceback" not in done.stderr
