"""How golden files name decodings, and the captioners that ship: what the script and the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicap import Captioner, ConsensusCaption, NearestCaption, SupervisedCaptioner, load_captioner
from magicap.decoding.settings import DECODINGS
from magicap.settings_io import from_dict, to_dict
from magicap.supervised.settings import SUPERVISED_DECODINGS

AnyCaptioner = Captioner | SupervisedCaptioner

GOLDEN = Path(__file__).parent
FLICKR8K = GOLDEN / "flickr8k.json"
FORMAT1 = GOLDEN / "format1"
ALBUM = FORMAT1 / "album"
EXPECTED = FORMAT1 / "expected.json"
MTIME_NS = 1_600_000_000 * 10**9  # of the album's pictures when they were indexed; git keeps no times


def decoding_of(values: dict[str, Any], captioner: AnyCaptioner) -> Any:
    """The decoding that a golden file describes as ``{"kind": name, ...}``.

    Args:
        captioner: which will use it; what is looked up in a memory is looked up in its own.
    """
    settings = {name: value for name, value in values.items() if name != "kind"}
    if values["kind"] == "nearest":
        return NearestCaption(captioner.memory, **settings)
    if values["kind"] == "consensus":
        return ConsensusCaption(captioner.memory, **settings)
    return from_dict(values, _table(captioner))


def described(values: dict[str, Any], captioner: AnyCaptioner) -> dict[str, Any]:
    """The same description with every setting in it, those at their defaults too."""
    if values["kind"] in ("nearest", "consensus"):
        return values
    return to_dict(decoding_of(values, captioner), _table(captioner))


def own_decoding(captioner: AnyCaptioner) -> dict[str, Any]:
    """A captioner's own decoding as a description."""
    return to_dict(captioner.decoding, _table(captioner))


def shipped_captioners() -> dict[str, AnyCaptioner]:
    """The captioners whose captions ``flickr8k.json`` holds, by name."""
    embedded = load_captioner("embedded", device="cpu")
    return {
        "embedded": embedded,
        "embedded without memory": Captioner(embedded.language_model, embedded.scorer),
        "unpaired": load_captioner("unpaired", device="cpu"),
        "cnn-lstm": load_captioner("cnn-lstm", device="cpu"),
    }


def _table(captioner: AnyCaptioner) -> dict[str, type]:
    return SUPERVISED_DECODINGS if isinstance(captioner, SupervisedCaptioner) else DECODINGS
