"""Files of captions that some captioner wrote, and their images' references."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from magicap.data import CaptionedImage, read_captions
from magicap.data.checks import (
    bad,
    id_field,
    lines_of,
    parse_json,
    read_text,
    require_short,
    show,
    string,
    strings,
)
from magicap.data.rows import common_name
from magicap.errors import BadData, BadSettings
from magicap.printable import without_surrogates

_LISTED = 5  # ids that an error lists


@dataclass(frozen=True)
class Predictions:
    """Captions by image, as a file holds them."""

    source: str
    """The file, for errors."""

    captions: Mapping[str, str]
    """Image name or id -> caption."""

    failed: Mapping[str, str]
    """Images without a caption -> why; ``magicap caption --json`` writes such rows."""

    model: str
    """Fingerprint of the captioner where all rows name the same, else ``file-`` and a digest of the file."""

    references: Sequence[CaptionedImage] | None = None
    """The references, where the file carries them."""

    confidences: Mapping[str, float] = field(default_factory=dict)
    """Image name or id -> probability that the caption is right, where the file says it."""

    steered_by: tuple[str, ...] = ()
    """Fingerprints of the scorers that steered the captions, where the file says it."""

    @property
    def about(self) -> dict[str, str]:
        """Entries of signatures: ``model``, and ``steered_by`` where it is known."""
        steered = {"steered_by": "+".join(self.steered_by)} if self.steered_by else {}
        return {"model": self.model, **steered}


@dataclass(frozen=True)
class Scored:
    """N images with a caption and references each."""

    images: list[str]
    candidates: list[str]
    references: list[tuple[str, ...]]
    about: dict[str, str]
    """Entries of signatures: ``split``, and ``partial`` with its extent where the set is incomplete."""
    confidences: list[float | None] = field(default_factory=list)
    """Probabilities that the captions are right; None where the file says none, no list where it says none at
    all."""


def read_predictions(path: str | Path) -> Predictions:
    r"""Read captions from a file; its content decides of what kind it is.

    Kinds: JSON lines of ``image`` and ``caption`` (``magicap caption --json``); one JSON object of captions
    by image; COCO results, a JSON list of ``image_id`` and ``caption``; MAGIC's published lists of
    ``image_name``, ``captions`` (the references) and ``prediction``. Halves of characters, which JSON can
    hold and UTF-8 cannot, become replacement characters; in names, where they are bytes of a file name that
    is no text, they are written as ``magicap caption --json`` writes them, ``\xff``.

    Raises:
        BadData: none of these, or images that stand twice.
    """
    text = read_text(Path(path))
    rows = list(_rows(Path(path), text))
    if not rows:
        raise bad(path, "captions", "an empty list", "write or fetch it again")
    kind = next((kind for kind in _KINDS if kind.image in rows[0][1]), None)
    if kind is None:
        expected = (
            "rows with 'image' and 'caption', 'image_id' and 'caption', or 'image_name' and 'prediction'"
        )
        raise bad(path, expected, show(rows[0][1]), "rename the fields")
    rows = [(place, _without_halves(row, kind)) for place, row in rows]
    captions: dict[str, str] = {}
    failed: dict[str, str] = {}
    confidences: dict[str, float] = {}
    names = []
    for place, row in rows:
        names.append(id_field(row, kind.image, place))
        if "error" in row and kind.caption not in row:
            failed[names[-1]] = str(row.get("message") or row["error"])
        else:
            captions[names[-1]] = string(row, kind.caption, place)
            require_short(captions[names[-1]], place)
            if isinstance(confidence := row.get("confidence"), float | int):
                confidences[names[-1]] = float(confidence)
    _require_distinct(names, str(path))
    references = None
    if kind.references and kind.references in rows[0][1]:
        references = [
            CaptionedImage(name, str(row.get("split", "")), strings(row, kind.references, place))
            for name, (place, row) in zip(names, rows, strict=True)
        ]
    models = {row.get("model") for _, row in rows if "error" not in row}
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    model = str(models.pop()) if len(models) == 1 and None not in models else f"file-{digest}"
    steered_by = tuple(sorted({str(row["steered_by"]) for _, row in rows if row.get("steered_by")}))
    return Predictions(str(path), captions, failed, model, references, confidences, steered_by)


def choose_references(
    path: str | Path | None, split: str | None, carried: Sequence[CaptionedImage] | None = None
) -> list[CaptionedImage]:
    """The reference captions to score against: of a data set, or those that a prediction file carries.

    Args:
        path: a data set as :func:`~magicap.data.read_captions` reads it; None takes ``carried``.
        split: needed where there are several.
        carried: references that came with captions.

    Raises:
        BadSettings: no references, no such split, or several splits and none named.
        BadData: the data set cannot be read.
    """
    if path is None and carried is None:
        raise BadSettings("the captions bring no references: give the data set's with --references")
    rows = read_captions(path) if path is not None else list(carried or ())
    source = path or "the file"
    splits = sorted({row.split for row in rows})
    if split is None:
        if len(splits) > 1:
            raise BadSettings(f"{source} holds the splits {', '.join(splits)}: name one with --split")
        return rows
    chosen = [row for row in rows if common_name(row.split) == common_name(split)]
    if not chosen:
        raise BadSettings(f"{source} has no split {split!r}; it has {', '.join(splits) or 'none'}")
    return chosen


def match(predictions: Predictions, references: Sequence[CaptionedImage], *, partial: bool = False) -> Scored:
    """Put captions and references side by side, in the references' order.

    An image is known by its id, or by its path or any end of it: ``a/1.jpg`` is ``1.jpg`` and
    ``x/a/1.jpg``, but not ``b/1.jpg``.

    Args:
        references: the images that must have captions.
        partial: score the images that have both, and mark the figures; otherwise a hole is an error.

    Raises:
        BadData: captions of unknown images, images without captions or references, or two captions of one
            image.
    """
    caption, unknown = assign(predictions, references)
    missing = [row.image for row in references if row.image not in caption]
    if not caption or not partial:
        require_complete(predictions, unknown, missing)
    rows = [row for row in references if row.image in caption]
    if without := [row.image for row in rows if not row.captions]:
        raise BadData(f"{len(without)} images have no reference caption: {_some(without)}; leave them out")
    known = {}
    if predictions.confidences:
        images = _images_of(predictions, references)
        known = {images[name]: value for name, value in predictions.confidences.items()}
    about = split_entry(rows)
    if missing or unknown:
        left_out = f", {len(unknown)} captions left out" if unknown else ""
        about["partial"] = f"{len(rows)} of {len(references)} images{left_out}"
    return Scored(
        [row.image for row in rows],
        [caption[row.image] for row in rows],
        [row.captions for row in rows],
        about,
        [known.get(row.image) for row in rows] if known else [],
    )


def split_entry(rows: Sequence[CaptionedImage]) -> dict[str, str]:
    """The entry of signatures about the rows' split, if they have one."""
    splits = sorted({row.split for row in rows if row.split})
    return {"split": "+".join(splits)} if splits else {}


