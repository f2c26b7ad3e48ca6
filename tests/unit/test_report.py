"""The report: one page that loads nothing, leaks nothing it should not, and works in a real browser."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from magicap.errors import BadSettings, ImageNotFound, MissingPackage
from magicap.evaluation.comparison import System, compare
from magicap.evaluation.report import html_report
from magicap.evaluation.tables import comparison_notes, comparison_table
from magicap.metrics.score import Score
from magicap.metrics.suite import Report

HOSTILE = [
    "</script><script>document.documentElement.dataset.owned = 1</script>",
    '"><img src=x onerror="document.documentElement.dataset.owned = 2">',
    "<!--<script> ${1} $title \\u003c `' \u2028\u2029 &amp; \x00",
    "a dog 🐕 كلب\u202e txet \ud800 and\nlines\n\n",
    "long " * 2000,
    "",
]


def report(cider, words=None, **signature):
    cider = np.array(cider, dtype=float)
    words = np.array(words if words is not None else [5] * len(cider), dtype=float)
    said = {"metric": "CIDEr-D", "split": "test", **signature}
    scores = [
        # Not Score.mean, which refuses what is no number.
        Score(
            "CIDEr-D", float(cider.mean()), cider, np.stack([cider, np.ones_like(cider)], 1), signature=said
        ),
        Score.mean("words", words, said, percent=False),
        Score.count("vocabulary", 12, said),
    ]
    return Report({score.name: score for score in scores}, {"spice": "no java <here>"})


def small(texts=None, **settings):
    """Three images, two systems; the second image divides them most, then the third."""
    names = ["b.jpg", "a.jpg", "c.jpg"]
    references = [["a dog runs", "one dog"], ["a cat sleeps"], ["secret reference"]]
    systems = [
        System("magic", texts or ["a dog runs", "a car", "a bird"]),
        System("constant", ["same caption"] * 3, baseline=True),
    ]
    reports = [report([1.0, 2.0, 0.5]), report([0.9, 0.0, 1.5], caption="same caption")]
    return compare("title", names, references, systems, reports, against="magic", resamples=50, **settings)


def picture(name):
    if name == "a.jpg":
        raise ImageNotFound(name)
    if name == "c.jpg":
        return b"<html>not found</html>"
    out = io.BytesIO()
    Image.new("RGB", (400, 300), "red").save(out, format="PNG")
    return out.getvalue()


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def data_of(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )


def test_the_page_loads_nothing_and_forbids_loading():
    page = html_report(small(), picture)
    policy = next(a["content"] for _, a in Tags(page).found if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, attributes in Tags(page).found:
        assert tag not in {"link", "iframe", "object", "base"}
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|https?://", page)


def test_every_id_is_there_once():
    ids = [attributes["id"] for _, attributes in Tags(html_report(small())).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_comparison_gives_the_same_page():
    assert html_report(small(), picture) == html_report(small(), picture)


def test_pictures_are_small_jpegs_or_reasons():
    first, second, third = data_of(html_report(small(), picture, thumbnail=80))["pictures"]
    assert first["size"] == [80, 60]
    assert first["jpeg"].startswith("/9j/")
    assert second == {"why": "no picture of that name"}
    assert third["why"].startswith("cannot be read: text")
    assert data_of(html_report(small()))["pictures"] is None
    with pytest.raises(BadSettings, match="thumbnail"):
        html_report(small(), thumbnail=0)


def test_figures_are_marked_in_words_and_best_ones_bold():
    page = html_report(small())
    cells = re.findall(r"<tr.*?</tr>", page)
    assert '<b title="highest">116.67</b>' in cells[1]
    assert "<td>" not in cells[1]
    assert '<span class="tag">baseline</span>' in cells[2]
    assert "no java &lt;here&gt;" in page
    worse = compare(
        "t", ["i"] * 40, [["r"]] * 40, [System("x", ["y"] * 40), System("z", ["y"] * 40)],
        [report([2.0] * 40), report([1.0] * 40, [9] * 40)], against="x", resamples=100,
    )  # fmt: skip
    page = html_report(worse)
    assert '▼<span class="unseen"> worse by</span> -100.00, p = 0.0' in page
    assert '▲<span class="unseen"> higher by</span> +4.00' in page
    assert 'title="highest">9' not in page


def test_figures_by_the_scorer_that_steered_the_captions_say_so_in_page_and_table():
    reports = [
        report([1.0] * 3, scorer="a1", steered_by="a1+b2", cut="1 of 3 captions"),
        report([1.0] * 3, scorer="a1", steered_by="c3"),
    ]
    systems = [System("own", ["x"] * 3), System("other", ["x"] * 3)]
    judged = compare("t", list("abc"), [["r"]] * 3, systems, reports, against="other", resamples=5)
    own, other = re.findall(r"<tr.*?</tr>", html_report(judged))[1:3]
    assert "rated by the scorer that steered" in own
    assert "1 of 3 captions are longer" in own
    assert "rated by" not in other
    assert "100.00*" in comparison_table(judged)[1][0][1]
    assert "* CIDEr-D of own: rated by the scorer" in comparison_notes(judged)


def test_hostile_texts_never_become_markup():
    name = '<i>magic</i> "$x$" url(#p) font-family: x 🐕\n'
    texts, n = HOSTILE, len(HOSTILE)
    rows = [System(name, texts), System("other", texts, about={"<i>": "<i>"})]
    reports = [report([1.0] * n, caption=text) for text in texts[:2]]
    page = html_report(
        compare(
            texts[0], [f"{i}{t[:60]}" for i, t in enumerate(texts)], [texts] * n, rows, reports, against=name
        )
    )
    page.encode("utf-8")
    assert data_of(page)["systems"][0]["captions"] == [text.replace("\ud800", "?") for text in texts]
    assert page.count("<script") == 2
    assert not [tag for tag, _ in Tags(page).found if tag in {"i", "img"}]


def test_without_the_grid_no_caption_or_reference_leaves():
    page = html_report(small(), picture, grid=False)
    for text in ("a dog runs", "a cat", "secret", "same caption", "b.jpg", "base64,/9j"):
        assert text not in page
    assert "caption:(left out)" in page
    assert "<svg" in page


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 10.0])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, of what is no number
def test_degenerate_figures_are_drawn(value, n):
    systems = [System(f"s{i}", [""] * n) for i in range(12)]
    reports = [report([value] * n, [0] * n) for _ in systems]
    reports[3].scores["CIDEr-D"] = Score.count("CIDEr-D", 1, {}, percent=True)
    names = [f"{i}" for i in range(n)]
    page = html_report(compare("t", names, [[]] * n, systems, reports, against="s0", resamples=20))
    assert page.count("<svg") == 3
    assert data_of(page)["systems"][0]["figures"]["CIDEr-D"][0] == (
        100 * value if np.isfinite(value) else None
    )


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=re.escape("magicap[eval]")):
        html_report(small())


@pytest.fixture
def browse(tmp_path):
    """Opens a page in a real browser and gives what it made of it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no chromium on the PATH")

    def open_page(page, fragment=""):
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        flags = "--headless=new --no-sandbox --disable-gpu --virtual-time-budget=5000 --enable-logging=stderr"
        command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        done = subprocess.run(
            [*command, path.as_uri() + fragment],
            capture_output=True,
            timeout=60,
            check=True,
            encoding="utf-8",
        )
        assert "CONSOLE" not in done.stderr
        root = done.stdout[: done.stdout.index("<head>")]
        assert "data-error" not in root
        assert "data-owned" not in root
        return done.stdout

    return open_page


