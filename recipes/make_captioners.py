"""Make every captioner that ships: all recipes in order, each with its file of recipes/configs.

    export MAGICAP_DATA=... MAGICAP_COCO_MANY=...
    python recipes/make_captioners.py              # everything, into runs/
    python recipes/make_captioners.py --install    # and then into magicap/, model cards included
    python recipes/make_captioners.py --only cnn_lstm cnn_lstm_longer --install
    python recipes/make_captioners.py --dry_run    # all of it on drawn pictures and tiny models, in minutes

A second run of the same command goes on where the first one stopped: steps that are done are left as they
are, and the one that was stopped resumes. A step that is done, but with other options than its file has now,
is refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import tinydata
from chain import chosen
from cli import run
from model_card import write_card
from running import folder_of, in_child, note, run_steps
from shipped import PACKAGE, SHIPPED

from magicap import (
    Captioner,
    CaptionMemory,
    ImageTextScorer,
    LanguageModel,
    SupervisedCaptioner,
    load_captioner,
)
from magicap.captioners.checksums import write_checksums
from magicap.captioners.presets import PRESETS, UNPAIRED
from magicap.captioners.saving import put_folder_in_place
from magicap.captioners.sources import LANGUAGE_MODEL, MEMORY, SCORER
from magicap.errors import BadModel, BadSettings


@dataclass(frozen=True)
class Config:
    only: list[str] = field(default_factory=list)
    """Steps to run, by the names of their files in recipes/configs; what they read must be there. Default:
    all that make what ships."""

    install: bool = False
    """Put the captioners that these steps make into the package, with their model cards, in place of those
    that ship."""

    dry_run: bool = False
    """Run everything on drawn pictures and tiny models in a temporary folder, and caption a picture with each
    of the captioners; neither runs/ nor the package is touched."""

    def __post_init__(self) -> None:
        chosen(self.only)
        makers = {shipped.step for shipped in SHIPPED.values()}
        if self.install and not makers & set(chosen(self.only)):
            raise BadSettings(
                f"--install expects one of {', '.join(sorted(makers))} among --only, found {self.only}"
            )
        if self.dry_run and (self.only or self.install):
            raise BadSettings(
                "--dry_run runs every step and installs nothing: leave --only and --install out"
            )


def main(config: Config) -> None:
    if config.dry_run:
        dry_run()
        return
    run_steps(chosen(config.only), {})
    if config.install:
        install(PACKAGE, chosen(config.only))


def install(package: Path, steps: Collection[str]) -> None:
    """Put finished captioners where presets look for them, and write their model cards.

    Args:
        steps: those whose captioners are put there, as far as they make any.

    Raises:
        BadModel: one is not finished; then none is put in place.
    """
    sources = {
        name: folder_of(shipped.step, shipped.inner)
        for name, shipped in SHIPPED.items()
        if shipped.step in steps
    }
    for name, source in sources.items():
        files = SHIPPED[name].files
        if missing := [file for file in files if not (source / file).exists()]:
            raise BadModel(f"{source}: expected {missing[0]}, found none; run the step anew")
    for name, source in sources.items():
        files = SHIPPED[name].files
        with put_folder_in_place(package / name, files) as new:
            for file in files:
                copy = shutil.copytree if (source / file).is_dir() else shutil.copy2
                copy(source / file, new / file)
        write_card(name, package / name)
        note(f"{name}: installed in {package / name}")
    write_checksums(package)


def dry_run() -> None:
    """The whole chain on stand-ins; prints what each of the captioners says of a picture.

    Raises:
        BadModel: a captioner says nothing.
    """
    before = Path.cwd()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it is to do the same wherever it runs
    with tempfile.TemporaryDirectory(prefix="magicap-") as folder:
        os.chdir(folder)
        try:
            in_child(tinydata.make, Path(folder))
            tinydata.point_variables_to(Path(folder))
            run_steps(chosen([]), tinydata.overrides())
            package = Path(folder, "magicap")
            install(package, chosen([]))
            for name, captioner in finished(package).items():
                caption = captioner.caption(tinydata.UNSEEN)
                if not caption.strip():
                    raise BadModel(f"{name}: expected a caption of {tinydata.UNSEEN}, found none")
                print(f"{name}: {caption}")
        finally:
            os.chdir(before)


def finished(package: Path) -> dict[str, Captioner | SupervisedCaptioner]:
    """The three captioners of a package's folders, by the names of their presets' folders."""
    embedded, unpaired = package / "embedded", package / "unpaired"
    decoding = PRESETS[UNPAIRED].decoding
    assert decoding is not None
    without_pairs = Captioner(
        LanguageModel.from_pretrained(embedded / LANGUAGE_MODEL),
        ImageTextScorer.from_pretrained(unpaired / SCORER),
        replace(decoding, max_new_tokens=20),
        CaptionMemory.from_pretrained(unpaired / MEMORY),
    )
    return {
        "embedded": load_captioner(embedded),
        "unpaired": without_pairs,
        "baseline": load_captioner(package / "baseline"),
    }


if __name__ == "__main__":
    run(main, Config)
