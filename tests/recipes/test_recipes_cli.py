"""The one command line of all recipes: options, former names, errors in one sentence, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
from recipes_page import NAMES
from repository import RECIPES, command_line, parse, recipe

from magicap.errors import BadData, BadSettings


@dataclass(frozen=True)
class Config:
    out: str
    """Folder to write."""

    epochs: int = 1
    """Passes over the data."""

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
    ("arguments", "complaint"),
    [
        ([], "missing: --out"),
        (["--ou", "x"], "missing: --out; unrecognized options: --ou, x"),
        (
            ["--out", "x", "--epoch", "2"],
            "unrecognized options: --epoch, 2; perhaps you meant --epochs",
        ),
        (["--out", "x", "y"], "unrecognized options: y"),
        (["--out"], "missing value for argument '--out'. Expected 1 values"),
        (
            ["--out", "x", "--epochs", "two"],
            "error parsing --epochs: invalid literal for int() with base 10: 'two'",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, complaint, capsys):
    assert exit_of(lambda config: None, arguments).code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"test_recipes_cli.py: {complaint}; see --help\n"


def test_help_begins_with_the_docstring_of_the_recipe_and_has_no_frame(capsys):
    assert exit_of(lambda config: None, ["--help"]).code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The one command line of all recipes: options")
    assert "usage: test_recipes_cli.py" in shown
    assert "--epochs INT   Passes over the data. (default: 1)" in shown
    assert "Folder to write. (required)" in shown
    assert "---\n" not in shown


@dataclass(frozen=True)
class Lists:
    text: list[str]
    """Files of text."""

    parts: list[str] = field(default_factory=lambda: ["stem"])
    """Names of parts."""

    cpu: bool = False
    """Whether to leave a GPU alone."""


def test_lists_take_several_values_and_required_ones_at_least_one(capsys):
    options = ["--text", "a", "b", "--parts", "--cpu", "--no-cpu", "--cpu"]
    assert parse(Lists, options, "x") == Lists(["a", "b"], [], True)
    assert parse(Lists, ["--text", "a"], "x").parts == ["stem"]
    with pytest.raises(SystemExit):
        parse(Lists, ["--text", "--cpu"], "x")
    assert capsys.readouterr().err == "x.py: --text takes one value or more, found none; see --help\n"


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


def missing_file(config: Config) -> None:
    (Path(config.out) / "captions.txt").read_text()


def no_text(config: Config) -> None:
    b"\xff".decode()


def no_json(config: Config) -> None:
    json.loads("not json")


def damaged_weights(config: Config) -> None:
    from safetensors.torch import load_file

    load_file(config.out)


def other_weights(config: Config) -> None:
    import torch

    torch.nn.Linear(2, 2).load_state_dict({})


@pytest.mark.parametrize(
    ("main", "sentence"),
    [
        (missing_file, "{out}/captions.txt: Not a directory"),
        (no_text, "expected text in UTF-8, found other bytes: 'utf-8' codec can't decode byte 0xff "),
        (no_json, "expected JSON, found 'not json': Expecting value: line 1 column 1 (char 0)"),
        (damaged_weights, "{out} cannot be loaded: Error while deserializing header: "),
        (
            other_weights,
            "weights cannot be loaded: Error(s) in loading state_dict for Linear: Missing key(s)",
        ),
    ],
)
def test_what_other_libraries_say_of_a_users_files_is_one_line(main, sentence, tmp_path):
    out = tmp_path / "damaged.safetensors"
    out.write_text("x")
    code = exit_of(main, ["--out", str(out)]).code
    assert code.startswith(f"test_recipes_cli.py: {sentence.format(out=out)}")
    assert len(code.splitlines()) == 1


def test_a_recipe_that_is_run_prints_its_error_and_exits_with_one(tmp_path):
    command = [sys.executable, str(RECIPES / "train_tokenizer.py"), "--text", "nosuch.txt", "--out", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("train_tokenizer.py: nosuch.txt")
    assert "Traceback" not in done.stderr
