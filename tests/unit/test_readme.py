"""What the README and the pages of docs/ show is run as it stands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import timm
from command import magicap
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from pyarrow import parquet
from repository import ROOT
from safetensors.torch import save_file

from magicap import Captioner
from magicap.captioners.presets import PRESETS

NAMES = (
    "README.md docs/index.md docs/decoding.md docs/adaptation.md docs/unpaired.md docs/baseline.md "
    "docs/scale.md docs/search.md docs/evaluation.md docs/training.md docs/coming_from.md docs/faq.md"
).split()
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands(start: str) -> list[list[str]]:
    """The words of every command of the pages that starts so, continued lines joined, each once."""
    bash = [block for name in NAMES for block in blocks("bash", name)]
    lines = [
        line.partition(" #")[0].rstrip() for block in bash for line in block.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line) for line in dict.fromkeys(lines) if line.startswith(start)]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the README names, and its hub preset standing in for itself."""
    for name in ("photo.jpg", "a.jpg", "b.jpg", "c.jpg", "holiday/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / "docs" / "sample.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "coco", PRESETS["embedded"])  # this machine may have no network
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name in NAMES if blocks("python", name)])
def test_the_python_of_a_page_runs(desk, page):
    Captioner.from_pretrained().save_pretrained("mine")
    picture = Image.open("a.jpg")
    dataset = Dataset.from_dict({"image": ["a.jpg", "photo.jpg"]}).cast_column("image", ImageFeature())
    names = {"pil_image": picture, "array": np.asarray(picture), "paths": ["a.jpg"], "pictures": [picture]}
    names["dataset"] = dataset
    for block in blocks("python", page):
        exec(block, names)


