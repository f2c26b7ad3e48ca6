"""The service's page in a real browser, over a service as a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from browser import chromium, faults_of, serious
from served import png, serving

from magicap import BeamMagicSearch, CaptionMemory
from magicap.models.fine_grained.scorer import FineGrainedScorer

pytestmark = pytest.mark.slow

GIVE = """async ([url, kind]) => {
  const data = new DataTransfer();
  data.items.add(new File([await (await fetch(url)).blob()], "given.jpg", { type: "image/jpeg" }));
  const how = { dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true };
  document.dispatchEvent(kind === "drop" ? new DragEvent(kind, how) : new ClipboardEvent(kind, how));
}"""
WIDTHS = (360, 1400)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, supervised: str) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    captioner = tiny.captioner(max_new_tokens=6)
    FineGrainedScorer(captioner.scorer).save_pretrained(folder / "fine")
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, tiny.SENTENCES)
    captioner.decoding = BeamMagicSearch(max_new_tokens=20, neighbours=4, beam_size=3)
    captioner.save_pretrained(folder / "tiny", fine_grained=folder / "fine")
    with serving("--preset", str(folder / "tiny"), "--preset", supervised) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """The page at a phone's width and at a desk's, which complains of nothing while it is used."""
    context = browser.new_context(viewport={"width": request.param, "height": 800}, accept_downloads=True)
    page = context.new_page()
    faults = faults_of(page)
    page.goto(address)
    page.wait_for_selector("#search", state="attached")
    yield page
    assert not faults
    context.close()


def captioned(page: Any) -> str:
    page.wait_for_selector("#caption .word")
    return str(page.inner_text("#announce"))


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_dropped_picture_is_captioned(page: Any) -> None:
    assert not serious(page)
    page.evaluate(GIVE, ["page/examples/cat.jpg", "drop"])
    assert captioned(page).startswith("Caption:")
    page.wait_for_selector("#supervised-caption .word")
    assert not serious(page)
    assert fits(page)
    page.focus("#caption .word")
    page.wait_for_selector("#stage .heat.on")
    page.focus("#supervised-caption .word")
    page.wait_for_selector("#supervised-stage .heat.on")


def test_magic_search_comes_word_by_word(page: Any) -> None:
    page.evaluate(GIVE, ["page/examples/coffee.jpg", "paste"])
    captioned(page)
    if not page.is_visible("#search"):
        page.click("#settings summary")
    page.select_option("#search", "magic")
    page.wait_for_selector(".chip")
    captioned(page)
    steps = page.locator(".chip").count()
    assert steps > 1
    page.focus(".chip[aria-selected=true]")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".candidates .chosen").count() == 1
    assert not serious(page)
    assert fits(page)


def test_a_slider_captions_anew(page: Any) -> None:
    page.click("#examples button >> nth=0")
    captioned(page)
    if not page.is_visible("#search"):
        page.click("#settings summary")
    with page.expect_response("**/v1/captions/stream") as answer:
        page.focus("#set-beam_size")
        page.keyboard.press("ArrowRight")
    assert answer.value.status == 200
    captioned(page)
    with page.expect_download() as download:
        page.click("#download")
    kept = json.loads(Path(download.value.path()).read_text())
    assert kept["start"]["decoding"]["beam_size"] == 4
    assert kept["hypotheses"]


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(30):
        if page.evaluate("document.activeElement.closest('#examples') !== null"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    captioned(page)
    assert page.locator("#history li").count() == 1


def test_a_broken_picture_is_said_and_can_be_tried_again(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png()[:90]})
    page.wait_for_selector("#problem:visible")
    assert "cut short" in page.inner_text("#problem-text")
    assert page.is_visible("#again")
    assert not serious(page)


def test_a_token_is_asked_for(browser: Any, preset: str) -> None:
    with serving("--preset", preset, "--token", "sesame") as (address, _):
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#token-form:visible")
        page.fill("#token", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#search", state="attached")
        assert not page.is_visible("#problem")
        page.close()
