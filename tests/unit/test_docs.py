"""The pages: what is generated is current, links lead somewhere, the site builds, the notebook runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reference_pages import GROUPS, PAGES, public_names
from repository import DOCS, ROOT

TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted((ROOT / "magicap").glob("*/README.md")),
    ROOT / "space" / "README.md",
]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that headings of a page get."""
    headings = _HEADING.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_pages_are_current(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == PAGES[page](), "run make docs"


def test_every_public_name_stands_in_the_reference() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(public_names())


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for found in _LINK.findall(text):
        target, _, anchor = (found[0] or found[1]).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = page if not target else page.parent / target
        if not place.exists():
            broken.append(target)
        elif anchor and anchor not in anchors(place.read_text(encoding="utf-8")):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_every_page_stands_in_the_site() -> None:
    listed = set(re.findall(r'"(\w+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"sample.md"}


@pytest.mark.slow
def test_the_site_builds_without_a_complaint() -> None:
    built = subprocess.run(
        [sys.executable, "scripts/build_site.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stdout + built.stderr
    pages = [ROOT / "site" / page.stem / "index.html" for page in DOCS.glob("*.md") if page.stem != "index"]
    assert all(page.is_file() for page in pages)
    text = (ROOT / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="https?://[^"]+\.(js|css|woff2?)"', text)  # nothing is fetched


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    notebook = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = "import matplotlib\nmatplotlib.use('agg')\ndef display(*_): pass\n"
    ended = subprocess.run(
        [sys.executable, "-c", shown + "\n".join(cells)],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