def shown(dom):
    return re.findall(r'<article class="[^"]*" data-name="([^"]*)"', dom)


def test_a_browser_shows_most_disagreement_first(browse):
    dom = browse(html_report(small(), picture))
    assert shown(dom) == ["a.jpg", "c.jpg", "b.jpg"]
    assert "200.0 apart" in dom
    assert "page 1 of 1" in dom
    assert '<span class="new" title="in no reference">car</span>' in dom
    assert "no picture of that name" in dom


@pytest.mark.parametrize(
    ("fragment", "names"),
    [
        ("#sort=name", ["a.jpg", "b.jpg", "c.jpg"]),
        ("#sort=system%3Aconstant&order=asc", ["a.jpg", "b.jpg", "c.jpg"]),
        ("#sort=system%3Amagic", ["a.jpg", "b.jpg", "c.jpg"]),
        ("#sort=given&order=desc&hide=constant&find=A+REFERENCE", ["c.jpg"]),
        ("#sort=nonsense&page=99&order=%22", ["a.jpg", "c.jpg", "b.jpg"]),
    ],
)
def test_the_fragment_holds_the_view(browse, fragment, names):
    dom = browse(html_report(small()), fragment)
    assert shown(dom) == names
    assert ('data-system="constant"' in dom) == ("hide" not in fragment)


def test_a_browser_shows_hostile_texts_as_text(browse):
    n = len(HOSTILE)
    rows = [System(HOSTILE[1], HOSTILE), System("other", HOSTILE)]
    reports = [report([1.0] * n), report([0.5] * n)]
    names = [f"{i}{text[:50]}" for i, text in enumerate(HOSTILE)]
    dom = browse(
        html_report(compare(HOSTILE[0], names, [["a"]] * n, rows, reports, against="other", resamples=20))
    )
    assert len(shown(dom)) == n
    said = re.search(r'<span class="text" dir="auto">(.*?)</li>', dom, re.DOTALL)[1]
    text = html.unescape(re.sub(r"<[^>]*>", "", said.rpartition('<span class="figure')[0]))
    assert text == HOSTILE[0]
    assert "<img" not in re.sub(r'"[^"]*"', "", dom)


def test_two_thousand_images_open_in_pages(browse):
    n = 2000
    scores = np.linspace(0, 1, n)
    rows = [System(name, [f"caption {i} of {name}" for i in range(n)]) for name in "pq"]
    names = [f"{i}.jpg" for i in range(n)]
    reports = [report(scores), report(scores[::-1])]
    page = html_report(compare("t", names, [["r"] * 5] * n, rows, reports, against="p", resamples=20))
    dom = browse(page, "#sort=system%3Ap&order=asc&page=40")
    assert shown(dom) == names[1950:]
    assert "2000 images · page 40 of 40" in dom
