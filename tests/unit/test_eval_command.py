"""``magicap eval`` and the scripts of eval/, as a user runs them."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from PIL import Image
from repository import ROOT

from magicap import BadModel, BeamMagicSearch, BeamSearch, Greedy, MagicSearch
from magicap.captioners.provenance import decoding_text
from magicap.cli import main
from magicap.decoding.settings import DECODINGS
from magicap.evaluation.systems import caption_images
from magicap.metrics import METRICS
from magicap.settings_io import from_dict
from magicap.supervised.settings import SUPERVISED_DECODINGS

WORDS = ["a dog runs", "a red car stops", "two men talk", "the cat sleeps on a sofa"]


def script(name):
    path = ROOT / "eval" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"eval_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def album(tmp_path):
    """Four pictures with two references each, and four more captions for training."""
    folder = tmp_path / "album"
    folder.mkdir()
    rows = []
    for i, picture in enumerate(tiny.pictures(4)):
        Image.fromarray(picture).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "split": "test", "captions": [WORDS[i], WORDS[i] + " today"]})
    rows += [{"image": f"t{i}.png", "split": "train", "captions": [text]} for i, text in enumerate(WORDS)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "said.jsonl"
    path.write_text(
        "".join(json.dumps({"image": f"{i}.png", "caption": t}) + "\n" for i, t in enumerate(WORDS))
    )
    return path


def arguments(predictions, album, *more):
    fast = ["--metrics", "bleu,cider_d,diversity"]
    return ["eval", str(predictions), "--references", str(album), "--split", "test", *fast, *more]


def test_captions_of_the_command_line_can_be_scored(preset, album, tmp_path, capsys):
    pictures = [str(album / f"{i}.png") for i in range(4)]
    assert main(["caption", *pictures, "--preset", preset, "--json"]) == 0
    said = tmp_path / "said.jsonl"
    said.write_text(capsys.readouterr().out)
    images = [
        "--images",
        str(album),
        "--clipscore-model",
        preset,
        "--metrics",
        "bleu,cider_d,clipscore,diversity",
    ]
    assert main(arguments(said, album, *images, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 4
    assert {"BLEU-4", "CIDEr-D", "CLIPScore", "RefCLIPScore", "vocabulary"} <= set(found["scores"])
    signature = found["scores"]["CLIPScore"]["signature"]
    assert signature["split"] == "test"
    assert signature["model"] == json.loads(said.read_text().splitlines()[0])["model"]
    assert len(signature["scorer"]) == 12


def test_the_table_has_a_line_a_figure(predictions, album, capsys):
    assert main(arguments(predictions, album)) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["metric", "score", "signature"]
    assert any(line.startswith("BLEU-1") and "100.00" in line and "tok:ptb" in line for line in lines)
    assert "model:file-" in out
    assert err == ""


def test_the_help_names_every_metric(predictions, album, capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in [*METRICS, "clipscore"])
    assert main(arguments(predictions, album, "--metrics", "bleu,cider")) == 2
    assert "no metric 'cider': expected some of bleu, " in capsys.readouterr().err


def test_every_images_own_scores_go_to_a_file(predictions, album, tmp_path, capsys):
    path = tmp_path / "each.csv"
    assert main(arguments(predictions, album, "--per-image", str(path))) == 0
    rows = list(csv.DictReader(path.open()))
    assert [row["caption"] for row in rows] == WORDS
    assert all(float(row["BLEU-1"]) == pytest.approx(1) for row in rows)
    assert "confidence" not in rows[0]


def test_the_confidence_of_captions_stands_beside_their_scores(album, tmp_path):
    said, path = tmp_path / "said.jsonl", tmp_path / "each.csv"
    rows = [{"image": f"x/{i}.png", "caption": text, "confidence": i / 8} for i, text in enumerate(WORDS)]
    del rows[1]["confidence"]
    said.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert main(arguments(said, album, "--per-image", str(path))) == 0
    written = [row["confidence"] for row in csv.DictReader(path.open())]
    assert written == ["0.0", "", *(str(i / 8) for i in range(2, len(WORDS)))]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--per-image", "/no/such/folder/each.csv"], "cannot be written"),
        (["--split", "night"], "no split 'night'; it has test, train"),
        (["--images", "/no/such.tar", "--metrics", "clipscore"], "No such file"),
        (["--metrics", "clipscore"], "give their tar files or folders with --images"),
        (["--clipscore-model", "embedded"], "give their tar files or folders with --images"),
        (["--references", "/no/such"], "expected a file, found"),
    ],
)
def test_wrong_calls_end_in_one_line(predictions, album, more, says, capsys):
    assert main(arguments(predictions, album, *more)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1


def test_inputs_are_not_written_over(predictions, album, capsys):
    before = predictions.read_text()
    for path in (predictions, album / "captions.jsonl"):
        call = ["eval", str(predictions), "--references", str(album / "captions.jsonl"), "--split", "test"]
        assert main([*call, "--per-image", str(path)]) == 2
        assert "must not be written over" in capsys.readouterr().err
    assert predictions.read_text() == before


def test_a_metric_asked_for_by_name_and_absent_is_a_failure(
    predictions, album, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(arguments(predictions, album, "--metrics", "meteor,bleu")) == 2
    out, err = capsys.readouterr()
    assert "BLEU-4" in out
    assert "METEOR is absent: METEOR needs Java" in err


def test_splits_must_be_named_and_references_given(predictions, album, capsys):
    assert main(["eval", str(predictions), "--references", str(album)]) == 2
    assert "holds the splits test, train: name one with --split" in capsys.readouterr().err
    assert main(["eval", str(predictions)]) == 2
    assert "bring no references" in capsys.readouterr().err


def test_a_partial_set_is_refused_unless_asked_for_and_then_marked(predictions, album, capsys):
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:2]))
    assert main(arguments(predictions, album)) == 2
    assert "2 images have no caption: 2.png, 3.png" in capsys.readouterr().err
    assert main(arguments(predictions, album, "--partial")) == 0
    out, err = capsys.readouterr()
    assert "partial:2 of 4 images" in out
    assert "figures of other sets do not compare" in err


def compared(album, tmp_path, preset, *systems, **more):
    compare = script("compare")
    compare.main(
        compare.Config(
            systems=list(systems),
            references=str(album),
            split="test",
            images=[str(album)],
            training=str(album),
            baselines_of=preset,
            clipscore_model=preset,
            metrics=["bleu", "cider_d", "lengths"],
            keep=str(tmp_path / "kept"),
            resamples=50,
            **more,
        )
    )


def test_one_command_compares_captioners_files_and_baselines(preset, album, predictions, tmp_path, capsys):
    files = {kind: str(tmp_path / f"out.{kind}") for kind in ("csv", "markdown", "html")}
    compared(album, tmp_path, preset, f"ours={preset}", f"theirs={predictions}", **files)
    table = capsys.readouterr().out
    for name in (
        "ours",
        "theirs",
        "best constant caption",
        "contrastive search",
        "nearest caption",
        "consensus of 30",
    ):
        assert name in table
    rows = list(csv.DictReader(Path(files["csv"]).read_text().splitlines()))
    assert {row["metric"] for row in rows} >= {"BLEU-4", "CIDEr-D", "CLIPScore", "RefCLIPScore"}
    assert "|model:" in rows[0]["signature"]
    assert '"kind": "magic"' in rows[0]["signature"]
    page = Path(files["html"]).read_text()
    assert WORDS[3] in page
    assert "| system |" in Path(files["markdown"]).read_text()


def test_a_stopped_comparison_goes_on_where_it_was(preset, album, tmp_path, capsys, monkeypatch):
    compared(album, tmp_path, preset, f"ours={preset}")
    whole = capsys.readouterr().out
    kept = next((tmp_path / "kept").glob("ours-*.jsonl"))
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    kept.write_text("".join(lines[:2]) + lines[2][:20])  # stopped while writing the third

    captioned = []
    from magicap import Captioner

    caption = Captioner.caption
    monkeypatch.setattr(
        Captioner, "caption", lambda self, images, *a, **k: caption(self, watched(images, captioned), *a, **k)
    )
    compared(album, tmp_path, preset, f"ours={preset}")
    assert capsys.readouterr().out == whole
    assert kept.read_text() == "".join(lines)
    assert len(captioned) == 2  # the baselines were kept whole


FORMER_TEXTS = [
    (MagicSearch(), "MagicSearch(top_k=45, alpha=0.1, beta=2.0, max_new_tokens=15, prompted=False)"),
    (
        BeamMagicSearch(num_finished=7, num_hypotheses=3),
        "BeamMagicSearch(top_k=45, beam_size=10, finished=7, memory_weight=0.5, image_weight=None, "
        "fit_weight=0.0, neighbours=200, temperature=2.0, max_new_tokens=20, include=(), exclude=(), "
        "min_words=0, max_words=None, prompted=False)",
    ),
    (Greedy(), "Greedy(max_new_tokens=15)"),
    (BeamSearch(), "BeamSearch(beam_size=3, length_penalty=1.0, max_new_tokens=20)"),
]


@pytest.mark.parametrize(("decoding", "text"), FORMER_TEXTS, ids=lambda value: type(value).__name__)
def test_captions_kept_by_the_former_release_are_taken(decoding, text, tmp_path):
    """Its files were named for a decoding's ``str``, under the names that settings had then."""

    class Stub:
        fingerprint = "0123456789ab"

        def steered_by(self, decoding):
            return "ba9876543210"

        def caption(self, images, *rest, **more):
            assert list(images) == []
            return []

    images = ["0.png", "1.png"]
    key = json.dumps([Stub.fingerprint, text, "0", *images])
    digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
    kept = tmp_path / f"ours-{digest}.jsonl"
    kept.write_text("".join(json.dumps({"image": n, "caption": f"caption of {n}"}) + "\n" for n in images))
    system = caption_images("ours", Stub(), decoding, images, None, keep=tmp_path)
    assert system.captions == ["caption of 0.png", "caption of 1.png"]
    assert list(tmp_path.iterdir()) == [kept]
    written = json.loads(system.about["decoding"])
    table = DECODINGS if written["kind"] in DECODINGS else SUPERVISED_DECODINGS
    assert from_dict(written, table) == decoding
    assert list(written) == sorted(written)


