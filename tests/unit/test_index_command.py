"""``magicap index`` and ``magicap search``: what goes to stdout and stderr, the exit code, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny
from PIL import Image

from magicap.cli import main
from magicap.models.scorer import ImageTextScorer

HOSTILE = [
    "</title><script>document.documentElement.dataset.owned = 1</script>",
    '"><img src=x onerror="document.documentElement.dataset.owned = 2">',
    "${1} $query \\u003c `' \u2028\u2029 &amp; dogs",
    "a dog 🐕 كلب\u202e txet and\nlines",
]


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Four pictures in a folder, which the folder we are in holds."""
    (tmp_path / "album" / "below").mkdir(parents=True)
    for name, picture in zip(["1.png", "2.png", "10.png", "below/3.jpg"], tiny.pictures(4), strict=True):
        Image.fromarray(picture).save(tmp_path / "album" / name)
    (tmp_path / "album" / "notes.txt").write_text("not a picture")
    (tmp_path / "sentences.txt").write_text(
        "a dog runs .\nA red car.\n\nTwo children on a beach\na dog runs\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "album"


@pytest.fixture
def run(preset, capsys):
    """Runs a command that must end with a code; gives stdout and stderr."""

    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        return out, err

    return run


@pytest.fixture
def indexed(album, preset, run):
    run("index", "album", "--preset", preset)
    return album


@pytest.fixture
def encoded(monkeypatch):
    """The names of pictures that were encoded since."""
    seen = []
    pixels = ImageTextScorer.pixels
    monkeypatch.setattr(
        ImageTextScorer,
        "pixels",
        lambda scorer, path: (seen.append(os.path.basename(path)), pixels(scorer, path))[1],
    )
    return seen


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_folder_is_indexed_inside_itself_and_a_second_run_encodes_nothing(album, preset, run, encoded):
    out, err = run("index", "album", "--preset", preset)
    assert out == "album/.magicap-index: 4 pictures (4 new, 0 unchanged, 0 dropped)\n"
    assert err == ""
    assert encoded == ["1.png", "2.png", "10.png", "3.jpg"]
    encoded.clear()
    (album / "2.png").unlink()
    out, _ = run("index", "album")  # with the preset that made it
    assert out == "album/.magicap-index: 3 pictures (0 new, 3 unchanged, 1 dropped)\n"
    assert encoded == []
    run("index", "album", "--rebuild", "--preset", preset)
    assert len(encoded) == 3


def test_all_directions_agree_with_the_scorer(indexed, preset, run):
    scorer = ImageTextScorer.from_pretrained(f"{preset}/scorer")
    paths = ["album/1.png", "album/2.png", "album/10.png", "album/below/3.jpg"]
    sentences = ["A dog runs.", "A red car.", "Two children on a beach."]
    cosine = scorer.similarity(paths, sentences)

    rows = rows_of(run("search", "A red car.", "--index", "album", "--json")[0])
    assert [row["image"] for row in rows] == [paths[i] for i in cosine[:, 1].argsort(descending=True)]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["cosine"] == pytest.approx(float(cosine[:, 1].max()), abs=1e-4)
    assert rows[0]["query"] == "A red car."

    rows = rows_of(run("search", "album/10.png", "--index", "album", "--json", "--top", 2)[0])
    assert rows[0]["image"] == "album/10.png"
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert len(rows) == 2

    out, _ = run("index", "sentences.txt", "--preset", preset)
    assert out == "sentences.txt.magicap-index: 3 sentences (3 new, 0 unchanged, 0 dropped)\n"
    rows = rows_of(run("search", "album/2.png", "--index", "sentences.txt", "--json")[0])
    assert [row["text"] for row in rows] == [sentences[i] for i in cosine[1].argsort(descending=True)]


def test_a_sentence_is_found_however_it_is_spaced_and_ended(album, preset, run):
    run("index", "sentences.txt", "--preset", preset)
    first = Path("sentences.txt").read_text(encoding="utf-8").splitlines()[0]
    for query in (first, first.rstrip(".") + " .", "  " + first.rstrip(".")):
        best = rows_of(run("search", query, "--index", "sentences.txt", "--json")[0])[0]
        assert best["cosine"] == pytest.approx(1, abs=1e-5)


def test_the_table_has_rank_cosine_and_a_path_that_opens_from_here(indexed, run, monkeypatch):
    header, *rows = run("search", "a dog", "--index", "album", "--top", 3)[0].splitlines()
    assert header.split() == ["rank", "cosine", "image"]
    for rank, row in enumerate(rows, start=1):
        assert re.fullmatch(rf" +{rank}  [ -]0\.\d{{4}}  (album/\S+)", row)
        assert os.path.isfile(row.split()[2])
    monkeypatch.chdir(indexed)
    assert os.path.isfile(run("search", "a dog")[0].splitlines()[1].split()[2])


def test_paths_open_from_within_an_index_too(indexed, run, monkeypatch):
    monkeypatch.chdir(indexed / ".magicap-index")
    for index in (".", "../.magicap-index", ".."):
        rows = rows_of(run("search", "a dog", "--index", index, "--json")[0])
        assert all(os.path.isfile(row["image"]) and "missing" not in row for row in rows)


def test_pictures_may_have_an_index_json_of_their_own(album, preset, run):
    (album / "index.json").write_text("{}")
    assert "album/.magicap-index: 4 pictures" in run("index", "album", "--preset", preset)[0]
    assert len(rows_of(run("search", "a dog", "--index", "album", "--json")[0])) == 4
    os.mkdir("site")
    shutil.copy(album / "index.json", "site")
    for rebuild in ([], ["--rebuild"]):
        assert "found 'index.json' in it" in run("index", "album", "--out", "site", *rebuild, code=2)[1]


def test_a_query_is_a_picture_if_it_is_one_unless_an_option_decides(indexed, run):
    shutil.copy("album/1.png", "a dog")  # a picture by its content
    picture = rows_of(run("search", "a dog", "--index", "album", "--json")[0])
    words = rows_of(run("search", "a dog", "--text", "--index", "album", "--json")[0])
    assert picture[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert words[0]["cosine"] < 0.999
    with open("a dog", "w") as file:
        file.write("words")
    assert rows_of(run("search", "a dog", "--index", "album", "--json")[0]) == words
    assert "found text" in run("search", "a dog", "--image", "--index", "album", code=2)[1]
    assert "--text" in run("search", "album/5.png", "--index", "album", code=2)[1]


def test_failures_are_reported_and_the_others_are_indexed(album, preset, run):
    (album / "2.png").write_text("<html>404</html>")
    out, err = run("index", "album", "album/none.png", "nowhere", "--preset", preset, code=2)
    assert out == ".magicap-index: 3 pictures (3 new, 0 unchanged, 0 dropped)\n"
    lines = err.splitlines()
    assert len(lines) == 3
    for name in ("2.png", "none.png", "nowhere"):
        assert sum(f"{name}: " in line for line in lines) == 1
    assert len(rows_of(run("search", "a dog", "--json")[0])) == 3


def test_the_index_is_not_indexed_wherever_it_is(album, preset, run):
    for _ in range(2):
        out, err = run("index", "album", "--out", "album/visible", "--preset", preset)
        assert (out.split(" (")[0], err) == ("album/visible: 4 pictures", "")
    assert "no pictures found" in run("index", "album/visible", "--out", "other", code=2)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index", "empty"], "no pictures found in empty"),
        (["index", "nowhere"], "nowhere: expected a file or folder, found none"),
        (["index", "album", "sentences.txt"], "found sentences in sentences.txt and pictures in album"),
        (["index", "album", "--out", "."], "expected an index or an empty folder, found 'album'"),
        (["index", "album", "--out", "sentences.txt/x"], "cannot be written"),
        (["index", "blank.txt"], "an empty file"),
        (["index", "album", "--preset", "nosuch"], "nosuch"),
        (["search", " "], "empty query"),
        (["search", "a dog"], "no index at .magicap-index; make one with 'magicap index .'"),
        (["search", "a dog", "--index", "nowhere"], "no index at nowhere.magicap-index; make one"),
        (["search", "a dog", "--top", "0"], "--top: expected at least 1, found 0"),
        (["search", "broken.png"], "broken.png: expected a picture, found no bytes"),
    ],
)
def test_a_wrong_call_is_refused_before_any_model_is_loaded(album, run, arguments, words, monkeypatch):
    monkeypatch.setattr(ImageTextScorer, "__init__", None)
    os.mkdir("empty")
    for name in ("blank.txt", "broken.png"):
        open(name, "w").close()
    out, err = run(*arguments, code=2)
    assert out == ""
    assert words in err
    assert err.startswith("magicap: ")
    assert "Traceback" not in err


