"""``magicap eval``: the figures of a file of captions."""

from __future__ import annotations

import argparse
import csv
import io
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import DEFAULT
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import complain, print_json, print_line
from magicap.commands.shared import SOME_FAILED, load_scorer
from magicap.errors import BadSettings, MetricUnavailable
from magicap.files import only_writer, require_writable, write_whole

if TYPE_CHECKING:
    from magicap.evaluation.matching import Scored
    from magicap.metrics import Metric, Report
    from magicap.metrics.score import Tokenizer

CLIPSCORE = "clipscore"
NEEDS_JAVA = ("meteor", "spice")


@dataclass(frozen=True)
class Options:
    """What ``magicap eval`` is to do."""

    predictions: Annotated[str, About("FILE", positional=True)]
    """Captions that some captioner wrote."""

    references: Annotated[str | None, About("FILE|FOLDER")] = None
    """Captions of the images that people wrote; default: those in FILE."""

    split: Annotated[str | None, About("NAME")] = None
    """Split of the references that is scored, such as test; needed where there are several."""

    metrics: Annotated[str | None, About("A,B,...")] = None
    """Some of bleu, meteor, rouge_l, cider_d, spice, clipscore, diversity, lengths, unfinished, broken;
    default: all."""

    images: Annotated[list[str] | None, About("TAR|FOLDER")] = None
    """The pictures, for CLIPScore."""

    clipscore_model: Annotated[str | None, About("NAME|FOLDER", exclusive="scorer", former="judge")] = None
    """Preset (see ``magicap caption --help``) or captioner's folder whose scorer gives CLIPScore; default:
    embedded."""

    scorer: Annotated[str | None, About("NAME:TAG|ID|FOLDER", exclusive="scorer")] = None
    """Give CLIPScore by this scorer instead: as of ``magicap caption``."""

    revision: Annotated[list[str] | None, About("OWNER/NAME@COMMIT")] = None
    """Load this commit of a repository of the hub that the scorer comes from; default: the preset's own."""
    tokenizer: Annotated[str | None, About(choices=["ptb", "characters"])] = None
    """What counts as a word: ptb (Penn Treebank) or, in scripts without spaces, characters; default: what
    suits the references."""

    device: Annotated[str | None, About("NAME")] = None
    """Where the models run: cpu, cuda, ...; default: a GPU if there is one."""

    partial: bool = False
    """Score an incomplete set too, and mark its figures."""

    json: bool = False
    """Print values, signatures and reasons as a JSON object."""

    per_image: Annotated[str | None, About("CSV")] = None
    """Write the scores of every image into this file, and the confidence where FILE has it."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "eval",
        help="score captions against references",
        description="Score captions against references: BLEU, METEOR, ROUGE-L, CIDEr-D, SPICE, CLIPScore,\n"
        "diversity. Metrics that cannot be computed here are named with the reason; they are never 0.",
        epilog="captions and references: what 'magicap caption' prints, with --json or without; JSON lines\n"
        "or lists of {image, caption}; a JSON object of captions by image; CSV and its like with a header;\n"
        "captions.jsonl, Karpathy and COCO JSON, Flickr8k.token.txt; a folder of images with metadata or\n"
        "with a .txt beside each; a folder that datasets' save_to_disk wrote.\n"
        "Lists of {image_name, captions, prediction} bring their references.\n"
        "Images are known by id, or by their path or any end of it, with the suffix or without.\n"
        "Exit code 2 if the call was wrong, or a metric named with --metrics cannot be computed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    parser.set_defaults(run=with_options(run, Options))


def run(options: Options) -> int:
    """Read and match everything before anything is computed, then print the figures.

    Returns:
        The exit code: 2 if a metric named with ``--metrics`` cannot be computed.
    """
    if options.per_image:
        require_writable(options.per_image, [options.predictions, options.references])
    with only_writer(options.per_image):
        return _run(options)


def _run(options: Options) -> int:
    # Here and not above: they bring numpy, and the other commands start without it.
    from magicap.evaluation.matching import choose_references, match
    from magicap.evaluation.predictions import read_predictions
    from magicap.metrics import evaluate

    names = _names(options.metrics)
    predictions = read_predictions(options.predictions)
    references = choose_references(options.references, options.split, predictions.references)
    scored = match(predictions, references, partial=options.partial)
    tokenizer = _tokenizer(scored, options.tokenizer)
    report = evaluate(
        scored.candidates,
        scored.references,
        metrics=None if names is None else [name for name in names if name != CLIPSCORE],
        extra_metrics=_clip_score(scored, names, options),
        tokenizer=tokenizer,
        finished=scored.finished,
        about={**scored.about, **predictions.about},
    )
    if empty := sum(not caption.strip() for caption in scored.candidates):
        complain(f"{empty} of {len(scored.candidates)} captions are empty")
    if options.per_image:
        write_whole(options.per_image, _per_image(scored, report))
    _print(report, scored, as_json=options.json)
    return SOME_FAILED if options.metrics and report.absent else 0


def _tokenizer(scored: Scored, name: str | None) -> Tokenizer:
    """The tokenizer of the call, or what suits the references, with a notice where that is not PTB."""
    from magicap.metrics.characters import CHARACTERS, TOKENIZERS, tokenizer_of

    if name is not None:
        return TOKENIZERS[name]
    tokenizer = tokenizer_of(scored.references)
    if tokenizer is CHARACTERS:
        notice = "references are in a script without spaces: each of its characters counts as a word"
        complain(f"{notice} ({tokenizer.name}; --tokenizer ptb for none)")
    return tokenizer


def _names(listed: str | None) -> list[str] | None:
    """Names of metrics; an unknown one is refused here, before a scorer is loaded for nothing."""
    from magicap.metrics import METRICS

    if listed is None:
        return None
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if unknown := [name for name in names if name not in (*METRICS, CLIPSCORE)]:
        raise BadSettings(f"no metric {unknown[0]!r}: expected some of {', '.join([*METRICS, CLIPSCORE])}")
    return names


def _clip_score(scored: Scored, names: list[str] | None, options: Options) -> dict[str, Metric]:
    named = names is not None and CLIPSCORE in names
    if not options.images:
        if named or options.clipscore_model or options.scorer:
            raise BadSettings("CLIPScore reads the pictures: give their tar files or folders with --images")
        return {}
    if names is not None and not named:
        return {}
    _require_java(names)
    from magicap.evaluation.systems import clip_score, open_pictures

    with open_pictures(scored.images, options.images) as pictures:
        scorer = load_scorer(
            options.clipscore_model or DEFAULT, options.device, options.revision, scorer=options.scorer
        )
        return {"CLIPScore": clip_score(scorer, scored.images, pictures)}


def _require_java(names: list[str] | None) -> None:
    """Notice before pictures are encoded, not after, that there is no Java.

    Raises:
        MetricUnavailable: a metric that needs it was named; where all are computed, its absence is reported.
    """
    from magicap.metrics import METRICS

    if shutil.which("java") is not None:
        return
    titles = [METRICS[name].title for name in NEEDS_JAVA if names is None or name in names]
    reason = f"there is no 'java' on the PATH for {' and '.join(titles)}"
    if names is None:
        complain(f"{reason}; the other metrics are computed")
    elif titles:
        raise MetricUnavailable(f"{reason}: install it, or leave them out of --metrics")


def _print(report: Report, scored: Scored, *, as_json: bool) -> None:
    if as_json:
        scores = {
            name: {
                "value": value.value,
                "signature": dict(value.signature),
                **({"caveats": value.caveats} if value.caveats else {}),
            }
            for name, value in report.scores.items()
        }
        print_json({"n": len(scored.images), "scores": scores, "absent": report.absent}, indent=2)
        return
    from magicap.evaluation.tables import MARK, aligned, caveat_lines

    rows = [
        [name, value.text + MARK * bool(value.caveats), value.signature_text]
        for name, value in report.scores.items()
    ]
    for line in aligned(["metric", "score", "signature"], rows).split("\n"):
        print_line(line)
    for line in caveat_lines(report.scores):
        print_line(line)
    for name, reason in report.absent.items():
        complain(f"{name} is absent: {reason}")
    if "partial" in scored.about:
        complain(f"partial: {scored.about['partial']}; figures of other sets do not compare")


def _per_image(scored: Scored, report: Report) -> str:
    columns = {name: value.per_image for name, value in report.scores.items() if value.per_image is not None}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    confidences = scored.confidences
    writer.writerow(["image", "caption", *columns, *(["confidence"] if confidences else [])])
    for i, (image, caption) in enumerate(zip(scored.images, scored.candidates, strict=True)):
        row = [image, caption, *(f"{values[i]:.6g}" for values in columns.values())]
        writer.writerow([*row, *confidences[i : i + 1]])
    return out.getvalue()
