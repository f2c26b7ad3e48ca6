"""A captioner's decoding with some of its settings replaced, as commands and services are asked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from magicap.decoding.settings import DECODINGS
from magicap.errors import BadSettings
from magicap.supervised.settings import SUPERVISED_DECODINGS

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner

KNOWN_DECODINGS = {**DECODINGS, **SUPERVISED_DECODINGS}
"""Decodings of captioners of either kind, by name."""

SEARCH_SETTINGS = (
    "top_k",
    "top_p",
    "alpha",
    "beta",
    "beam_size",
    "num_finished",
    "neighbours",
    "ngram_weight",
    "image_weight",
    "rerank_weight",
    "rerank_top",
    "temperature",
    "min_words",
    "max_words",
    "length_penalty",
    "max_new_tokens",
    "include",
    "exclude",
    "prefer",
    "prefer_weight",
    "soft_prompt",
    "prefix",
)
"""Settings of decodings that a call may give, each for captioners whose decoding has it."""


def decoding_with(
    captioner: BaseCaptioner[Any],
    decoding: str | None,
    settings: Mapping[str, Any],
    *,
    preset: str,
    option_name: Callable[[str], str] = str,
) -> Any:
    """The captioner's own decoding, or one of another kind at its defaults, with some settings replaced.

    Args:
        decoding: a name of :data:`magicap.decoding.settings.DECODINGS`; None takes the captioner's own.
        settings: values by the names of the decoding's fields.
        preset: the captioner's name for people.
        option_name: how the name of a setting is written where it was given.

    Raises:
        BadSettings: a setting that the decoding does not have, or a value out of range.
    """
    chosen: Any = captioner.decoding
    if decoding is not None:
        if decoding not in DECODINGS:
            raise BadSettings(
                f"{option_name('decoding')}: expected one of {', '.join(DECODINGS)}, found another name"
            )
        if type(chosen) not in DECODINGS.values():
            raise BadSettings(
                f"{option_name('decoding')}: {preset} is a supervised captioner, which has one of its own"
            )
        if type(chosen) is not DECODINGS[decoding]:
            chosen = DECODINGS[decoding]()
    known = {setting.name for setting in fields(chosen)}
    if unknown := [option_name(name) for name in settings if name not in known]:
        accepted = ", ".join(option_name(name) for name in SEARCH_SETTINGS if name in known)
        raise BadSettings(
            f"{', '.join(unknown)}: this captioner's decoding is {type(chosen).__name__}, which has "
            f"{accepted}; leave the others out"
        )
    return replace(chosen, **settings)


def keeping_hypotheses(decoding: Any, wanted: int, *, option: str) -> Any:
    """A decoding that keeps at least so many hypotheses with a caption.

    Args:
        decoding: settings of a search.
        wanted: the captions asked for, the best included; 1 changes nothing.
        option: the option that asks for them, as it was written.

    Raises:
        BadSettings: it compares no whole captions.
    """
    if wanted == 1:
        return decoding
    if not hasattr(decoding, "num_hypotheses"):
        raise BadSettings(
            f"{option} needs a decoding that compares whole captions, found {type(decoding).__name__}"
        )
    return replace(decoding, num_hypotheses=max(wanted, decoding.num_hypotheses))
