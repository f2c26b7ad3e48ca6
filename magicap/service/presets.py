"""The captioners that a service offers, each loaded when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magicap.captioners.decodings import KNOWN_DECODINGS
from magicap.captioners.folder import SUPERVISED, ZERO_SHOT, captioner_folder, kind_of, read_settings
from magicap.captioners.load import load_captioner
from magicap.captioners.presets import PRESETS
from magicap.captioners.sources import sources_of
from magicap.decoding.settings import MagicSearch
from magicap.errors import BadSettings
from magicap.service.errors import ServiceError
from magicap.settings_io import from_dict, to_dict
from magicap.supervised.settings import SUPERVISED_DECODINGS

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner


@dataclass(frozen=True)
class Offer:
    """A captioner that a service offers."""

    name: str
    kind: str
    origin: str
    licence: str
    decoding: dict[str, Any]
    """How it searches by default."""


class ServedPresets:
    """Captioners by name.

    Args:
        names: presets or captioners' folders; the first is the default and loaded at once.
        load: gives a captioner by its name.
        parts: description of the models they have in place of their own; empty: none.

    Raises:
        ModelNotFound, BadModel: as of :func:`magicap.load_captioner`, of the first.
        BadSettings: two have one name.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[str], AnyCaptioner] = load_captioner,
        *,
        parts: str = "",
    ) -> None:
        self._load, self._lock, self._parts = load, threading.Lock(), parts
        self._folders = {_shown_name(name): name for name in names}
        if len(self._folders) < len(names):
            shown = ", ".join(map(_shown_name, names))
            raise BadSettings(f"expected captioners of different names, found {shown}; rename a folder")
        self.default = next(iter(self._folders))
        self._loaded: dict[str, AnyCaptioner] = {}
        self._offers: dict[str, Offer] = {}
        self.get(self.default)
        for shown in self._folders.keys() - self._loaded.keys():
            self._offers[shown] = _offer(shown, self._folders[shown], parts)

    @property
    def offers(self) -> list[Offer]:
        """The captioners, in the order of their names: as they were loaded, or as their files say."""
        return [self._offers[shown] for shown in self._folders]

    def get(self, name: str | None = None) -> AnyCaptioner:
        """The captioner of a name; None: the default. Loading it takes seconds the first time.

        Raises:
            ServiceError: none of that name is offered.
        """
        name = name or self.default
        if name not in self._folders:
            raise ServiceError(
                422, "preset", f"expected one of the presets {', '.join(self._folders)}, found another"
            )
        if name in self._loaded:
            return self._loaded[name]
        with self._lock:
            if name not in self._loaded:
                captioner = self._load(self._folders[name])
                self._offers[name] = _offer(name, self._folders[name], self._parts, captioner)
                self._loaded[name] = captioner
            return self._loaded[name]

    def is_loaded(self, name: str) -> bool:
        """Whether the captioner of a name is in memory; False too for a name that is not offered."""
        return name in self._loaded


def decoding_settings(decoding: Any) -> dict[str, Any]:
    """A decoding's kind and settings."""
    return to_dict(decoding, KNOWN_DECODINGS)


def _shown_name(name: str) -> str:
    """A preset's name, or the last part of a folder's: the rest is nobody's business."""
    return name if name in PRESETS else name.rstrip("/").rpartition("/")[2]


def _offer(shown: str, name: str, parts: str, captioner: AnyCaptioner | None = None) -> Offer:
    """A captioner as it is offered: as it was loaded, or as its files say where it was not."""
    if captioner is not None:
        kind, decoding = _kind(captioner), captioner.decoding
    else:
        kind, folder = kind_of(name), captioner_folder(name)
        if kind == SUPERVISED and folder is not None:
            decoding = from_dict(read_settings(folder).decoding, SUPERVISED_DECODINGS)
        else:
            decoding = sources_of(name).decoding or MagicSearch()
    origin, licence = "a captioner's folder", "as its model card says"
    if name in PRESETS:
        origin, licence = PRESETS[name].origin, PRESETS[name].licence
    if parts:
        origin, licence = f"{origin}; but {parts}", f"{licence}; of other parts as their makers say"
    return Offer(shown, kind, origin, licence, decoding_settings(decoding))


def _kind(captioner: AnyCaptioner) -> str:
    from magicap.captioners.zero_shot import Captioner

    return ZERO_SHOT if isinstance(captioner, Captioner) else SUPERVISED
