"""Options of the recipes: each explained, all on one page, and read from a YAML file too."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import pytest
from recipes_page import NAMES, PAGE, page
from repository import command_line, parse, recipe

from magicap.docstrings import field_docstrings
from magicap.errors import BadSettings


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained_by_a_phrase_that_stands_alone(name):
    config = recipe(name).Config
    texts = field_docstrings(config)
    assert set(texts) == {option.name for option in fields(config)}
    for text in texts.values():
        assert len(text.split()) >= 3, text
        assert text[0].isupper(), text
        assert text.endswith("."), text


def test_the_page_of_the_recipes_is_what_they_print():
    assert PAGE.read_text(encoding="utf-8") == page(), "run make docs"


@dataclass(frozen=True)
class Config:
    text: list[str]
    out: str
    base: str | None = None
    rate: float = 1e-3
    epochs: int = 1
    limit: int | None = 9
    shares: list[float] = field(default_factory=list)
    precision: Literal["no", "bf16"] = "no"
    bits: Literal[8, 4] = 8
    cpu: bool = False

    def __post_init__(self) -> None:
        if self.epochs > 10:
            raise BadSettings(f"--epochs must be at most 10, found {self.epochs}")


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "options.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_options_come_from_a_file_as_the_fields_have_their_types(written, monkeypatch):
    monkeypatch.setenv("MAGICAP_DATA", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    file = written(
        "# a comment\ntext: [$MAGICAP_DATA/a.txt, ~/b.txt]\nout: 1\nbase: null\nrate: 2e-5\nepochs: 3\n"
        "limit: ~\nshares:\n  - 1\n  - 0.5\nprecision: no\nbits: 4\ncpu: yes\n"
    )
    expected = Config(["/data/a.txt", "/home/me/b.txt"], "1", None, 2e-5, 3, None, [1.0, 0.5], "no", 4, True)
    assert parse(Config, ["--config", file], "x") == expected
    assert parse(Config, [f"--config={file}"], "x") == expected


def test_the_command_line_wins_and_checks_see_both(written):
    file = written("text: [a, b]\nout: there\nepochs: 99\ncpu: true\n")
    chosen = parse(Config, ["--epochs", "2", "--config", file, "--text", "c", "--no_cpu"], "x")
    assert chosen == Config(["c"], "there", epochs=2)
    with pytest.raises(BadSettings, match="--epochs must be at most 10, found 99"):
        parse(Config, ["--config", file], "x")


def test_what_neither_gives_is_missing(written, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(Config, ["--config", written("text: [a]\n")], "x")
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "x.py: missing: --out; see --help\n"
    with pytest.raises(SystemExit):
        parse(Config, ["--config", written("")], "x")
    assert capsys.readouterr().err == "x.py: missing: --text, --out; see --help\n"


def test_help_shows_what_a_file_gives_as_defaults(written, capsys):
    with pytest.raises(SystemExit):
        parse(Config, ["--help", "--config", written("out: there\nepochs: 7\n")], "x")
    shown = capsys.readouterr().out
    assert "(default: there)" in shown
    assert "(default: 7)" in shown


def test_dashes_and_former_names_are_taken_in_a_file_too(written, capsys):
    train = recipe("train_scorer")
    file = written("captions: [c]\nimages: [i]\nout: o\nalign-epochs: 3\ntune_rate: 0.5\nimage-size: 32\n")
    chosen = parse(train.Config, ["--config", file], "train_scorer")
    assert (chosen.locked_epochs, chosen.finetune_rate, chosen.image_size) == (3, 0.5, 32)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("train_scorer.py: --align-epochs is now --locked_epochs")
    assert second.startswith("train_scorer.py: --tune_rate is now --finetune_rate")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "expected options that --help lists, found 'epoch'; did you mean epochs\\?"),
        ("epochs: many", "epochs: expected a whole number, found 'many'"),
        ("epochs: 1.5", "epochs: expected a whole number, found '1.5'"),
        ("epochs: [1]", r"epochs: expected a whole number, found \['1'\]"),
        ("rate: high", "rate: expected a number, found 'high'"),
        ("limit: none of it", "limit: expected a whole number, or null, found 'none of it'"),
        ("text: a.txt", "text: expected a list, each of it text, found 'a.txt'"),
        ("shares: [a]", r"shares: expected a list, each of it a number, found \['a'\]"),
        ("precision: half", "precision: expected no or bf16, found 'half'"),
        ("bits: 5", "bits: expected 8 or 4, found '5'"),
        ("cpu: maybe", "cpu: expected true or false, found 'maybe'"),
        ("out: {a: b}", "out: expected text, found {'a': 'b'}"),
        ("text: [[a]]", r"text: expected a list, each of it text, found \[\['a'\]\]"),
        ("image-size: 1\nimage_size: 2", "expected options that --help lists"),
        ("epochs: 1\nep\u00f6chs: [", "expected YAML, found while parsing"),
        ("- epochs", "expected lines of the form option: value, found a list"),
        ("epochs", "expected lines of the form option: value, found a str"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(written, text, message):
    file = written(text)
    with pytest.raises(BadSettings, match=rf"^{file}: {message}") as refused:
        parse(Config, ["--config", file], "x")
    assert len(str(refused.value).splitlines()) == 1


def test_an_option_stands_once_in_a_file(written):
    file = written("captions: [c]\nimage_size: 32\nimage-size: 64\n")
    with pytest.raises(BadSettings, match=f"^{file}: expected each option once, found image_size twice$"):
        parse(recipe("train_scorer").Config, ["--config", file], "train_scorer")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    damaged = tmp_path / "damaged.yaml"
    damaged.write_bytes(b"\xff\xfe")
    for file, found in [("nosuch.yaml", "No such file"), (tmp_path, "Is a dir"), (damaged, "other bytes")]:
        with pytest.raises(BadSettings, match=f"^{file}: expected a YAML file .*, found {found}"):
            parse(Config, ["--config", str(file)], "x")


def test_a_file_that_is_wrong_ends_the_recipe_with_one_line():
    with pytest.raises(SystemExit, match=r"^test_recipes_options\.py: nosuch\.yaml: expected a YAML file"):
        command_line().run(lambda config: None, Config, ["--config", "nosuch.yaml"])
