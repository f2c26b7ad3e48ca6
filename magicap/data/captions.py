"""Readers of caption data: JSON lines of captioned pictures, tar files of their images, plain text."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from magicap.data.text import normalise_caption


@dataclass(frozen=True)
class CaptionedImage:
    """One row of a ``captions.jsonl``: a picture's name, its split and its reference captions."""

    image: str
    """File name of the picture; unique within the data set."""

    split: str
    """Part of the data set: ``train``, ``dev``, ``val`` or ``test``."""

    captions: tuple[str, ...]
    """Reference captions as they stand in the file."""

    flickr8k_split: str | None = None
    """Where the same picture stands in Flickr8k, for data sets that overlap with it."""


def read_captions(path: str | Path, splits: Collection[str] | None = None) -> list[CaptionedImage]:
    """Rows of a JSON-lines file, in order.

    Args:
        path: one JSON object a line with ``image``, ``split`` and ``captions``.
        splits: keep only rows of these splits; None keeps all.

    Raises:
        ValueError: a line is not such an object, or an image name stands twice.
    """
    rows = []
    seen: set[str] = set()
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _row(line, f"{path}, line {number}")
            if row.image in seen:
                raise ValueError(
                    f"{path}, line {number}: image {row.image!r} stands twice; names must be unique"
                )
            seen.add(row.image)
            if splits is None or row.split in splits:
                rows.append(row)
    return rows


def _row(line: str, place: str) -> CaptionedImage:
    try:
        fields: Any = json.loads(line)
        image, split, captions = fields["image"], fields["split"], fields["captions"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place}: expected a JSON object with 'image', 'split' and 'captions', found {line[:80]!r}"
        ) from error
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{place}: 'captions' must be a list of strings, found {captions!r:.80}")
    return CaptionedImage(str(image), str(split), tuple(captions), fields.get("flickr8k_split"))


def read_sentences(
    path: str | Path, splits: Collection[str] = ("train",), held_out: Collection[str] = ("dev", "test")
) -> list[str]:
    """Normalised captions of a text file (one a line) or of a ``.jsonl`` of captioned pictures.

    Args:
        path: ``.jsonl`` or plain text.
        splits: the splits to read from a ``.jsonl``; a text file has none and is read whole.
        held_out: Flickr8k splits whose pictures are left out wherever a row names one, so that a
            model judged on Flickr8k never reads the captions it is judged by.
    """
    if Path(path).suffix == ".jsonl":
        rows = read_captions(path, splits)
        texts: Sequence[str] = [
            text for row in rows if row.flickr8k_split not in held_out for text in row.captions
        ]
    else:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
    sentences = (normalise_caption(text) for text in texts)
    return [sentence for sentence in sentences if sentence]


class TarImages:
    """Encoded pictures of one or more tar files, by name. Not thread-safe; open one a worker.

    The files stay open until :meth:`close` or the end of a ``with`` block.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._tars = ExitStack()
        self._members: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
        for path in paths:
            tar = self._tars.enter_context(tarfile.open(path))  # noqa: SIM115 - kept open on purpose
            self._members.update({member.name: (tar, member) for member in tar if member.isfile()})

    def close(self) -> None:
        self._tars.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def read(self, name: str) -> bytes:
        """The encoded bytes of a picture.

        Raises:
            KeyError: no such picture in these files.
        """
        tar, member = self._members[name]
        file = tar.extractfile(member)
        if file is None:
            raise KeyError(f"{name!r} is not a plain file")
        return file.read()
