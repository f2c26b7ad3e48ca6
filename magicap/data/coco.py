"""Data sets in one JSON document: Karpathy's, with splits, and COCO's own annotations, without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from magicap.data.checks import bad, id_field, list_of, string
from magicap.data.fields import slashed
from magicap.data.rows import CaptionedImage, Entry, split_in
from magicap.data.source import Source


def is_karpathy(source: Source) -> bool:
    """Whether it is one of Karpathy's files, or of their form."""
    return "images" in source.fields and "annotations" not in source.fields


def karpathy_entries(source: Source, _: Sequence[str]) -> Iterator[Entry]:
    """``dataset_coco.json``, ``dataset_flickr8k.json`` and their like; ``restval`` is ``train``.

    A picture goes by its ``filename``, and by ``filepath/filename`` where file names repeat. It has no split
    where its file names none.
    """
    images = [
        (f"{source.path}, images[{index}]", image)
        for index, image in enumerate(list_of(source.document, "images", str(source.path)))
    ]
    times = Counter(string(image, "filename", place) for place, image in images)
    for place, image in images:
        name, split = image["filename"], string(image, "split", place) if "split" in image else ""
        if times[name] > 1 and "filepath" in image:
            name = f"{string(image, 'filepath', place)}/{name}"
        sentences = enumerate(list_of(image, "sentences", place))
        captions = tuple(string(text, "raw", f"{place}, sentences[{index}]") for index, text in sentences)
        split = "train" if split == "restval" else split
        cocoid = id_field(image, "cocoid", place) if "cocoid" in image else None
        yield Entry(place, CaptionedImage(slashed(name), split, captions, id=cocoid), is_whole=True)


def is_annotations(source: Source) -> bool:
    """Whether it is one of COCO's annotation files."""
    return {"images", "annotations"} <= set(source.fields)


def annotation_entries(source: Source, _: Sequence[str]) -> Iterator[Entry]:
    """``captions_val2014.json`` and its like, all of the split that the file's name contains."""
    path, document = source.path, source.document
    split = split_in(path.stem)
    images: dict[str, tuple[str, str]] = {}
    for index, image in enumerate(list_of(document, "images", str(path))):
        place = f"{path}, images[{index}]"
        key = id_field(image, "id", place)
        if key in images:
            raise bad(place, "each id once", f"{key}, which stands twice", "remove one of the two")
        images[key] = place, string(image, "file_name", place)
    captions = _captions(path, document, images)
    for key, (place, name) in images.items():
        row = CaptionedImage(slashed(name), split, tuple(captions[key]), id=key)
        yield Entry(place, row, is_whole=True)


def _captions(path: Path, document: Any, images: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {key: [] for key in images}
    for index, annotation in enumerate(list_of(document, "annotations", str(path))):
        place = f"{path}, annotations[{index}]"
        key = id_field(annotation, "image_id", place)
        if key not in captions:
            unknown = f"{key}, which no image has"
            raise bad(place, "'image_id' to be the id of an image", unknown, "add the image or remove this")
        if "caption" not in annotation:
            names = ", ".join(map(repr, annotation))
            raise bad(place, "a 'caption'", f"{names:.80}", "give COCO's captions_*.json, not another task's")
        captions[key].append(string(annotation, "caption", place))
    return captions
