"""The command line: what stands on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
import tiny
from PIL import Image

from magicap.captioners.presets import DEFAULT
from magicap.cli import main
from magicap.commands import caption, evaluate, index, search
from magicap.commands.decoding_options import SEARCH_SETTINGS
from magicap.decoding.settings import DECODINGS
from magicap.supervised.settings import SUPERVISED_DECODINGS


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "my album"
    (folder / "below").mkdir(parents=True)
    names = ["1.png", "2.png", "10.png", "below/3.jpg"]
    for name, picture in zip(names, tiny.pictures(4), strict=True):
        Image.fromarray(picture).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def decoding_of(line):
    """The settings in a JSON row."""
    return json.loads(json.loads(line)["decoding"])


def test_one_picture_prints_its_caption_alone(preset, album, capsys):
    assert main(["caption", str(album / "1.png"), "--preset", preset]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "\t" not in out
    assert err == ""


def test_a_folder_prints_a_line_a_picture_in_natural_order(preset, album, capsys):
    assert main(["caption", str(album), "--preset", preset, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [os.path.relpath(row["image"], album) for row in rows] == [
        "1.png",
        "2.png",
        "10.png",
        "below/3.jpg",
    ]
    keys = {"image", "caption", "score", "finished", "model", "decoding", "steered_by"}
    assert all(set(row) == keys for row in rows)


def test_failures_are_reported_and_the_others_are_captioned(preset, album, capsys):
    (album / "2.png").write_text("<html>404</html>")
    missing = str(album / "nowhere.png")
    assert main(["caption", str(album), missing, "--preset", preset, "--json", "--batch-size", "2"]) == 2
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert ["caption" in row for row in rows] == [True, False, True, True, False]
    assert [row["error"] for row in rows if "error" in row] == ["text", "missing"]
    lines = err.splitlines()
    assert len(lines) == 2
    assert "2.png" in lines[0]
    assert "nowhere.png" in lines[1]


def test_in_plain_output_a_failed_picture_has_no_line_on_stdout(preset, album, capsys):
    (album / "2.png").write_bytes(b"")
    assert main(["caption", str(album / "1.png"), str(album / "2.png"), "--preset", preset]) == 2
    out, err = capsys.readouterr()
    assert str(album / "2.png") not in out
    assert str(album / "2.png") in err


def test_settings_of_the_search_can_be_given(preset, album, capsys):
    base = ["caption", str(album / "1.png"), "--preset", preset, "--json"]
    # These settings end the caption at once, which is a failure with a reason.
    assert main([*base, "--max-new-tokens", "1", "--top-k", "3", "--alpha", "0", "--beta", "9"]) == 2
    short = json.loads(capsys.readouterr().out)
    assert (short["caption"], short["error"]) == ("", "wordless")
    assert main(base) == 0
    assert len(short["caption"]) < len(json.loads(capsys.readouterr().out)["caption"])


def test_another_search_can_be_named(preset, album, capsys):
    photo = str(album / "10.png")
    arguments = ["caption", photo, "--preset", preset, "--decoding"]
    assert main([*arguments, "greedy", "--max-new-tokens", "5", "--json"]) == 0
    assert decoding_of(capsys.readouterr().out) == {"kind": "greedy", "max_new_tokens": 5}
    assert (
        main([*arguments, "beam-magic", "--max-new-tokens", "6", "--exclude", "dog", "--exclude", "man"]) == 0
    )
    assert capsys.readouterr().out.strip()
    assert main([*arguments, "beam-magic", "--include", "two words"]) == 2
    assert "single words" in capsys.readouterr().err


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """The folder of a tiny captioner whose language model has a soft prompt."""
    folder = tmp_path_factory.mktemp("conditioned")
    tiny.with_soft_prompt(0).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("value", [True, False])
def test_the_language_model_is_conditioned_on_the_picture_where_it_can_be(conditioned, album, capsys, value):
    option = "--soft-prompt" if value else "--no-soft-prompt"
    assert main(["caption", str(album / "10.png"), "--json", "--preset", conditioned, option]) == 0
    out, err = capsys.readouterr()
    assert decoding_of(out)["soft_prompt"] is value
    assert err == ""


def test_without_a_soft_prompt_nothing_is_conditioned(preset, album, capsys):
    assert main(["caption", str(album / "10.png"), "--preset", preset, "--soft-prompt"]) == 2
    assert "recipes/tune_" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("former", "now", "setting", "value"),
    [
        (["--prompted"], "--soft-prompt", "soft_prompt", True),
        (["--no-prompted"], "--no-soft-prompt", "soft_prompt", False),
        (["--memory-weight", "0.125"], "--ngram-weight", "ngram_weight", 0.125),
        (["--fit-weight", "0.25"], "--rerank-weight", "rerank_weight", 0.25),
        (["--finished", "7"], "--num-finished", "num_finished", 7),
    ],
)
def test_a_renamed_option_is_taken_with_a_notice(conditioned, album, capsys, former, now, setting, value):
    base = ["caption", str(album / "10.png"), "--json", "--preset", conditioned, "--decoding", "beam-magic"]
    assert main([*base, "--max-new-tokens", "4", *former]) == 0
    out, err = capsys.readouterr()
    assert decoding_of(out)[setting] == value
    assert err == f"magicap: {former[0]} is now {now}; the old name goes with the next release\n"


def test_former_options_are_hidden_and_wrong_values_refused(capsys):
    with pytest.raises(SystemExit):
        main(["caption", "--help"])
    shown = capsys.readouterr().out
    assert "--rerank-weight" in shown
    assert "--fit-weight" not in shown
    assert "--prompted" not in shown
    with pytest.raises(SystemExit) as leaving:
        main(["caption", "a.png", "--fit-weight", "much"])
    assert leaving.value.code == 2


@pytest.mark.parametrize(
    "arguments", [["caption", "a.png", "--pre", "x"], ["index", ".", "--spl", "dev"], ["--vers"]]
)
def test_no_option_is_taken_by_its_beginning(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2
    assert "magicap" in capsys.readouterr().err


def options_of(command):
    """What a command declares to argparse: its options and arguments."""
    commands = argparse.ArgumentParser().add_subparsers()
    for module in (caption, evaluate, index, search):
        module.add(commands)
    return commands.choices[command]._actions  # noqa: SLF001 - argparse lists them nowhere else


@pytest.mark.parametrize("command", ["caption", "eval", "index", "search"])
def test_every_option_is_explained_by_a_phrase(command):
    shown = [option for option in options_of(command) if option.help != "==SUPPRESS=="][1:]
    assert len(shown) >= 8
    assert [
        option.dest for option in shown if not re.fullmatch(r"([\w, -]+: )?[A-Z].*[.)]", option.help)
    ] == []


@pytest.mark.parametrize(("command", "option"), [("eval", "--clipscore-model"), ("index", "--preset")])
def test_the_default_preset_is_named_as_it_is(command, option):
    assert DEFAULT in next(known.help for known in options_of(command) if option in known.option_strings)


def test_every_setting_of_a_search_is_an_option():
    kinds = [*DECODINGS.values(), *SUPERVISED_DECODINGS.values()]
    known = {setting.name for kind in kinds for setting in fields(kind)}
    assert known - set(SEARCH_SETTINGS) == {"captions", "num_hypotheses"}  # one line holds one caption
    assert set(SEARCH_SETTINGS) <= known


def test_underscores_are_taken_for_dashes(preset, album, capsys):
    photo = str(album / "10.png")
    arguments = ["caption", photo, "--preset", preset, "--json", "--max_new_tokens=5"]
    assert main([*arguments, "--no_soft_prompt", "--batch_size", "1", "--top_k", "3"]) == 0
    out, err = capsys.readouterr()
    decoding = decoding_of(out)
    assert (decoding["max_new_tokens"], decoding["top_k"], decoding["soft_prompt"]) == (5, 3, False)
    assert err == ""


def test_names_behind_two_dashes_are_taken_as_they_are(preset, album, capsys, monkeypatch):
    monkeypatch.chdir(album)
    os.rename("1.png", "--my_dog.png")
    assert main(["caption", "--preset", preset, "--", "--my_dog.png", "2.png"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["--my_dog.png", "2.png"]


def test_a_supervised_captioner_has_one_search(supervised, album, capsys):
    assert main(["caption", str(album / "10.png"), "--preset", supervised, "--decoding", "greedy"]) == 2
    assert "supervised captioner" in capsys.readouterr().err


def test_a_supervised_captioner_is_used_as_any_other(supervised, album, capsys):
    base = ["caption", str(album), "--preset", supervised, "--json"]
    assert main([*base, "--beam-size", "3", "--length-penalty", "0.5", "--max-new-tokens", "4"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4
    changed = {"kind": "beam", "beam_size": 3, "length_penalty": 0.5, "max_new_tokens": 4}
    assert all(changed.items() <= decoding_of(json.dumps(row)).items() for row in rows)
    assert all("caption" in row and row["score"] < 0 for row in rows)


def test_options_that_the_decoding_lacks_are_named_with_those_it_has(supervised, preset, album, capsys):
    picture = str(album / "1.png")
    assert main(["caption", picture, "--preset", supervised, "--alpha", "0.1", "--top-k", "3"]) == 2
    message = capsys.readouterr().err
    assert "--top-k, --alpha: this captioner's decoding is BeamSearch" in message
    assert "--beam-size, --length-penalty, --max-new-tokens" in message
    assert main(["caption", picture, "--preset", preset, "--beam-size", "3"]) == 2
    message = capsys.readouterr().err
    assert "--beam-size: this captioner's decoding is MagicSearch" in message
    assert "--top-k, --alpha, --beta, --max-new-tokens" in message


def test_a_supervised_captioner_has_no_scorer_to_lend(supervised, album, capsys):
    assert main(["index", str(album), "--preset", supervised]) == 2
    assert "expected a captioner with a scorer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--alpha", "7"], "alpha"),
        (["--max-new-tokens", "999"], "max_new_tokens"),
        (["--dtype", "int3"], "dtype"),
        (["--batch-size", "0"], "batch_size"),
        (["--preset", "nosuch"], "nosuch"),
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda:97"], "cuda"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(preset, album, capsys, arguments, word):
    assert main(["caption", str(album / "1.png"), "--preset", preset, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert word in err


def test_an_empty_folder_is_refused_before_any_model_is_loaded(tmp_path, capsys):
    assert main(["caption", str(tmp_path), "--preset", "nosuch"]) == 2
    assert "no pictures found" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_does_not_stop_the_others(preset, album, capsys, monkeypatch):
    listing = os.scandir

    def refuse(folder):
        if str(folder).endswith("below"):
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["caption", str(album), "--preset", preset, "--json"]) == 2
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row.get("error") for row in rows] == ["unreadable", None, None, None]
    assert "below" in err


@pytest.mark.slow
def test_a_file_name_need_not_be_text(preset, album):
    name = os.fsencode(album) + b"/caf\xe9.png"
    os.rename(os.fsencode(album / "1.png"), name)
    command = [sys.executable, "-m", "magicap", "caption", "--preset", preset, name, album / "2.png"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(os.fsencode(album) + rb"/caf\xe9.png" + b"\t")


def test_interrupted_means_130_and_no_traceback(preset, album, capsys, monkeypatch):
    from magicap import Captioner

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Captioner, "caption", interrupt)
    assert main(["caption", str(album), "--preset", preset]) == 130
    assert capsys.readouterr().err == "magicap: interrupted\n"


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(preset, album):
    command = f"{sys.executable} -m magicap caption '{album}' --preset '{preset}' --batch-size 1 | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_help_is_quick_and_version_is_shown(capsys):
    for arguments, word in [(["--version"], "magicap "), (["caption", "--help"], "Su et al. 2022")]:
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 0
        assert word in capsys.readouterr().out


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    """A PATH without Java, and the number of pictures that are encoded from here on."""
    from magicap.models.scorer import ImageTextScorer

    monkeypatch.setenv("PATH", str(tmp_path))
    encoded = []
    encode = ImageTextScorer.encode_pixels
    monkeypatch.setattr(
        ImageTextScorer,
        "encode_pixels",
        lambda scorer, pixels: (encoded.append(len(pixels)), encode(scorer, pixels))[1],
    )
    return encoded


@pytest.fixture
def eval_call(album, preset, tmp_path):
    rows = [
        {"image_name": name, "captions": ["A dog."], "prediction": "A cat."} for name in ("1.png", "2.png")
    ]
    (tmp_path / "predictions.json").write_text(json.dumps(rows))
    return ["eval", str(tmp_path / "predictions.json"), "--images", str(album), "--clipscore-model", preset]


def test_a_metric_that_lacks_java_is_refused_before_pictures_are_encoded(eval_call, no_java, capsys):
    assert main([*eval_call, "--metrics", "bleu,meteor,clipscore"]) == 2
    out, err = capsys.readouterr()
    assert (out, no_java) == ("", [])
    assert err.startswith("magicap: there is no 'java' on the PATH for METEOR: ")
    assert main([*eval_call, "--metrics", "bleu,clipscore"]) == 0
    assert no_java == [1, 2]  # a probe when the scorer is loaded, then the pictures
    assert "java" not in capsys.readouterr().err


def test_where_all_metrics_are_computed_missing_java_is_noticed_before_pictures_are_encoded(
    eval_call, no_java, capsys, monkeypatch
):
    from magicap.commands import evaluate

    load, noticed = evaluate.load_scorer, []
    monkeypatch.setattr(
        evaluate,
        "load_scorer",
        lambda *names, **others: (noticed.append(capsys.readouterr().err), load(*names, **others))[1],
    )
    assert main(eval_call) == 0
    notice = "magicap: there is no 'java' on the PATH for METEOR and SPICE; the other metrics are computed\n"
    assert noticed == [notice]
    assert "CLIPScore" in capsys.readouterr().out


def test_the_former_name_of_the_clipscore_model_is_taken_with_a_notice(eval_call, no_java, capsys):
    call = ["--judge" if word == "--clipscore-model" else word for word in eval_call]
    assert main([*call, "--metrics", "clipscore"]) == 0
    assert "--judge is now --clipscore-model" in capsys.readouterr().err
