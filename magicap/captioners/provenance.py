"""What made a caption: enough to tell whether another run would make the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from magicap.decoding.settings import DECODINGS
from magicap.settings_io import to_dict
from magicap.supervised.settings import SUPERVISED_DECODINGS

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner


@dataclass(frozen=True)
class Provenance:
    """A captioner and a decoding, as rows and runs name them."""

    model: str
    """The captioner's fingerprint."""

    decoding: str
    """The decoding and its settings, see :func:`decoding_text`."""

    steered_by: str = ""
    """The fingerprint of the scorer that steered it; empty where none did."""

    @property
    def entries(self) -> dict[str, str]:
        """By name, as rows have them."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def of(cls, captioner: BaseCaptioner[Any], decoding: object | None = None) -> Provenance:
        """Of a captioner of any kind; None takes its own decoding."""
        search = captioner.decoding if decoding is None else decoding
        return cls(captioner.fingerprint, decoding_text(search), captioner.steered_by(search))


def decoding_text(decoding: object) -> str:
    """A decoding's kind and settings as JSON, by rising name; its ``repr`` for a decoding of one's own."""
    for table in (DECODINGS, SUPERVISED_DECODINGS):
        if type(decoding) in table.values():
            return json.dumps(to_dict(decoding, table), sort_keys=True, allow_nan=False)
    return repr(decoding)
