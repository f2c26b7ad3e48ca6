"""Draws the pictures of the service's page in docs/service/, with the embedded captioner, in a browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from browser import chromium
from PIL import Image
from served import serving

FOLDER = Path(__file__).parents[1] / "docs" / "service"


def keep(page: Any, name: str) -> None:
    """A screenshot as a JPEG."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").save(FOLDER / f"{name}.jpg", quality=85, optimize=True)


def captioned(page: Any, example: int) -> None:
    page.click(f"#examples button >> nth={example}")
    page.wait_for_selector("#caption .word")
    page.wait_for_selector("#supervised-caption .word")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with serving() as (address, _), chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(address)
        captioned(page, 1)
        page.focus("#caption .word >> nth=5")
        page.wait_for_selector("#stage .heat.on")
        page.wait_for_timeout(300)  # until it has faded in
        keep(page, "alignment")
        page.select_option("#search", "magic")
        page.wait_for_selector(".chip")
        page.wait_for_selector("#caption .word")
        page.click(".chip >> nth=1")
        keep(page, "magic")
        phone = browser.new_page(
            viewport={"width": 360, "height": 780}, color_scheme="dark", device_scale_factor=2
        )
        phone.goto(address)
        captioned(phone, 2)
        phone.evaluate("scrollTo(0, 150)")
        keep(phone, "phone")


if __name__ == "__main__":
    main()