@pytest.fixture
def data_set(desk) -> Path:
    """Two pictures of a test split with predictions, and two training captions, under the README's names."""
    texts = {"a.jpg": "a man stands", "b.jpg": "a man with a camera"}
    shutil.copyfile("a.jpg", "b.jpg")
    with tarfile.open("images-test.tar", "w") as tar:
        for name in texts:
            tar.add(name)
    rows = [{"image": n, "split": "test", "captions": [t, t + " outside"]} for n, t in texts.items()]
    rows += [{"image": f"train-{n}", "split": "train", "captions": [t]} for n, t in texts.items()]
    Path("captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = [
        {"filename": r["image"], "split": r["split"], "sentences": [{"raw": t} for t in r["captions"]]}
        for r in rows
    ]
    Path("dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    said = [{"image_name": n, "captions": [t], "prediction": t} for n, t in texts.items()]
    Path("predictions.json").write_text(json.dumps(said))
    return desk


@pytest.mark.slow
def test_every_recipe_of_the_readme_explains_itself():
    recipes = [words for words in commands("python recipes/") if "--help" in words]
    assert len(recipes) == len(list((ROOT / "recipes").glob("*_*.py")))
    running = [
        subprocess.Popen([sys.executable, *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for words in recipes
    ]
    for process in running:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert "--out" in out or "--only" in out  # the chain's steps have folders of their own


@pytest.mark.slow
def test_moving_to_a_domain_as_in_the_readme_gives_a_captioner(desk):
    sizes, things, places = "big small red".split(), "boat plane house".split(), "harbour field town".split()
    sentences = [f"A {a} {b} in a {c}." for a in sizes for b in things for c in places]
    Path("aerial.txt").write_text("\n".join(sentences))
    Path("flickrstyle10k.jsonl").write_text("\n".join(json.dumps({"humorous": text}) for text in sentences))
    shutil.copytree("holiday", "aerial_pictures")
    moves = [words for words in commands("python recipes/adapt_domain") if "--help" not in words]
    assert len(moves) == 3
    for words in moves[:2]:
        run([sys.executable, str(ROOT / words[1]), *words[2:], "--max_steps", "2", "--samples", "250"])
        assert "26 different sentences learned, 1 held out" in Path(words[-1], "README.md").read_text()
        assert Captioner.from_pretrained(words[-1]).caption("photo.jpg")


@pytest.mark.slow
def test_a_classifier_becomes_a_captioner_as_in_the_readme(desk):
    names = ["rose", "oak", "tulip", "fern"]
    Path("plants.txt").write_text("\n".join(names))
    about = [
        f"A {name} with {n} leaves in a {p}." for name in names for n in range(75) for p in ("pot", "wood")
    ]
    Path("about_plants.txt").write_text("\n".join(about))
    save_file(timm.create_model("mobilenetv2_100", num_classes=4).state_dict(), "plants.safetensors")
    build, assemble, adapt = (
        words
        for words in commands("python recipes/")
        if "about_plants.txt" in words and "--help" not in words
    )
    for words in (build, assemble, [*adapt, "--max_steps", "2", "--samples", "0"]):
        run([sys.executable, str(ROOT / words[1]), *words[2:]])
    assert Captioner.from_pretrained("plant-captioner").caption("photo.jpg")


@pytest.mark.slow
def test_captioning_as_in_the_readme_gives_a_line_a_picture(desk):
    Captioner.from_pretrained().save_pretrained("my-domain")
    for words in commands("magicap caption"):
        if {"--out", "--format"} & set(words):
            continue
        ended = magicap(*words[1:])
        assert ended.code == 0, ended
        lines = len(ended.out.splitlines())
        if "--min-confidence" in words:
            assert (lines < 2) == ("left out" in ended.err)
        else:
            assert lines == (2 if "holiday/" in words else 1)
    assert min(Path(name).stat().st_size for name in ("why.png", "looked.png")) > 20_000


@pytest.mark.slow
def test_reading_text_as_in_the_readme_gives_a_row_a_picture(desk):
    (words,) = commands("magicap ocr")
    ended = magicap(*words[1:])
    assert [json.loads(line)["image"] for line in ended.out.splitlines()] == ["photo.jpg", "holiday/b.jpg"]


@pytest.mark.slow
def test_stories_as_in_the_readme_have_their_sentences(desk):
    one, several, steered = commands("magicap story")
    ended = magicap(*one[1:])
    assert (ended.code, len(ended.out.splitlines())) == (0, 1)
    assert ended.out.startswith("A day out")
    told = json.loads(magicap(*several[1:]).out)
    assert [sentence["image"] for sentence in told["sentences"]] == ["photo.jpg", "a.jpg", "holiday/b.jpg"]
    ended = magicap(*steered[1:])
    assert (ended.code, ended.out.count(".")) == (0, 3)


@pytest.mark.slow
def test_many_pictures_as_in_the_readme_give_a_row_each(desk):
    for folder in ("training", "huge", "shards"):
        shutil.copytree("holiday", folder)
    with tarfile.open("shards/0.tar", "w") as tar:
        tar.add("a.jpg")
    pictures = Dataset.from_dict({"image": ["a.jpg"]}, split="train").cast_column("image", ImageFeature())
    pictures.save_to_disk("saved_dataset")
    parquet.write_table(pyarrow.table({"image": [Path("a.jpg").read_bytes()]}), "photos.parquet")
    Path("training", "b.txt").write_text("mine")
    runs = [words for words in commands("magicap caption") if {"--out", "--format"} & set(words)]
    assert len(runs) == 7
    for words in runs:
        if "captions.jsonl" in words and "holiday/" not in words:
            words = ["other.jsonl" if word == "captions.jsonl" else word for word in words]
            shutil.rmtree("other.jsonl.run", ignore_errors=True)
            Path("other.jsonl").unlink(missing_ok=True)
        ended = magicap(*words[1:])
        assert ended.code == 0, ended
        assert ": 1 row, 1 caption, 0 errors, 0 skipped" in ended.err
    assert Path("training", "b.txt").read_text().startswith("mine, a photo of sks, ")
    assert json.loads(Path("training", "metadata.jsonl").read_text())["file_name"] == "b.jpg"


@pytest.mark.slow
def test_evaluation_as_in_the_readme_gives_figures(data_set):
    assert len(commands("magicap eval")) == 1
    for words in commands("magicap eval"):
        assert "CIDEr-D" in run([sys.executable, "-m", "magicap", *words[1:]]).stdout
    compared, published = commands("python eval/")
    assert (
        "consensus of 30 nearest (baseline)"
        in run([sys.executable, str(ROOT / compared[1]), *compared[2:]]).stdout
    )
    assert Path("report.html").stat().st_size > 50_000
    assert "hard attention" in run([sys.executable, str(ROOT / published[1]), *published[2:]]).stdout


@pytest.mark.slow
def test_indexing_and_searching_as_in_the_readme_finds_something(desk):
    Path("captions.txt").write_text("A man stands.\nTwo dogs on a beach.\n")
    said = [
        run([sys.executable, "-m", "magicap", *words[1:]]).stdout.splitlines()
        for words in commands("magicap index") + commands("magicap search")
    ]
    assert [lines[0].rsplit(":", 1)[1] for lines in said[:2]] == [
        " 1 picture (1 new, 0 unchanged, 0 dropped)",
        " 2 sentences (2 new, 0 unchanged, 0 dropped)",
    ]
    assert [len(lines) for lines in said[2:]] == [0, 2, 2, 3, 2]  # no duplicates, then the matches
    assert Path("sheet.html").stat().st_size > 2000


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done
