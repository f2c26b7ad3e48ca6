"""Caption the stock photographs that come with scikit-image, scikit-learn and matplotlib: for eyes, unscored.

They are unlike Flickr8k and COCO in part: a rocket, coins, the moon, a page of print, a retina. What a
captioner says of them shows what it does where it knows nothing. Photographs of packages that are not
installed are left out, and named on stderr.

    pip install scikit-image scikit-learn matplotlib
    python eval/stock_photographs.py --presets embedded unpaired
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from transformers import HfArgumentParser

from magicap import load_captioner
from magicap.errors import MagicapError

PHOTOGRAPHS = {
    "skimage": [
        f"data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "moon.png",
            "motorcycle_left.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
            "text.png",
        )
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
}


@dataclass(frozen=True)
class Config:
    presets: list[str] = field(
        default_factory=lambda: ["embedded", "unpaired"], metadata={"help": "presets or captioners' folders"}
    )


def main(config: Config) -> None:
    paths = installed_photographs()
    captions = [load_captioner(preset).caption(paths) for preset in config.presets]
    print("| photograph | " + " | ".join(config.presets) + " |")
    print("|---" * (len(config.presets) + 1) + "|")
    for path, row in zip(paths, zip(*captions, strict=True), strict=True):
        print(f"| {path.stem} | " + " | ".join(row) + " |")


def installed_photographs() -> list[Path]:
    """The files that are there; packages that are not are named on stderr."""
    photographs = []
    for package, names in PHOTOGRAPHS.items():
        spec = find_spec(package)
        folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else None
        installed = [folder / name for name in names if folder and (folder / name).is_file()]
        if len(installed) < len(names):
            print(f"{package}: {len(installed)} of {len(names)} photographs are installed", file=sys.stderr)
        photographs += installed
    return photographs


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"stock_photographs.py: {error}")
