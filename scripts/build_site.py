"""Builds the documentation site from docs/: links to code become its path, everything else is Zensical's.

python scripts/build_site.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PREPARED = ROOT / "build" / "docs"
_CODE_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def prepared(page: str) -> str:
    """A page as the site has it: what lies outside docs/ is named, not linked."""

    def named(link: re.Match[str]) -> str:
        text, target = link[1].strip("`"), link[2].removeprefix("../").partition("#")[0]
        return f"`{target}`" if text in target else f"{link[1]} (`{target}`)"

    return _CODE_LINK.sub(named, page)


def main() -> int:
    """Prepare the pages and build; the exit code is Zensical's."""
    shutil.rmtree(PREPARED, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PREPARED)
    for page in PREPARED.glob("*.md"):
        page.write_text(prepared(page.read_text(encoding="utf-8")), encoding="utf-8")
    program = Path(sys.executable).with_name("zensical")
    return subprocess.run([program, "build", "--clean"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