def assign(
    predictions: Predictions, references: Sequence[CaptionedImage]
) -> tuple[dict[str, str], list[str]]:
    """Captions by the references' image names, and names of captions that belong to none.

    Raises:
        BadData: two captions of one image.
    """
    images = _images_of(predictions, references)
    _require_distinct(
        [image for image in images.values() if image is not None],
        f"{predictions.source} (names differ, but mean the same image)",
    )
    caption = {image: predictions.captions[name] for name, image in images.items() if image is not None}
    return caption, [name for name, image in images.items() if image is None]


def _images_of(predictions: Predictions, references: Sequence[CaptionedImage]) -> dict[str, str | None]:
    """The references' image of every caption's name; None where there is none."""
    ids = {row.id: row.image for row in references if row.id is not None}
    by_file_name: dict[str, list[str]] = {}
    for row in references:
        by_file_name.setdefault(_parts(row.image)[-1], []).append(row.image)
    return {name: _find(name, ids, by_file_name) for name in predictions.captions}


def require_complete(predictions: Predictions, unknown: Sequence[str], missing: Sequence[str]) -> None:
    """Refuse captions and references that do not fit together.

    Args:
        unknown: captions' names that no reference has.
        missing: images with references and no caption.

    Raises:
        BadData: there are such images.
    """
    complaints = []
    if unknown:
        complaints.append(f"{len(unknown)} captions are of images without references: {_some(unknown)}")
    if missing:
        complaints.append(f"{len(missing)} images have no caption: {_some(missing)}")
        reasons = Counter(predictions.failed.values()).most_common(1)
        if reasons:
            complaints.append(f"{len(predictions.failed)} rows are errors, most often: {reasons[0][0]}")
    if complaints:
        raise BadData(
            f"{predictions.source}: {'; '.join(complaints)}. Complete the file, or ask for a partial score"
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


def _rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list or of JSON lines, each with its place."""
    if text.lstrip().startswith("["):
        placed = ((f"{path}, row {i}", row) for i, row in enumerate(parse_json(text, path), start=1))
    elif (captions := _by_image(text)) is not None:
        placed = ((f"{path}, {name!r}", {"image": name, "caption": text}) for name, text in captions.items())
    else:
        placed = ((place, parse_json(line, place)) for place, line in lines_of(path, text))
    for place, row in placed:
        if not isinstance(row, dict):
            raise bad(place, "a JSON object", show(row), "write an object an image")
        yield place, row


def _by_image(text: str) -> dict[str, Any] | None:
    """The one JSON object of captions by image, if the text is that."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # JSON lines, or nothing that can be read: then its lines say so
        return None
    return (
        document
        if isinstance(document, dict) and not {kind.image for kind in _KINDS} & set(document)
        else None
    )


def _without_halves(row: dict[str, Any], kind: _Kind) -> dict[str, Any]:
    """A row without halves of characters; different names stay different."""
    name = {kind.image: without_surrogates(row[kind.image])} if kind.image in row else {}
    return {**_replace_surrogates(row), **name}


def _replace_surrogates(value: Any) -> Any:
    """JSON without halves of characters."""
    if isinstance(value, str):
        return (
            value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if isinstance(value, list):
        return [_replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {key: _replace_surrogates(item) for key, item in value.items()}
    return value


def _find(name: str, ids: Mapping[str, str], by_file_name: Mapping[str, Sequence[str]]) -> str | None:
    """The one image of that id, or whose path ends as the name does or the other way round."""
    if (key := name.lstrip("0") if name.isdigit() else name) in ids:
        return ids[key]
    parts = _parts(name)
    images = []
    for image in by_file_name.get(parts[-1], ()):
        other = _parts(image)
        shared = min(len(parts), len(other))
        if parts[-shared:] == other[-shared:]:
            images.append(image)
    return images[0] if len(images) == 1 else None


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts or (name,)


def _require_distinct(names: Iterable[str], source: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadData(f"{source}: {len(twice)} images stand more than once: {_some(twice)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
