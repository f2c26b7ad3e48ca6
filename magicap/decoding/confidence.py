"""How sure a caption is: the probability that it is right, from what its search knows anyway.

A caption is *right* when its CIDEr-D against the picture's references is above :data:`RIGHT_ABOVE`. A
logistic regression on a few figures of the search says how likely that is. It is fitted on pictures with
references (``recipes/calibrate_confidence.py``), for one captioner and one decoding, and holds for no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from magicap.arrays import FloatArray
from magicap.decoding.minimum_bayes_risk import Competition
from magicap.decoding.settings import DECODINGS, BeamMagicSearch
from magicap.errors import BadModel, BadSettings
from magicap.models.fingerprint import combined
from magicap.reading import read_text
from magicap.settings_io import from_dict, to_dict

RIGHT_ABOVE = 0.5
"""CIDEr-D, 0 to 10, above which a caption is right; as it is often printed, times 100: 50."""

_BEST = 10  # captions whose cosines are averaged: as many as are re-ranked by default
_FORMAT = 1
_NUMBERS = ("mean", "std", "weight")


def _mean(values: FloatArray) -> float:
    return math.fsum(values.tolist()) / len(values) if len(values) else 0.0


def _utilities(competition: Competition) -> FloatArray:
    return np.nan_to_num(competition.column("expected_utility"), nan=0.0)


def _expected_utility(competition: Competition) -> float:
    return float(_utilities(competition)[0])


def _mean_utility(competition: Competition) -> float:
    return _mean(_utilities(competition))


def _beam_gap(competition: Competition) -> float:
    """0 where no beam wrote a caption: then nothing was found better than what was remembered."""
    written = _utilities(competition)[~np.isnan(competition.column("log_probability"))]
    return _expected_utility(competition) - float(written.max()) if len(written) else 0.0


def _best_cosine(competition: Competition) -> float:
    cosines = competition.column("cosine")[:_BEST]
    return _mean(cosines[~np.isnan(cosines)])


def _evidence_cosine(competition: Competition) -> float:
    return _mean(competition.evidence.cosines)


FEATURES: Mapping[str, Callable[[Competition], float]] = {
    "expected_utility": _expected_utility,
    "mean_utility": _mean_utility,
    "beam_gap": _beam_gap,
    "best_cosine": _best_cosine,
    "evidence_cosine": _evidence_cosine,
}
"""What is known of a caption, by name:

- ``expected_utility``: of the chosen caption, 0 to 10.
- ``mean_utility``: the mean of all captions that competed: how much they, and so the evidence, agree.
- ``beam_gap``: by how much the chosen caption's expected utility is above that of the best one that a beam
  wrote, -10 to 10.
- ``best_cosine``: mean cosine of the picture and the ten best captions, of those whose cosine is known.
- ``evidence_cosine``: mean cosine of the picture and its evidence, which is low for a picture unlike what is
  remembered.