def test_another_models_index_is_refused_by_both_commands(indexed, run, tmp_path_factory):
    other = str(tmp_path_factory.mktemp("other"))
    tiny.captioner(1).save_pretrained(other)
    for command in (["index", "album"], ["search", "a dog", "--index", "album"]):
        out, err = run(*command, "--preset", other, code=2)
        assert out == ""
        assert re.fullmatch(
            r"magicap: .*expected an index by the scorer \w+, found one by \w+ .*--preset.*\n", err
        )
    out, _ = run("index", "album", "--preset", other, "--rebuild")
    assert "4 new" in out


@pytest.mark.parametrize("name", ["index.json", "items", "vectors"])
def test_a_damaged_index_is_one_sentence_and_can_be_made_anew(indexed, preset, run, name):
    path = next((indexed / ".magicap-index").glob(f"{name}*"))
    path.write_bytes(path.read_bytes()[:-20])
    _, err = run("search", "a dog", "--index", "album", code=2)
    assert re.fullmatch(r"magicap: .*damaged.*--rebuild.*\n", err)
    assert "damaged" in run("index", "album", code=2)[1]
    assert "4 new" in run("index", "album", "--rebuild", "--preset", preset)[0]
    assert len(os.listdir(indexed / ".magicap-index")) == 3


