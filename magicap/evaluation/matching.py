"""Captions of a file beside the references of their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magicap.data import CaptionedImage, read_captions
from magicap.data.flickr8k import is_kaggle
from magicap.data.rows import common_name
from magicap.errors import BadData, BadSettings
from magicap.evaluation.names import ImageNames, require_distinct, some
from magicap.evaluation.predictions import Predictions


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
    finished: list[bool] | None = None
    """Whether the search for each caption came to an end; None where the file does not say it of all."""


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
    if path is not None and is_kaggle(Path(path)):
        rows = read_captions(path, split)
    chosen = [row for row in rows if common_name(row.split) == common_name(split)]
    if not chosen:
        raise BadSettings(f"{source} has no split {split!r}; it has {', '.join(splits) or 'none'}")
    return chosen


def match(predictions: Predictions, references: Sequence[CaptionedImage], *, partial: bool = False) -> Scored:
    """Put captions and references side by side, in the references' order.

    An image is known by its id, or by its path or any end of it: ``a/1.jpg`` is ``1.jpg`` and
    ``x/a/1.jpg``, but not ``b/1.jpg``. Either side may leave out the picture's suffix. A name that can mean
    several images means none of them.

    Args:
        predictions: captions by the images' names, as their file gives them.
        references: the images that must have captions.
        partial: score the images that have both, and mark the figures; otherwise a hole is an error.

    Raises:
        BadData: captions of unknown images, images without captions or references, or two captions of one
            image.
    """
    names, unknown = assign(predictions, references)
    missing = [row.image for row in references if row.image not in names]
    if not names or not partial:
        require_complete(predictions, unknown, missing)
    rows = [row for row in references if row.image in names]
    if without := [row.image for row in rows if not row.captions]:
        raise BadData(f"{len(without)} images have no reference caption: {some(without)}; leave them out")
    about = split_entry(rows)
    if missing or unknown:
        left_out = f", {len(unknown)} captions left out" if unknown else ""
        about["partial"] = f"{len(rows)} of {len(references)} images{left_out}"
    scored = [names[row.image] for row in rows]
    return Scored(
        [row.image for row in rows],
        [predictions.captions[name] for name in scored],
        [row.captions for row in rows],
        about,
        [predictions.confidences.get(name) for name in scored] if predictions.confidences else [],
        _finished(predictions, scored),
    )


def _finished(predictions: Predictions, names: Sequence[str]) -> list[bool] | None:
    """Whether each caption is finished, where the file says it of all of them."""
    known = predictions.finished
    return [known[name] for name in names] if all(name in known for name in names) else None


def split_entry(rows: Sequence[CaptionedImage]) -> dict[str, str]:
    """The entry of signatures about the rows' split, if they have one."""
    splits = sorted({row.split for row in rows if row.split})
    return {"split": "+".join(splits)} if splits else {}


def assign(
    predictions: Predictions, references: Sequence[CaptionedImage]
) -> tuple[dict[str, str], list[str]]:
    """The captions' name of each image of the references that has one, and names that mean no image.

    Raises:
        BadData: two captions of one image.
    """
    images = ImageNames.of(references)
    names: dict[str, str] = {}
    unknown = []
    twice = []
    for name in predictions.captions:
        meant = images.find(name) or images.find(predictions.ids.get(name, name))
        if len(meant) != 1:
            unknown.append(name if not meant else f"{name} (which can be {' or '.join(meant)})")
        elif meant[0] in names:
            twice.append(meant[0])
        else:
            names[meant[0]] = name
    require_distinct([*twice, *names], f"{predictions.source} (names differ, but mean the same image)")
    return names, unknown


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
        complaints.append(f"{len(unknown)} captions are of images without references: {some(unknown)}")
    if missing:
        complaints.append(f"{len(missing)} images have no caption: {some(missing)}")
        reasons = Counter(predictions.failed.values()).most_common(1)
        if reasons:
            complaints.append(f"{len(predictions.failed)} rows are errors, most often: {reasons[0][0]}")
    if complaints:
        raise BadData(
            f"{predictions.source}: {'; '.join(complaints)}. Complete the file, or ask for a partial score"
        )
