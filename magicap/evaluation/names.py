"""What captions call an image, and which image of the references that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self

from magicap.data import CaptionedImage
from magicap.data.fields import slashed
from magicap.errors import BadData
from magicap.images.formats import has_picture_suffix

_LISTED = 5  # names that an error lists


@dataclass(frozen=True)
class ImageNames:
    """The references' images by their ids, and by the ends of their paths."""

    ids: Mapping[str, str]
    by_end: Mapping[str, Sequence[str]]
    """File name, with its picture's suffix and without -> images."""

    @classmethod
    def of(cls, references: Sequence[CaptionedImage]) -> Self:
        """Those of some references."""
        by_end: dict[str, list[str]] = {}
        for row in references:
            end = _parts(row.image)[-1]
            for key in {end, _without_suffix(end)}:
                by_end.setdefault(key, []).append(row.image)
        return cls({row.id: row.image for row in references if row.id is not None}, by_end)

    def find(self, name: str) -> list[str]:
        """The images that a name can mean: by id; by path or an end of it; by that less a picture's suffix.

        Two names that both have a suffix mean one image only if it is the same.
        """
        if (key := name.lstrip("0") if name.isdigit() else name) in self.ids:
            return [self.ids[key]]
        alike = self.by_end.get(_without_suffix(_parts(name)[-1]), ())
        return [image for image in alike if _ends_alike(_parts(name), _parts(image))] or [
            image
            for image in alike
            if has_picture_suffix(name) != has_picture_suffix(image)
            and _ends_alike(_parts(_without_suffix(name)), _parts(_without_suffix(image)))
        ]


def require_distinct(names: Iterable[str], source: str) -> None:
    """Refuse names that stand more than once.

    Raises:
        BadData: there are such.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadData(f"{source}: {len(twice)} images stand more than once: {some(twice)}")


def some(names: Sequence[str]) -> str:
    """The first few of several names."""
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _ends_alike(parts: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the shorter of two paths is the end of the other."""
    shared = min(len(parts), len(others))
    return parts[-shared:] == others[-shared:]


def _without_suffix(name: str) -> str:
    return name.rpartition(".")[0] if has_picture_suffix(name) else name


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(slashed(name)).parts or (name,)