def test_a_decoding_of_ones_own_is_known_by_its_repr():
    @dataclass(frozen=True)
    class Shortest:
        count: int = 3

    assert decoding_text(Shortest()).endswith("Shortest(count=3)")


def watched(images, seen):
    for image in images:
        seen.append(image)
        yield image


def test_kept_captions_of_other_images_stay(preset, album, tmp_path, capsys):
    compared(album, tmp_path, preset, f"ours={preset}")
    before = {path: path.read_text() for path in (tmp_path / "kept").iterdir()}
    compared(album, tmp_path, preset, f"ours={preset}", limit=2)
    compared(album, tmp_path, preset, f"ours={preset}", seed=1)
    after = {path: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert len(after) == 3 * len(before)
    assert before.items() <= after.items()
    assert "partial:2 of 4 images" not in capsys.readouterr().err


def test_a_supervised_captioner_compares_as_any_other(preset, supervised, album, tmp_path, capsys):
    compared(album, tmp_path, preset, f"zero-shot={preset}", f"trained={supervised}")
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"zero-shot", "trained", "nearest caption (baseline)"} <= set(names)
    kept = [path for path in (tmp_path / "kept").iterdir() if path.name.startswith("trained")]
    made_by = json.loads(json.loads(kept[0].read_text().splitlines()[0])["decoding"])
    assert made_by["kind"] == "beam"


