"""Captioners and files as rows of a comparison: captions made or read, for given images."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.captioners.provenance import Provenance
from magicap.data import ImageFiles
from magicap.errors import BadData
from magicap.evaluation.comparison import System
from magicap.evaluation.rows import caption_row
from magicap.metrics.clipscore import ClipScore
from magicap.results import WORDLESS
from magicap.settings_io import former_names, written_fields

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner, DecodingT
    from magicap.models.scorer import ImageTextScorer

_BATCH = 32  # pictures encoded at a time


def open_pictures(images: Sequence[str], files: Sequence[str | Path]) -> ImageFiles:
    """The tar files and folders that hold some images, which are all looked for at once.

    Raises:
        BadData, ImageNotFound: a path that holds no pictures, or an image that none of them holds.
    """
    pictures = ImageFiles(files)
    for name in images:
        if name not in pictures:
            pictures.read(name)  # which says what was looked for, and where
    return pictures


def clip_score(scorer: ImageTextScorer, images: Sequence[str], pictures: ImageFiles) -> ClipScore:
    """CLIPScore for named images; reads and encodes them once.

    Raises:
        BadImage: an image that cannot be read.
    """
    import torch

    batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    vectors = [scorer.encode_images([pictures.read(name) for name in batch]) for batch in batches]
    return ClipScore(scorer, torch.cat(vectors))


def caption_images(
    name: str,
    captioner: BaseCaptioner[DecodingT],
    decoding: DecodingT,
    images: Sequence[str],
    pictures: ImageFiles,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    keep: Path | None = None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> System:
    """Caption images by name.

    Args:
        name: the system's, in tables.
        captioner: of any kind.
        decoding: one of its kind.
        images: N names.
        pictures: what holds them.
        batch_size: pictures searched together; None: the captioner's choice.
        seed: of the first image, where the decoding samples; each next one has the next number.
        keep: a folder in which every caption is kept as soon as it is made, as JSON lines. What an earlier
            run with the same models, decoding, seed and images kept there is taken, not made again.
        on_progress: called with how many further images are done.

    Raises:
        BadData: an image cannot be captioned; a comparison has no place for holes.
    """
    provenance = Provenance.of(captioner, decoding)
    texts = [provenance.decoding, _former_text(decoding)]
    kept = None if keep is None else _kept_file(keep, name, provenance.model, texts, [str(seed), *images])
    rows = [] if kept is None else _kept_rows(kept)
    on_progress(len(rows))
    missing = images[len(rows) :]
    with _appended(kept) as write:
        made = captioner.caption(
            (pictures.read(image) for image in missing),
            decoding,
            batch_size=batch_size,
            seed=seed + len(rows),
        )
        for image, caption in zip(missing, made, strict=True):
            if caption.error is not None and caption.error.code != WORDLESS:
                raise BadData(
                    f"{image} cannot be captioned ({caption.error}); leave it out of the references"
                )
            rows.append(caption_row(image, caption, provenance))
            write(json.dumps(rows[-1], allow_nan=False))
            on_progress(1)
    return System(
        name,
        [row["caption"] for row in rows],
        about={**provenance.entries, "seed": str(seed)},
        finished=[row["finished"] for row in rows] if all("finished" in row for row in rows) else None,
    )


def _kept_file(
    folder: Path, name: str, model: str, decodings: Sequence[str], seed_and_images: Sequence[str]
) -> Path:
    """A file of its own for everything that decides the captions: the first that is there, or the first.

    Args:
        decodings: the captions' own, and the same as former releases wrote it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    readable = re.sub(r"[^\w.-]+", "_", name)
    paths = []
    for decoding in decodings:
        key = json.dumps([model, decoding, *seed_and_images])
        digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
        paths.append(folder / f"{readable}-{digest}.jsonl")
    return next((path for path in paths if path.is_file()), paths[0])


_LATER = (("rerank_top", None), ("prefix", ""))
"""Settings that the former release lacked, with the values that do what it did."""


def _former_text(decoding: object) -> str:
    """How the former release wrote a decoding: as its ``repr`` under the former names of its settings.

    It had no ``num_hypotheses``, which changes no caption, no ``rerank_top``, and re-ranked all, and no
    ``prefix``.
    """
    if not is_dataclass(decoding):
        return repr(decoding)
    former = {name: former_name for former_name, name in former_names(type(decoding)).items()}
    known = written_fields(decoding)
    settings = ", ".join(
        f"{former.get(name, name)}={value!r}"
        for name, value in vars(decoding).items()
        if name in known and name != "num_hypotheses" and (name, value) not in _LATER
    )
    return f"{type(decoding).__qualname__}({settings})"


def _kept_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of the first images, from an earlier run; a line that it was stopped in is cut off."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        path.write_text(complete, encoding="utf-8")
    return [json.loads(line) for line in complete.splitlines()]


@contextmanager
def _appended(path: Path | None) -> Iterator[Callable[[str], object]]:
    """A function that adds a line to a file at once, or does nothing without one."""
    if path is None:
        yield lambda line: None
        return
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield lambda line: file.write(line + "\n")
