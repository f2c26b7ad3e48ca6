"""What a request may ask for, made of the decodings' own settings, with the service's bounds."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from magicap.captioners.decodings import KNOWN_DECODINGS, SEARCH_SETTINGS
from magicap.docstrings import field_docstrings
from magicap.drawing import COMPETITORS
from magicap.service.limits import MOST, MOST_CANDIDATES, MOST_CAPTIONS, MOST_MATCHES, MOST_WORDS

WORD_LISTS = ("include", "exclude", "prefer")
"""Fields that are lists of words."""

_Word = Annotated[str, Field(max_length=100)]


class CaptionFields(BaseModel):
    """What all requests that caption a picture may say, beside how to search."""

    model_config = ConfigDict(extra="forbid")

    preset: str | None = Field(
        None, max_length=200, description="A name of /v1/presets; default: the service's own."
    )
    decoding: str | None = Field(
        None,
        max_length=40,
        description="How to search: beam-magic, magic, contrastive, greedy, top-k or nucleus, at that "
        "search's defaults; of the captioner's own kind, and by default, with its own settings.",
    )
    n: int | None = Field(
        None, ge=1, le=MOST_CAPTIONS, description="How many captions of each picture, the best first."
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="For searches that sample; picture i of a request has seed + i."
    )


def _description(setting: str) -> str:
    having = [kind for kind in KNOWN_DECODINGS.values() if setting in {one.name for one in fields(kind)}]
    return " ".join(field_docstrings(having[0]).get(setting, "").replace("``", "").split())


def _setting(name: str) -> tuple[Any, Any]:
    """A decoding's setting as a field of a request."""
    text = _description(name)
    if name in WORD_LISTS:
        return list[_Word] | None, Field(None, max_length=MOST_WORDS, description=text)
    having = next(kind for kind in KNOWN_DECODINGS.values() if name in {one.name for one in fields(kind)})
    return get_type_hints(having)[name] | None, Field(None, description=text, le=MOST.get(name))


_SETTINGS: dict[str, Any] = {name: _setting(name) for name in SEARCH_SETTINGS}
Fields: Any = create_model("Fields", __base__=CaptionFields, **_SETTINGS)
"""What a request to caption pictures may say, but for the pictures."""


class ProgressFields(Fields):  # type: ignore[misc]
    """What a request for a caption with its progress may say."""

    candidates: int = Field(
        COMPETITORS,
        ge=0,
        le=MOST_CANDIDATES,
        description="How many candidates of each token are reported; of hypotheses at least one is.",
    )
    alignment: bool = Field(
        False,
        description="Report also where in the picture the words of the caption sit, if the captioner can.",
    )


class SearchFields(BaseModel):
    """What a request to search the index may say, beside a picture to search with."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, min_length=1, max_length=2000, description="A sentence to search with.")
    top: int = Field(10, ge=1, le=MOST_MATCHES, description="How many matches.")


def settings_of(asked: Any) -> dict[str, Any]:
    """The decoding's settings that a request gives, by name."""
    values = {name: getattr(asked, name) for name in SEARCH_SETTINGS}
    settings = {name: value for name, value in values.items() if value is not None}
    return {name: tuple(value) if name in WORD_LISTS else value for name, value in settings.items()}
