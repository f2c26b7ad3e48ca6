"""A captioner of either kind by its name, and caption(): everything at its default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

import torch

from magicap.captioners.folder import SUPERVISED, as_device, as_dtype, kind_of, require_part
from magicap.captioners.hub import naming_downloads, revisions_of
from magicap.captioners.presets import DEFAULT
from magicap.captioners.repositories import pinned
from magicap.captioners.sources import sources_of
from magicap.errors import BadSettings
from magicap.images.reader import ImageSource
from magicap.models.loading import explain_loading_errors
from magicap.results import Caption

if TYPE_CHECKING:
    from magicap.captioners.supervised import SupervisedCaptioner
    from magicap.captioners.zero_shot import Captioner
    from magicap.data.hf_datasets import MapDataset, StreamedDataset
    from magicap.models.scorer import ImageTextScorer

    AnyCaptioner = Captioner | SupervisedCaptioner


def load_captioner(
    source: str | Path = DEFAULT,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = torch.float32,
    revision: str | Mapping[str, str] | None = None,
    memory: int | None = None,
) -> AnyCaptioner:
    """A captioner of whatever kind a preset, folder or repository of the hub holds.

    Args:
        source, device, dtype, revision, memory: as of :meth:`Captioner.from_pretrained`.

    Raises:
        ModelNotFound, BadModel: as from there.
    """
    # Imported where they are needed: either kind brings libraries of its own, which take time.
    source, revision = pinned(source, revision)
    if kind_of(source) == SUPERVISED:
        if memory:
            raise BadSettings(f"{source} is supervised and has no memory; leave the size of one out")
        with explain_loading_errors("supervised captioner", str(source)):
            from magicap.captioners.supervised import SupervisedCaptioner

        if revision:
            raise BadSettings(f"{source} is supervised and comes with the package; leave the revision out")
        return SupervisedCaptioner.from_pretrained(source, device=device, dtype=dtype)
    from magicap.captioners.zero_shot import Captioner

    return Captioner.from_pretrained(source, device=device, dtype=dtype, revision=revision, memory=memory)


def load_scorer(
    source: str | Path = DEFAULT,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = torch.float32,
    revision: str | Mapping[str, str] | None = None,
) -> ImageTextScorer:
    """The scorer of a captioner alone, for what needs no captions.

    Args:
        source, device, dtype, revision: as of :meth:`Captioner.from_pretrained`.

    Raises:
        ModelNotFound, BadModel: as from there.
    """
    from magicap.models.scorer import ImageTextScorer

    source, revision = pinned(source, revision)
    require_part(source, "scorer")
    place, precision = as_device(device), as_dtype(dtype)
    commits = revisions_of(source, revision)
    with naming_downloads(source, commits):
        return ImageTextScorer.from_pretrained(
            *sources_of(source).scorer, device=place, dtype=precision, revision=commits.scorer
        )


@overload
def caption(images: list[Any] | tuple[Any, ...], preset: str | Path = ...) -> list[Caption]: ...
@overload
def caption(images: ImageSource, preset: str | Path = ...) -> Caption: ...
@overload
def caption(images: MapDataset, preset: str | Path = ...) -> list[Caption]: ...
@overload
def caption(images: Iterator[Any] | StreamedDataset, preset: str | Path = ...) -> Iterator[Caption]: ...
def caption(images: Any, preset: str | Path = DEFAULT) -> Caption | list[Caption] | Iterator[Caption]:
    """Caption a picture, or a list or dataset of pictures in order, with everything at its default.

    The captioner is loaded at the first call and kept. See :meth:`Captioner.caption` for what a picture may
    be and what becomes of one that cannot be read.

    Args:
        preset: a preset's name or a captioner's folder.
    """
    with _loading:
        captioner = _loaded(str(preset))
    captions: Caption | list[Caption] | Iterator[Caption] = captioner.caption(images)
    return captions


_loading = Lock()
_loaded = lru_cache(maxsize=2)(load_captioner)
