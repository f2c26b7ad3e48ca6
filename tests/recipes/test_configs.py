"""recipes/configs: every file is read by its recipe, names only what is there, and makes what ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from repository import RECIPES, recipe

from magicap.captioners.presets import BASELINE, EMBEDDED, PRESETS, UNPAIRED
from magicap.decoding.settings import DECODINGS
from magicap.errors import BadModel, BadSettings
from magicap.settings_io import to_dict

recipe("train_tokenizer")  # puts recipes/ where Python looks for modules
import chain  # noqa: E402
import running  # noqa: E402
import tinydata  # noqa: E402

ROOT = RECIPES.parent
DATA, MANY = "$MAGICAP_DATA/", "$MAGICAP_COCO_MANY/"


def test_every_file_is_a_step_and_every_step_has_a_file():
    assert {path.stem for path in chain.CONFIGS.iterdir()} == set(chain.STEPS)


@pytest.mark.parametrize("step", chain.STEPS)
def test_a_recipe_reads_its_file(step, monkeypatch):
    for name in running.VARIABLES:
        monkeypatch.setenv(name, f"/{name}")
    config = chain.config_of(step)
    assert type(config) is chain.recipe(step).Config
    assert config.out == f"runs/{step}"
    assert "$" not in repr(config)
    assert len(chain.about(step)) > 20
    changed = {name: value for name, value in asdict(config).items() if str(value)}
    assert set(chain.written(step)) <= set(changed)


@pytest.mark.parametrize("step", chain.STEPS)
def test_the_dry_run_overrides_options_that_there_are(step, monkeypatch):
    for name in running.VARIABLES:
        monkeypatch.setenv(name, f"/{name}")
    config = chain.config_of(step, tinydata.overrides().get(step, ()))
    for name, value in tinydata.TINY.get(step, {}).items():
        assert getattr(config, name) == value


@pytest.mark.parametrize("step", chain.STEPS)
def test_every_path_is_data_or_what_an_earlier_step_made_or_the_repository(step):
    earlier = [chain.out_of(other) for other in list(chain.STEPS)[: list(chain.STEPS).index(step)]]
    for path in chain.paths(step):
        made = [out for out in earlier if Path(path).is_relative_to(out)]
        assert made or path.startswith((DATA, MANY)) or (ROOT / path).exists(), path


@pytest.mark.parametrize("step", chain.STEPS)
def test_the_data_that_a_file_names_is_there(step, data_dir):
    for path in chain.paths(step):
        assert not path.startswith(DATA) or Path(os.path.expandvars(path)).exists(), path


def test_a_step_is_made_from_others_and_their_options_count():
    assert chain.with_inputs("unpaired") == ["tokenizer", "text_tower", "unpaired_scorer", "unpaired"]
    assert chain.inputs("embedded") == ["averaged_scorer", "soft_prompt", "fine_grained"]
    assert set(chain.chosen([])) == {
        step for last in ("confidence", "unpaired", "cnn_lstm_longer") for step in chain.with_inputs(last)
    }
    assert set(chain.STEPS) - set(chain.chosen([])) == {"adversarial", "scorer_cnn_bert"}
    fewer = {"tokenizer": ["--vocabulary_size", "9"]}
    assert chain.digest_of("embedded", {}) != chain.digest_of("embedded", fewer)
    assert chain.digest_of("cnn_lstm", {}) == chain.digest_of("cnn_lstm", fewer)


def test_what_ships_decodes_and_is_shaped_as_its_file_says(monkeypatch):
    for name in running.VARIABLES:
        monkeypatch.setenv(name, f"/{name}")
    assemble = chain.recipe("embedded")
    made = assemble.decoding(chain.config_of("embedded"), has_memory=True, soft_prompt=True)
    shipped = json.loads((EMBEDDED / "magicap.json").read_text())["decoding"]
    assert json.loads(json.dumps(to_dict(made, DECODINGS))) == shipped
    shape = json.loads((EMBEDDED / "language_model" / "config.json").read_text())
    words = chain.config_of("language_model")
    assert (shape["n_layer"], shape["n_embd"], shape["n_head"]) == (words.layers, words.width, words.heads)
    assert shape["n_positions"] == words.positions
    assert shape["vocab_size"] == chain.config_of("tokenizer").vocabulary_size
    tower = json.loads((PRESETS[UNPAIRED].memory.parent / "scorer" / "open_clip_config.json").read_text())
    text = chain.config_of("text_tower")
    assert tower["model_cfg"]["text_cfg"]["layers"] == text.text_layers
    assert tower["model_cfg"]["embed_dim"] == text.width
    network = json.loads((BASELINE / "network.json").read_text())
    baseline = chain.config_of("cnn_lstm_longer")
    assert (network["decoder"]["kind"], network["decoder"]["width"]) == (baseline.decoder, baseline.width)
    assert network["encoder"]["model"] == baseline.image_model


def test_a_step_is_done_once_and_refused_where_its_options_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = replace(running.job_of("averaged_scorer", {}), options="abc")
    assert not running.is_done(job)
    folder = tmp_path / "runs" / "averaged_scorer"
    folder.mkdir(parents=True)
    (folder / running.RECORD).write_text(json.dumps({"step": "averaged_scorer", "options": "abc"}))
    with pytest.raises(
        BadModel, match=r"averaged_scorer: expected .*open_clip_model.safetensors, found none"
    ):
        running.is_done(job)
    (folder / "open_clip_model.safetensors").touch()
    assert running.is_done(job)
    with pytest.raises(BadSettings, match=r"options of averaged_scorer\.yaml, .* found others\. Remove"):
        running.is_done(replace(job, options="abd"))


def test_variables_that_are_not_set_are_named_before_anything_runs(monkeypatch):
    monkeypatch.delenv("MAGICAP_COCO_MANY", raising=False)
    monkeypatch.setenv("MAGICAP_DATA", "/data")
    with pytest.raises(BadSettings, match="expected MAGICAP_COCO_MANY to be set"):
        running.run_steps(["tokenizer"], {})


TWICE = """
import sys
from pathlib import Path
import running, tinydata
running.in_child(tinydata.make, Path.cwd())
tinydata.point_variables_to(Path.cwd())
for steps in (["tokenizer"], ["tokenizer", "language_model"]):
    running.run_steps(steps, tinydata.overrides())
