"""Data sets in one JSON document: Karpathy's, with splits, and COCO's own annotations, without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicap.data.checks import bad, id_field, list_of, string
from magicap.data.rows import CaptionedImage, Placed, split_in


def karpathy_rows(path: Path, document: Any) -> Iterator[Placed]:
    """Rows of ``dataset_coco.json``, ``dataset_flickr8k.json`` and their like; ``restval`` is ``train``.

    A picture goes by its ``filename``, and by ``filepath/filename`` where file names repeat.
    """
    images = [
        (f"{path}, images[{index}]", image)
        for index, image in enumerate(list_of(document, "images", str(path)))
    ]
    times = Counter(string(image, "filename", place) for place, image in images)
    for place, image in images:
        name, split = image["filename"], string(image, "split", place)
        if times[name] > 1 and "filepath" in image:
            name = f"{string(image, 'filepath', place)}/{name}"
        sentences = enumerate(list_of(image, "sentences", place))
        captions = tuple(string(text, "raw", f"{place}, sentences[{index}]") for index, text in sentences)
        split = "train" if split == "restval" else split
        cocoid = id_field(image, "cocoid", place) if "cocoid" in image else None
        yield place, CaptionedImage(name, split, captions, id=cocoid)


def annotation_rows(path: Path, document: Any) -> Iterator[Placed]:
    """Rows of ``captions_val2014.json`` and its like, all of the split that the file's name contains."""
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
        yield place, CaptionedImage(name, split, tuple(captions[key]), id=key)


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
