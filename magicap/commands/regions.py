"""``magicap regions``: a sentence for a picture, and one for each thing in it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int
from magicap.commands.model_options import MODEL_OPTIONS, MemoryOptions, ModelOptions
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import print_json, print_line
from magicap.drawing import require_drawable
from magicap.errors import BadSettings
from magicap.files import only_writer
from magicap.images.reader import open_image
from magicap.regions.proposals import MAX_REGIONS

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner
    from magicap.regions.proposals import Proposer


@dataclass(frozen=True)
class Options:
    """What ``magicap regions`` is to do."""

    picture: Annotated[str, About("PICTURE", positional=True)]
    """The picture's file."""

    out: Annotated[str | None, About("FILE")] = None
    """Draw the boxes with their captions into this file: .png, .svg or .pdf."""

    json: bool = False
    """Print a JSON object."""

    max_regions: int = MAX_REGIONS
    """Look at N regions; those that say nothing new are left out."""

    detector: Annotated[str | None, About("FILE")] = None
    """Weights of YOLOX-Nano, which proposes the regions; default: clusters of the image tower's patches."""

    preset: Annotated[str, About("NAME|FOLDER")] = DEFAULT
    """Preset or captioner's folder."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "regions",
        help="find the regions of a picture and caption each",
        description="Propose boxes of a picture, caption each in its surroundings, and print the caption of\n"
        "the whole picture, then a line a region: LEFT,TOP,RIGHT,BOTTOM in pixels, a tab and the\n"
        "caption. Regions that say nothing new are left out.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    add_options(parser.add_argument_group("models"), MODEL_OPTIONS)
    parser.set_defaults(run=with_options(run, Options, ModelOptions, MemoryOptions))


def run(options: Options, models: ModelOptions, memory: MemoryOptions) -> int:
    """Check all that can be checked before a captioner is loaded, then caption, draw and print."""
    require_int("--max-regions", options.max_regions)
    if options.out == "":
        raise BadSettings("--out: expected a file, found an empty name; name one")
    if options.out:
        require_drawable(options.out, [options.picture])
    picture = open_image(options.picture)
    with only_writer(options.out):
        captioner = models.load(options.preset, memory.samples)
        from magicap.captioners.regions import caption_regions

        captions = caption_regions(
            captioner, picture, _proposer(options, captioner), max_regions=options.max_regions
        )
        if options.out:
            captions.save(options.out)
    if options.json:
        print_json({"image": options.picture, **captions.as_json()})
        return 0
    print_line(" ".join(captions.caption.split()))
    for region in captions.regions:
        print_line(",".join(map(str, region.box)), " ".join(region.caption.split()))
    return 0


def _proposer(options: Options, captioner: AnyCaptioner) -> Proposer:
    if options.detector is not None:
        from magicap.regions.detector import YoloxNano

        return YoloxNano(options.detector)
    from magicap.captioners.zero_shot import Captioner
    from magicap.regions.clusters import PatchClusters

    if not isinstance(captioner, Captioner):
        raise BadSettings(
            f"{options.preset}: expected a captioner with a scorer, whose patches are clustered, found a "
            "supervised one; name a --detector"
        )
    return PatchClusters(captioner.scorer)