"""


def features_of(competition: Competition) -> dict[str, float]:
    """What is known of the chosen caption, as :data:`FEATURES` lists it; far below a millisecond.

    Args:
        competition: of one picture, with at least one hypothesis.
    """
    return {name: feature(competition) for name, feature in FEATURES.items()}


@dataclass(frozen=True)
class Term:
    """What one feature adds to the log odds: ``weight * (value - mean) / std``."""

    mean: float
    """Mean of the feature over the pictures that it was fitted on."""

    std: float
    """Standard deviation of it, above 0."""

    weight: float


@dataclass(frozen=True)
class ConfidenceModel:
    """A logistic regression: the probability that a caption is right."""

    terms: Mapping[str, Term]
    """By name of a feature."""

    bias: float
    """Log odds where every feature has its mean."""

    captioner: str
    """Fingerprint of the models and the memory that it was fitted for."""

    decoding: BeamMagicSearch
    """The search that it was fitted for."""

    pictures: int = 0
    """How many pictures it was fitted on."""

    def probability(self, features: Mapping[str, float]) -> float:
        """The probability that a caption is right, 0 to 1.

        Args:
            features: as :func:`features_of` gives them; those that have no term are ignored.

        Raises:
            BadSettings: a feature that has a term is missing.
        """
        if missing := [name for name in self.terms if name not in features]:
            raise BadSettings(f"expected the features {', '.join(self.terms)}; {missing[0]} is missing")
        odds = self._log_odds(features)
        return 0.5 * (1 + math.tanh(odds / 2))  # the logistic function, which cannot overflow this way

    def _log_odds(self, features: Mapping[str, float]) -> float:
        terms = self.terms.items()
        added = [term.weight * (features[name] - term.mean) / term.std for name, term in terms]
        return self.bias + (math.fsum(added) if all(map(math.isfinite, added)) else math.nan)

    def fits_decoding(self, decoding: object) -> bool:
        """Whether it was fitted for this decoding.

        How long a caption may be, and how many hypotheses are kept, make no difference.
        """
        if type(decoding) is not BeamMagicSearch:
            return False
        return _comparable(decoding) == _comparable(self.decoding)

    @property
    def fingerprint(self) -> str:
        """Twelve digits that tell it from any other."""
        return combined(self.to_json())

    def to_json(self) -> str:
        """As text, which :meth:`from_json` reads."""
        values = {
            "format": _FORMAT,
            "captioner": self.captioner,
            "decoding": to_dict(self.decoding, DECODINGS),
            "pictures": self.pictures,
            "bias": self.bias,
            "terms": {name: asdict(term) for name, term in self.terms.items()},
        }
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ConfidenceModel:
        """What :meth:`to_json` wrote.

        Raises:
            BadModel: it is no such text; the message says what is wrong with it.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadModel(f"expected JSON, found {error}") from error
        if not isinstance(values, dict):
            raise BadModel(f"expected a JSON object, found {type(values).__name__}")
        if values.get("format") != _FORMAT:
            raise BadModel(f"expected format {_FORMAT}, found {values.get('format')!r}; update magicap")
        if absent := [name for name in ("captioner", "decoding", "bias", "terms") if name not in values]:
            raise BadModel(f"expected an entry {absent[0]!r}, found {', '.join(values)}")
        model = cls(
            _terms(values["terms"]),
            _number("bias", values["bias"]),
            str(values["captioner"]),
            _decoding(values["decoding"]),
            int(_number("pictures", values.get("pictures", 0))),
        )
        for extreme in (-10.0, 10.0):  # no feature is larger
            odds = model._log_odds(dict.fromkeys(model.terms, extreme))
            if not math.isfinite(odds):
                raise BadModel(f"expected terms that give finite odds, found some that give {odds}")
        return model

    @classmethod
    def read(cls, path: Path) -> ConfidenceModel:
        """Read it from a file.

        Raises:
            BadModel: the file cannot be read or holds something else; the message names it.
        """
        try:
            return cls.from_json(read_text(path))
        except (OSError, ValueError) as error:  # BadModel is a ValueError
            raise BadModel(
                f"{path} is not a model of confidence: {error}; write it anew with "
                "recipes/calibrate_confidence.py"
            ) from error


def _comparable(decoding: BeamMagicSearch) -> BeamMagicSearch:
    """A decoding without the settings that do not decide which caption is chosen."""
    return replace(
        decoding,
        max_new_tokens=BeamMagicSearch.max_new_tokens,
        num_hypotheses=BeamMagicSearch.num_hypotheses,
    )


def _terms(values: Any) -> dict[str, Term]:
    if not isinstance(values, dict) or not values:
        raise BadModel(f"expected 'terms' by the name of a feature, found {values!r}")
    if unknown := sorted(set(values) - set(FEATURES)):
        raise BadModel(f"expected terms of {', '.join(FEATURES)}, found {unknown[0]!r}; update magicap")
    return {name: _term(name, value) for name, value in values.items()}


def _term(name: str, value: Any) -> Term:
    if not isinstance(value, dict) or set(value) != set(_NUMBERS):
        raise BadModel(f"expected {', '.join(_NUMBERS)} of {name}, found {value!r}")
    term = Term(*(_number(f"{part} of {name}", value[part]) for part in _NUMBERS))
    if term.std <= 0:
        raise BadModel(f"expected std of {name} above 0, found {term.std!r}")
    return term


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadModel(f"expected {name} to be a finite number, found {value!r}")
    return float(value)


def _decoding(values: Any) -> BeamMagicSearch:
    try:
        decoding = from_dict(values, DECODINGS)
    except BadSettings as error:
        raise BadModel(f"expected the settings of a decoding: {error}") from error
    if not isinstance(decoding, BeamMagicSearch):
        raise BadModel(f"expected the settings of beam magic search, found {values!r}")
    return decoding
