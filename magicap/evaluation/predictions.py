"""Files of captions that some captioner wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from magicap.data import CaptionedImage
from magicap.data.checks import bad, require_short, strings
from magicap.data.fields import PREDICTIONS
from magicap.data.forms import read_entries, unknown_form
from magicap.data.rows import Entry
from magicap.data.source import Source
from magicap.evaluation.names import require_distinct
from magicap.printable import without_surrogates
from magicap.results import WORDLESS


@dataclass(frozen=True)
class Predictions:
    """Captions by image, as a file holds them."""

    source: str
    """The file or folder, for errors."""

    captions: Mapping[str, str]
    """Image name or id -> caption."""

    failed: Mapping[str, str]
    """Images without a caption -> why; ``magicap caption --json`` writes such rows."""

    model: str
    """Fingerprint of the captioner where all rows name the same, else ``file-`` and a digest of them."""

    references: Sequence[CaptionedImage] | None = None
    """The references, where the file carries them."""

    confidences: Mapping[str, float] = field(default_factory=dict)
    """Image name or id -> probability that the caption is right, where the file says it."""

    finished: Mapping[str, bool] = field(default_factory=dict)
    """Image name or id -> whether the search came to an end, where the file says it."""

    ids: Mapping[str, str] = field(default_factory=dict)
    """Image name -> id, where the file has both."""

    steered_by: tuple[str, ...] = ()
    """Fingerprints of the scorers that steered the captions, where the file says it."""

    @property
    def about(self) -> dict[str, str]:
        """Entries of signatures: ``model``, and ``steered_by`` where it is known."""
        steered = {"steered_by": "+".join(self.steered_by)} if self.steered_by else {}
        return {"model": self.model, **steered}


def read_predictions(path: str | Path) -> Predictions:
    r"""Read captions from a file or folder of any form that :func:`~magicap.data.read_captions` knows.

    Rows of ``magicap caption --json`` say more: the model, confidences, which captions are finished, and what
    could not be captioned. MAGIC's published lists of ``image_name``, ``captions`` and ``prediction`` bring
    their references. Halves of characters, which JSON can hold and UTF-8 cannot, become replacement
    characters; in names, where they are bytes of a file name that is no text, they are written as ``magicap
    caption --json`` writes them, ``\xff``.

    Raises:
        BadData: none of these, images that stand twice, or several captions of one.
    """
    read = read_entries(Path(path), PREDICTIONS)
    if isinstance(read, Source):
        raise unknown_form(read)
    entries = [_without_surrogates(entry) for entry in read]
    if not entries:
        raise bad(path, "captions", "an empty list", "write or fetch it again")
    require_distinct([_name(entry) for entry in entries], str(path))
    said = {_name(entry): entry for entry in entries if not _is_error(entry)}
    captions = {name: _caption(entry) for name, entry in said.items()}
    return Predictions(
        str(path),
        captions,
        {_name(entry): _reason(entry) for entry in entries if _is_error(entry)},
        _model(entries),
        _references(entries),
        _fields(said, "confidence", (float, int)),
        _fields(said, "finished", (bool,)),
        {name: entry.row.id for name, entry in said.items() if entry.row.id is not None},
        tuple(sorted(set(_fields(said, "steered_by", (str,)).values()))),
    )


def _name(entry: Entry) -> str:
    if not entry.row.image:
        raise bad(entry.place, "the name of a picture", "none", "name it, as 'image'")
    return entry.row.image


def _is_error(entry: Entry) -> bool:
    """Whether it says why there is no caption, as ``magicap caption --json`` does."""
    return entry.fields.get("error") not in (None, "", WORDLESS) and not any(entry.row.captions)


def _reason(entry: Entry) -> str:
    return str(entry.fields.get("message") or entry.fields["error"])


def _caption(entry: Entry) -> str:
    """The one caption; a text file without text holds an empty one."""
    captions = entry.row.captions or ("",)
    if len(captions) > 1:
        raise bad(entry.place, f"one caption of {entry.row.image}", f"{len(captions)}", "leave one")
    require_short(captions[0], entry.place)
    return captions[0]


def _model(entries: Sequence[Entry]) -> str:
    models = {entry.fields.get("model") for entry in entries if not _is_error(entry)}
    if len(models) == 1 and None not in models:
        return str(models.pop())
    content = json.dumps([(entry.row.image, entry.row.captions, dict(entry.fields)) for entry in entries])
    return f"file-{hashlib.blake2b(content.encode(), digest_size=6).hexdigest()}"


def _references(entries: Sequence[Entry]) -> list[CaptionedImage] | None:
    """The references that published lists bring."""
    if not {"captions", "prediction"} <= set(entries[0].fields):
        return None
    return [replace(entry.row, captions=strings(entry.fields, "captions", entry.place)) for entry in entries]


def _fields(said: Mapping[str, Entry], key: str, kinds: tuple[type, ...]) -> dict[str, Any]:
    """What captions say under one key, as far as they do."""
    values = {name: entry.fields.get(key) for name, entry in said.items()}
    return {name: value for name, value in values.items() if isinstance(value, kinds)}


def _without_surrogates(entry: Entry) -> Entry:
    row = entry.row
    captions = tuple(_replace_surrogates([*row.captions]))
    row = replace(row, image=without_surrogates(row.image), captions=captions)
    return replace(entry, row=row, fields=_replace_surrogates(dict(entry.fields)))


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
