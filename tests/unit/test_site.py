"""The documentation site in a real browser: nothing serious for axe-core, no other host asked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from browser import chromium, faults_of, serious
from repository import ROOT

pytestmark = pytest.mark.slow


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    subprocess.run([sys.executable, "scripts/build_site.py"], cwd=ROOT, check=True, capture_output=True)
    handler = partial(_Quiet, directory=str(ROOT / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_pages_can_be_read_by_all(site: str) -> None:
    with chromium() as browser:
        for width in (360, 1400):
            page = browser.new_page(viewport={"width": width, "height": 800})
            faults = faults_of(page)
            for name in ("", "results/", "decoding/", "api/", "service/"):
                page.goto(site + name)
                page.wait_for_timeout(300)  # until the theme has wrapped its tables
                assert serious(page) == [], name
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert faults == []
            page.close()