def test_interrupted_it_keeps_what_is_encoded_and_the_next_run_goes_on(
    album, preset, run, encoded, monkeypatch
):
    encode = ImageTextScorer.encode_pixels

    def stop(scorer, pixels):
        if len(encoded) > 2:
            raise KeyboardInterrupt
        return encode(scorer, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTextScorer, "encode_pixels", stop)
        out, err = run("index", "album", "--preset", preset, "--batch-size", 2, code=130)
    assert (out, err) == ("", "magicap: interrupted\n")
    encoded.clear()
    out, _ = run("index", "album", "--preset", preset)
    assert encoded == ["10.png", "3.jpg"]
    assert "4 pictures (2 new, 2 unchanged, 0 dropped)" in out


def test_pictures_that_are_gone_are_marked(indexed, run):
    (indexed / "10.png").unlink()
    out, err = run("search", "a dog", "--index", "album", "--json", "--html", "sheet.html")
    assert [row["image"] for row in rows_of(out) if row.get("missing")] == ["album/10.png"]
    assert "no longer there: 1 of these pictures" in err
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert "no file at that path" in page
    assert page.count("<img ") == 3


def test_without_pyarrow_both_say_how_to_install_it_before_the_work(album, run, monkeypatch):
    monkeypatch.setattr(ImageTextScorer, "__init__", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'magicap[search]'" in run("index", "album", code=2)[1]


def test_a_data_set_gives_its_sentences_whole_or_one_split(album, preset, run):
    rows = [("a.jpg", "train", "a dog"), ("b.jpg", "test", "a cat")]
    os.mkdir("set")
    with open("set/captions.jsonl", "w") as file:
        for image, split, text in rows:
            file.write(json.dumps({"image": image, "split": split, "captions": [text]}) + "\n")
    assert "2 sentences" in run("index", "set/captions.jsonl", "--preset", preset)[0]
    out, _ = run("index", "set", "--sentences", "--split", "test", "--preset", preset)
    assert out.startswith("set/.magicap-index: 1 sentence (")
    assert rows_of(run("search", "a dog", "--index", "set", "--json")[0])[0]["text"] == "A cat."
    shutil.copy("album/1.png", "set")
    assert "expected an index of pictures, found one of sentences" in run("index", "set", code=2)[1]


class Page(HTMLParser):
    """Tags with their attributes, and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def sheets(album, preset, run):
    """Pages of pictures and sentences with names, sentences and queries that try to be markup."""
    for number, name in enumerate(HOSTILE):
        with open("hostile.txt", "a") as file:
            file.write(name.replace("\n", " ") + "\n")
        if "/" not in name:
            shutil.copy(album / "1.png", album / f"{name}{number}.png")
    run("index", "album", "--preset", preset)
    run("index", "hostile.txt", "--preset", preset)
    pages = []
    for number, query in enumerate(HOSTILE):
        run("search", query, "--index", "album", "--html", f"{number}.html")
        run("search", query, "--index", "hostile.txt", "--html", f"t{number}.html")
        pages += [f"{number}.html", f"t{number}.html"]
    run("search", "album/1.png", "--index", "album", "--html", "picture.html")
    return [*pages, "picture.html"]


def test_the_page_is_whole_and_nothing_in_it_is_markup_that_should_not_be(sheets):
    for name in sheets:
        page = Page(Path(name).read_text(encoding="utf-8"))
        assert {tag for tag, _ in page.tags} <= {
            *("html", "head", "meta", "title", "style", "body", "h1", "bdi", "dl", "div", "dt", "dd"),
            *("ol", "li", "p", "span", "img"),
        }
        for tag, attributes in page.tags:
            assert not {key for key in attributes if key.startswith("on")}
            assert tag != "img" or attributes["src"].startswith("data:image/jpeg;base64,")
        assert "$" not in page.text.replace("${1} $query", "")
    texts = Page(Path("t0.html").read_text(encoding="utf-8")).text
    assert "<script>" in texts
    of_picture = Page(Path("picture.html").read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in of_picture.tags) == 8


def test_a_browser_runs_nothing_of_it(sheets, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium on the PATH")
    flags = "--headless=new --no-sandbox --disable-gpu --virtual-time-budget=5000 --enable-logging=stderr"
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    address = (tmp_path / sheets[2]).as_uri()
    done = subprocess.run([*command, address], capture_output=True, timeout=120, check=True, encoding="utf-8")
    assert "CONSOLE" not in done.stderr
    assert "data-owned" not in done.stdout
    assert done.stdout.count("<img ") >= 4


def test_a_page_is_refused_where_it_would_write_over_the_query(indexed, run):
    assert (
        "must not be written over"
        in run("search", "album/1.png", "--index", "album", "--html", "album/1.png", code=2)[1]
    )
    assert "cannot be written" in run("search", "a dog", "--index", "album", "--html", "no/where", code=2)[1]


def test_help_needs_no_model_library():
    program = (
        "import sys; from magicap.cli import main\n"
        "try: main(['search', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--html" in done.stdout
