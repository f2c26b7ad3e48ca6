"""The table of a supervised captioner's searches: from the type of settings to what carries them out.

The only place that asks what kind of decoding it has before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from magicap.errors import BadSettings
from magicap.supervised.decoder import Decoder
from magicap.supervised.search import BeamOutput, beam_search, sample_words
from magicap.supervised.settings import BeamSearch, Sampling

SEARCHES: dict[type, Callable[[Decoder, Tensor, Sequence[int], Any], BeamOutput]] = {
    BeamSearch: lambda decoder, grid, seeds, settings: beam_search(
        decoder, grid, settings.beam_size, settings.max_new_tokens
    ),
    Sampling: lambda decoder, grid, seeds, settings: sample_words(
        decoder, grid, seeds, settings.captions, settings.max_new_tokens, settings.temperature
    ),
}
"""Settings of :data:`magicap.supervised.settings.SUPERVISED_DECODINGS` to their searches."""


def search_captions(decoder: Decoder, grid: Tensor, seeds: Sequence[int], decoding: Any) -> BeamOutput:
    """Captions of pictures from their grids (B, L, D), with B seeds for searches that sample.

    Raises:
        BadSettings: no decoding of a supervised captioner.
    """
    search = SEARCHES.get(type(decoding))
    if search is None:
        raise BadSettings(
            f"expected BeamSearch or Sampling, found {decoding!r}, which a supervised captioner cannot use"
        )
    return search(decoder, grid, seeds, decoding)
