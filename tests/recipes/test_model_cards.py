"""Model cards: what is committed is what the recipe writes; a card says when its figures are of others."""

from __future__ import annotations

import json
import shutil

import pytest
from repository import RECIPES, recipe

from magicap.errors import BadModel, BadSettings

cards = recipe("model_card")
PACKAGE = RECIPES.parent / "magicap"


@pytest.mark.parametrize("name", cards.SHIPPED)
def test_a_card_is_what_the_recipe_writes(name):
    written = (PACKAGE / name / "README.md").read_text(encoding="utf-8")
    assert written == cards.card(name, PACKAGE / name), "run make docs"
    assert "{{" not in written


@pytest.mark.parametrize("name", cards.SHIPPED)
def test_a_card_asks_for_no_step_by_hand(name):
    commands = [line.split() for line in (PACKAGE / name / "README.md").read_text().splitlines()]
    assert not [words for words in commands if words and words[0] in {"cp", "mv", "sed"}]


@pytest.mark.parametrize("name", cards.SHIPPED)
def test_every_figure_says_of_what_it_is(name):
    measured = json.loads(cards.FIGURES.read_text(encoding="utf-8"))[name]
    assert measured["weights"] == cards.weights_digest(PACKAGE / name)
    names = [figure["name"] for figure in measured["figures"]]
    assert len(names) == len(set(names))
    for figure in measured["figures"]:
        assert {"what", "system", "split", "n", "value", "command"} <= set(figure)
        low, high = figure.get("interval", [figure["value"]] * 2)
        assert low <= figure["value"] <= high


def test_a_card_says_when_the_weights_or_the_decoding_were_not_measured(tmp_path):
    folder = tmp_path / "baseline"
    shutil.copytree(PACKAGE / "baseline", folder)
    assert "**Measured with" not in cards.card("baseline", folder)
    settings = json.loads((folder / "magicap.json").read_text())
    settings["decoding"]["beam_size"] = 7
    (folder / "magicap.json").write_text(json.dumps(settings))
    assert "**Measured with another decoding**: `beam_size` was 3 and is 7 now." in cards.card(
        "baseline", folder
    )
    with open(folder / "network.safetensors", "r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x00\x01")
    assert "**Not measured yet**" in cards.card("baseline", folder)


def test_what_a_template_asks_for_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "TEMPLATES", tmp_path)
    for asked in ("size nosuch.safetensors", "value nosuch", "nosuch", "size"):
        (tmp_path / "baseline.md").write_text("{{" + asked + "}}")
        with pytest.raises(BadModel, match=rf"baseline\.md asks for \{{\{{{asked}\}}\}}, which is not there"):
            cards.card("baseline", PACKAGE / "baseline")
    with pytest.raises(BadSettings, match="--only takes some of embedded, unpaired, baseline, found 'x'"):
        cards.Config(only=["x"])