@pytest.mark.parametrize(
    ("role", "part"), [("baselines_of", "language model"), ("clipscore_model", "scorer")]
)
def test_baselines_and_clipscore_need_a_zero_shot_captioner(supervised, predictions, role, part):
    compare = script("compare")
    with pytest.raises(BadModel, match=f"expected a captioner with a {part}, found .* name a zero-shot"):
        compare.Config(systems=[f"a={predictions}"], **{role: supervised})


def test_files_compare_without_pictures_or_models(predictions, album, tmp_path, capsys):
    compare = script("compare")
    config = compare.Config(
        systems=[f"a={predictions}"], references=str(album), split="test", metrics=["bleu"]
    )
    compare.main(config)
    out, err = capsys.readouterr()
    assert "BLEU-4" in out
    assert "no baselines" in err


def test_published_lists_of_different_extent_compare_only_when_asked(album, tmp_path, capsys):
    compare = script("compare")
    rows = [
        {"split": "test", "image_name": f"{i}.png", "captions": [t], "prediction": t}
        for i, t in enumerate(WORDS)
    ]
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    whole.write_text(json.dumps(rows))
    part.write_text(json.dumps(rows[:3]))
    systems = [f"whole={whole}", f"part={part}"]
    with pytest.raises(ValueError, match=r"1 images have no caption: 3\.png"):
        compare.main(compare.Config(systems=systems, metrics=["bleu"]))
    compare.main(compare.Config(systems=systems, metrics=["bleu"], partial=True, csv=str(tmp_path / "f.csv")))
    assert "n = 3" in capsys.readouterr().out
    assert "partial:3 of 4 images" in (tmp_path / "f.csv").read_text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"systems": ["magic"]}, "NAME=FILE or NAME=PRESET"),
        ({"systems": ["=x"]}, "NAME=FILE or NAME=PRESET"),
        ({"systems": ["a=README.md", "a=setup"]}, "'a' twice"),
        ({"systems": ["a=typo.jsonl"]}, "expected a file, a captioner's folder or embedded"),
        ({"systems": ["a=embedded"], "limit": 0}, "--limit must be at least 1"),
        ({"systems": ["a=embedded"], "metrics": ["cider"]}, "no metric 'cider'"),
        ({"systems": ["a=embedded"], "html": "/no/such/report.html"}, "cannot be written"),
    ],
)
def test_wrong_comparisons_are_refused_before_any_work(settings, says, monkeypatch):
    compare = script("compare")
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=says):
        compare.main(compare.Config(**settings))