tinydata.point_variables_to(Path.cwd() / "nowhere")
running.run_steps(["text_tower"], tinydata.overrides())
"""


@pytest.mark.slow
def test_steps_run_once_and_the_first_error_ends_the_chain_with_its_line_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{RECIPES}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWICE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith(("== ", "distill_text_tower.py"))]
    assert [line.partition(" in ")[0] for line in lines[:5]] == [
        "== tokenizer: train_tokenizer.py --config tokenizer.yaml",
        "== tokenizer: done",
        "== tokenizer: done before",
        "== language_model: tune_language_model.py --config language_model.yaml",
        "== language_model: done",
    ]
    assert lines[5] == "== text_tower: distill_text_tower.py --config text_tower.yaml"
    assert lines[6].startswith("distill_text_tower.py: ")
    assert done.stderr.endswith(f"{lines[6]}\n")


def leave(code: object) -> None:
    sys.exit(code)


def be_killed() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [(print, (), 0), (leave, (3,), 3), (leave, ("one line",), 1), (be_killed, (), -9)],
)
def test_a_child_gives_its_exit_code(function, arguments, code):
    assert running.in_child(function, *arguments) == code


def options_of(**options: Any) -> Any:
    return recipe("make_captioners").Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["scorers"]}, "--only takes some of tokenizer, .*, found 'scorers'"),
        ({"dry_run": True, "install": True}, "--dry_run runs every step and installs nothing"),
        (
            {"only": ["scorer"], "install": True},
            "--install expects one of cnn_lstm_longer, confidence, unpaired",
        ),
    ],
)
def test_options_of_the_chain_that_cannot_be_are_refused(options, message):
    with pytest.raises(BadSettings, match=message):
        options_of(**options)
    options_of(only=["cnn_lstm_longer"], install=True)
