"""Files of captions that some captioner wrote, and their images' references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from magicap.data import CaptionedImage
from magicap.data.checks import bad, lines_of, number, parse_json, read_text, show, string, strings
from magicap.errors import BadData

_SHOWN = 5  # ids that an error lists


@dataclass(frozen=True)
class Predictions:
    """Captions by image, as a file holds them."""

    source: str
    """The file, for errors."""

    captions: Mapping[str, str]
    """Image name or id -> caption."""

    failed: Mapping[str, str]
    """Images without a caption -> why; ``magicap caption --json`` writes such rows."""

    references: Sequence[CaptionedImage] | None = None
    """The references, where the file carries them."""

    model: str | None = None
    """Fingerprint of the captioner, where all rows name the same."""


@dataclass(frozen=True)
class Scored:
    """N images with a caption and references each."""

    images: list[str]
    candidates: list[str]
    references: list[tuple[str, ...]]
    about: dict[str, str]
    """What signatures must say: ``split``, and ``partial`` with its extent where the set is not whole."""


def read_predictions(path: str | Path) -> Predictions:
    """Read captions from a file; its kind is told by its content.

    Kinds: JSON lines of ``image`` and ``caption`` (``magicap caption --json``); COCO results, a JSON list of
    ``image_id`` and ``caption``; MAGIC's published lists of ``image_name``, ``captions`` (the references) and
    ``prediction``.

    Raises:
        BadData: none of these, or images that stand twice.
    """
    rows = list(_rows(Path(path)))
    if not rows:
        raise bad(path, "captions", "an empty list", "write or fetch it again")
    kind = next((kind for kind in _KINDS if kind.image in rows[0][1]), None)
    if kind is None:
        expected = (
            "rows with 'image' and 'caption', 'image_id' and 'caption', or 'image_name' and 'prediction'"
        )
        raise bad(path, expected, ", ".join(map(repr, rows[0][1])) or "an empty row", "rename the fields")
    captions: dict[str, str] = {}
    failed: dict[str, str] = {}
    names = []
    for place, row in rows:
        names.append(number(row, kind.image, place))
        if "error" in row and kind.caption not in row:
            failed[names[-1]] = str(row.get("message") or row["error"])
        else:
            captions[names[-1]] = string(row, kind.caption, place)
    _refuse_twice(names, str(path))
    references = None
    if kind.references and kind.references in rows[0][1]:
        references = [
            CaptionedImage(name, str(row.get("split", "")), strings(row, kind.references, place))
            for name, (place, row) in zip(names, rows, strict=True)
        ]
    models = {row.get("model") for _, row in rows if "error" not in row}
    model = str(models.pop()) if len(models) == 1 and None not in models else None
    return Predictions(str(path), captions, failed, references, model)


def match(predictions: Predictions, references: Sequence[CaptionedImage], *, partial: bool = False) -> Scored:
    """Put captions and references side by side, in the references' order.

    An image is known by its name, its name's last part, or its id.

    Args:
        references: the images that must have captions.
        partial: score the images that have both, and mark the figures; otherwise a hole is an error.

    Raises:
        BadData: captions of unknown images, images without captions, or an image meant by two captions.
    """
    if not references:
        raise BadData(f"{predictions.source}: there are no reference captions to score against")
    known = _keys(references)
    place = {name: known.get(name, known.get(_last_part(name))) for name in predictions.captions}
    strangers = [name for name, row in place.items() if row is None]
    caption = {row: predictions.captions[name] for name, row in place.items() if row is not None}
    _refuse_twice(
        [references[row].image for row in place.values() if row is not None],
        f"{predictions.source} (names differ, but mean the same image)",
    )
    missing = [row.image for i, row in enumerate(references) if i not in caption]
    if not caption or not partial:
        _refuse_incomplete(predictions, strangers, missing)
    rows = [i for i in range(len(references)) if i in caption]
    splits = sorted({references[i].split for i in rows if references[i].split})
    about = {"split": "+".join(splits)} if splits else {}
    if missing or strangers:
        about["partial"] = f"{len(rows)} of {len(references)} images" + (
            f", {len(strangers)} captions left out" if strangers else ""
        )
    return Scored(
        [references[i].image for i in rows],
        [caption[i] for i in rows],
        [references[i].captions for i in rows],
        about,
    )


@dataclass(frozen=True)
class _Kind:
    """A kind of prediction file, by the names of its fields."""

    image: str
    caption: str
    references: str | None = None


_KINDS = (
    _Kind("image_name", "prediction", "captions"),
    _Kind("image_id", "caption"),
    _Kind("image", "caption"),
)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list or of JSON lines, each with its place."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        placed = ((f"{path}, row {i}", row) for i, row in enumerate(parse_json(text, path), start=1))
    else:
        placed = ((place, parse_json(line, place)) for place, line in lines_of(path, text))
    for place, row in placed:
        if not isinstance(row, dict):
            raise bad(place, "a JSON object", show(row), "write an object an image")
        yield place, row


def _keys(references: Sequence[CaptionedImage]) -> dict[str, int]:
    """Every way in which an image may be called -> its row. Last parts that several share name none."""
    last_parts = Counter(_last_part(row.image) for row in references)
    keys = {last: i for i, row in enumerate(references) if last_parts[last := _last_part(row.image)] == 1}
    keys |= {row.id: i for i, row in enumerate(references) if row.id is not None}
    return keys | {row.image: i for i, row in enumerate(references)}


def _last_part(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _refuse_twice(names: Iterable[str], source: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadData(f"{source}: {len(twice)} images stand more than once: {_some(twice)}")


def _refuse_incomplete(predictions: Predictions, strangers: list[str], missing: list[str]) -> None:
    complaints = []
    if strangers:
        complaints.append(f"{len(strangers)} captions are of images without references: {_some(strangers)}")
    if missing:
        complaints.append(f"{len(missing)} images have no caption: {_some(missing)}")
        reasons = Counter(predictions.failed.values()).most_common(1)
        if reasons:
            complaints.append(f"{len(predictions.failed)} rows are errors, most often: {reasons[0][0]}")
    if complaints:
        raise BadData(
            f"{predictions.source}: "
            + "; ".join(complaints)
            + ". Complete the file, or ask for a partial score"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
