"""``magicap match``: which places of two pictures show the same."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import print_json, print_line
from magicap.commands.shared import load_scorer
from magicap.drawing import require_drawable
from magicap.extras import require
from magicap.files import only_writer
from magicap.images.reader import open_image

if TYPE_CHECKING:
    from magicap.matching.features import ImageTower
    from magicap.matching.pictures import PictureMatches
    from magicap.models.scorer import ImageTextScorer


@dataclass(frozen=True)
class Options:
    """What ``magicap match`` is to do."""

    first: Annotated[str, About("A", positional=True)]
    """A picture's file."""

    second: Annotated[str, About("B", positional=True)]
    """Another picture's file."""

    out: Annotated[str | None, About("FILE")] = None
    """Draw the matches into this file: .png, .svg or .pdf."""

    json: bool = False
    """Print a JSON object with every match."""

    geometry: Annotated[str, About("NAME", choices=("homography", "fundamental"))] = "homography"
    """What inliers agree on: homography (planes, turned cameras) or fundamental (any still scene)."""

    max_matches: int | None = None
    """Keep the N surest matches; default: all."""

    seed: int = 0
    """Seed of RANSAC."""

    preset: Annotated[str, About("NAME|FOLDER")] = DEFAULT
    """Preset or captioner's folder whose scorer's image tower is used."""

    scorer: Annotated[str | None, About("NAME:TAG|ID|FOLDER", exclusive="tower")] = None
    """Another scorer's image tower than the preset's: as of ``magicap caption``."""

    network: Annotated[str | None, About("NAME", exclusive="tower")] = None
    """A network of timm in place of the preset's, with its published weights."""

    revision: Annotated[list[str] | None, About("OWNER/NAME@COMMIT")] = None
    """Load this commit of a repository of the hub that the scorer comes from; default: the preset's own."""

    device: Annotated[str | None, About("NAME")] = None
    """Where the model runs: cpu, cuda, ...; default: a GPU if there is one."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "match",
        help="find which places of two pictures show the same",
        description="Match places of picture A with places of picture B by local features of an image\n"
        "tower, and find the geometry that most matches agree on. No match is no error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    parser.set_defaults(run=with_options(run, Options))


def run(options: Options) -> int:
    """Check all that can be checked before a model is loaded, then match, draw and print."""
    require_int("--seed", options.seed, least=0, most=2**31 - 1)
    if options.max_matches is not None:
        require_int("--max-matches", options.max_matches)
    if options.out:
        require_drawable(options.out, [options.first, options.second])
    pictures = open_image(options.first), open_image(options.second)
    require("cv2")
    with only_writer(options.out):
        tower = _tower(options)
        from magicap.matching.geometry import Geometry
        from magicap.matching.pictures import MatchSettings, match_pictures

        settings = MatchSettings(
            max_matches=options.max_matches, geometry=cast("Geometry", options.geometry), seed=options.seed
        )
        matches = match_pictures(*pictures, tower, settings)
        if options.out:
            matches.save(options.out)
    if options.json:
        print_json({"first": options.first, "second": options.second, **matches.as_json()})
    else:
        _print(matches)
    return 0


def _tower(options: Options) -> ImageTower | ImageTextScorer:
    if options.network is None:
        return load_scorer(options.preset, options.device, options.revision, scorer=options.scorer)
    from magicap.captioners.folder import as_device
    from magicap.matching.features import ImageTower

    return ImageTower.of_timm(options.network, as_device(options.device))


def _print(matches: PictureMatches) -> None:
    name = {"fundamental": "fundamental matrix"}.get(matches.geometry, matches.geometry)
    print_line(f"{_count(len(matches), 'match')}, {_count(int(matches.inliers.sum()), 'inlier')}")
    if matches.matrix is None:
        print_line(f"no {name}: too few matches agree on one")
        return
    print_line(f"{name}, from A to B:" if matches.geometry == "homography" else f"{name}:")
    for row in matches.matrix.tolist():
        print_line("".join(f"{value:>14.6g}" for value in row))


def _count(count: int, thing: str) -> str:
    if count == 1:
        return f"1 {thing}"
    return f"{count} {thing}es" if thing.endswith("ch") else f"{count} {thing}s"