def test_files_with_other_references_or_strangers_do_not_compare(tmp_path):
    compare = script("compare")
    rows = [
        {"image_name": f"{i}.png", "captions": [text], "prediction": text} for i, text in enumerate(WORDS)
    ]
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    other = [{**row, "captions": ["something else"]} for row in rows]
    stranger = {"image_name": "z.png", "captions": ["z"], "prediction": "z"}
    for path, content in zip(paths, (rows, other, [*rows, stranger]), strict=True):
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="bring different references"):
        compare.main(compare.Config(systems=[f"a={paths[0]}", f"b={paths[1]}"], metrics=["bleu"]))
    with pytest.raises(ValueError, match=r"images without references: z\.png"):
        compare.main(compare.Config(systems=[f"a={paths[0]}", f"c={paths[2]}"], metrics=["bleu"]))


def test_language_models_are_evaluated_beside_an_n_gram_of_their_tokens(preset, album, capsys):
    evaluation = script("language_models")
    text = str(album / "captions.jsonl")
    evaluation.main(
        evaluation.Config(validation_text=text, split="test", text=[text], presets=[preset], order=3)
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "test, n = 8 sentences, 4 for the n-grams"
    bits = {line.rsplit(maxsplit=1)[0].rstrip(): float(line.rsplit(maxsplit=1)[1]) for line in lines[2:]}
    neural, ngrams = bits.values()
    assert 0 < ngrams < neural  # random weights know less than four sentences
    with pytest.raises(SystemExit, match="no captions of the split"):
        evaluation.main(evaluation.Config(validation_text=text, split="dev"))


def test_decodings_are_tried_in_every_asked_combination(album, preset, capsys):
    trial = script("evaluate_decodings")
    trial.main(
        trial.Config(
            captions=str(album / "captions.jsonl"),
            images=[str(album)],
            split="test",
            preset=preset,
            decodings=["greedy"],
            betas=[0.5, 2.0],
            top_ks=[2, 3],
        )
    )
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("|")[1].strip() for line in lines[3:]]
    assert lines[0].endswith("test, n = 4, seed 0")
    assert names == ["greedy", *(f"magic k={k} a=0.2 b={b}" for k in (2, 3) for b in ("0.5", "2"))]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_learning_curves_are_drawn_from_logs(tmp_path, suffix):
    curves = script("learning_curves")
    rows = [
        {"step": 20, "seconds": 60, "loss": 3.0},
        {"step": 20, "seconds": 61, "validation": {"r1": 5.0}},
        {"step": 40, "seconds": 120, "validation": {"r1": 70.0}},  # logged again after a kill
        {"step": 30, "seconds": 90, "validation": {"r1": 9.0}},
        {"step": 40, "seconds": 125, "loss": 2.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["step"] for row in curves.read_log(tmp_path)] == [20, 20, 30, 40]
    out = tmp_path / f"curve.{suffix}"
    config = curves.Config([f"a={tmp_path}", str(tmp_path)], ["loss", "r1"], str(out))
    curves.main(config)
    first = out.read_bytes()
    assert len(first) > 2000
    curves.main(config)
    assert out.read_bytes() == first
    with pytest.raises(SystemExit, match="no run has logged 'r5'; they have loss, r1"):
        curves.main(curves.Config([str(tmp_path)], ["r5"], str(out)))
    with pytest.raises(SystemExit, match=r"log\.jsonl, which training writes; found none"):
        curves.main(curves.Config([str(tmp_path / "nowhere")], ["loss"], str(out)))


def test_images_whose_captions_are_known_can_be_left_out(predictions, album, tmp_path, capsys):
    compare, known = script("compare"), tmp_path / "known.txt"
    rows = [json.loads(line) for line in (album / "captions.jsonl").read_text().splitlines()]
    test_rows = [row for row in rows if row["split"] == "test"]
    known.write_text(test_rows[0]["captions"][0])
    settings = {
        "systems": [f"ours={predictions}"],
        "references": str(album / "captions.jsonl"),
        "split": "test",
        "metrics": ["bleu"],
        "unseen": True,
    }
    compare.main(compare.Config(**settings, training=str(known), csv=str(tmp_path / "figures.csv")))
    assert f"{len(test_rows) - 1} images, no reference of which" in (tmp_path / "figures.csv").read_text()
    with pytest.raises(ValueError, match="--unseen leaves out what stands in --training"):
        compare.main(compare.Config(**settings))
    known.write_text("\n".join(row["captions"][0] for row in test_rows))
    with pytest.raises(ValueError, match="every image has a reference"):
        compare.main(compare.Config(**settings, training=str(known)))


def test_styled_captions_are_distinguished_from_factual_ones(tmp_path, capsys):
    style = script("style")
    things = ["dog", "man", "child", "car", "boat", "tree", "house", "girl", "boy", "cat"]
    rows = [
        {"silly": f"A {one} dreams of a {other}.", "factual": [f"A {one} near a {other}.", f"A {other}."]}
        for one in things
        for other in things
    ]
    path, said = tmp_path / "style.jsonl", tmp_path / "said.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    said.write_text("\n".join(json.dumps({"caption": f"A {word} dreams of snow."}) for word in things))
    style.main(style.Config(style=str(path), key="silly", captions=[f"ours={said}"]))
    out = capsys.readouterr().out
    assert "silly: 80 rows read, 20 held out, seed 0" in out
    assert "100.0 % of styled and 100.0 % of factual sentences" in out
    assert "ours: 100.0 % of 10 read as silly" in out
    with pytest.raises(SystemExit, match="no row has the keys"):
        style.main(style.Config(style=str(path), key="sad"))
