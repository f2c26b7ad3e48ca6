"""magicap: captions for pictures, without training on captioned pictures.

from magicap import caption
caption("photo.jpg")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from magicap.version import __version__ as __version__

if TYPE_CHECKING:
    from magicap.captioners.load import caption as caption
    from magicap.captioners.load import load_captioner as load_captioner
    from magicap.captioners.supervised import SupervisedCaptioner as SupervisedCaptioner
    from magicap.captioners.zero_shot import Captioner as Captioner
    from magicap.decoding.retrieved import ConsensusCaption as ConsensusCaption
    from magicap.decoding.retrieved import NearestCaption as NearestCaption
    from magicap.decoding.settings import BeamMagicSearch as BeamMagicSearch
    from magicap.decoding.settings import ContrastiveSearch as ContrastiveSearch
    from magicap.decoding.settings import Greedy as Greedy
    from magicap.decoding.settings import MagicSearch as MagicSearch
    from magicap.decoding.settings import Nucleus as Nucleus
    from magicap.decoding.settings import TopK as TopK
    from magicap.errors import BadData as BadData
    from magicap.errors import BadImage as BadImage
    from magicap.errors import BadIndex as BadIndex
    from magicap.errors import BadModel as BadModel
    from magicap.errors import BadSettings as BadSettings
    from magicap.errors import ImageNotFound as ImageNotFound
    from magicap.errors import MagicapError as MagicapError
    from magicap.errors import MetricUnavailable as MetricUnavailable
    from magicap.errors import MissingPackage as MissingPackage
    from magicap.errors import ModelNotFound as ModelNotFound
    from magicap.models.language_model import LanguageModel as LanguageModel
    from magicap.models.scorer import ImageTextScorer as ImageTextScorer
    from magicap.results import Caption as Caption
    from magicap.results import Step as Step
    from magicap.retrieval.caption_memory import CaptionMemory as CaptionMemory
    from magicap.retrieval.index import RetrievalIndex as RetrievalIndex
    from magicap.retrieval.items import Item as Item
    from magicap.retrieval.items import Match as Match
    from magicap.supervised.settings import BeamSearch as BeamSearch
    from magicap.supervised.settings import Sampling as Sampling


# Where each public name lives. They are imported on first use: importing magicap alone loads no torch.
_EXPORTS = {
    "magicap.captioners.zero_shot": ("Captioner",),
    "magicap.retrieval.caption_memory": ("CaptionMemory",),
    "magicap.decoding.retrieved": ("ConsensusCaption", "NearestCaption"),
    "magicap.decoding.settings": (
        "BeamMagicSearch",
        "ContrastiveSearch",
        "Greedy",
        "MagicSearch",
        "Nucleus",
        "TopK",
    ),
    "magicap.errors": (
        "BadData",
        "BadImage",
        "BadIndex",
        "BadModel",
        "BadSettings",
        "ImageNotFound",
        "MagicapError",
        "MetricUnavailable",
        "MissingPackage",
        "ModelNotFound",
    ),
    "magicap.captioners.load": ("caption", "load_captioner"),
    "magicap.models.language_model": ("LanguageModel",),
    "magicap.models.scorer": ("ImageTextScorer",),
    "magicap.results": ("Caption", "Step"),
    "magicap.retrieval.index": ("RetrievalIndex",),
    "magicap.retrieval.items": ("Item", "Match"),
    "magicap.captioners.supervised": ("SupervisedCaptioner",),
    "magicap.supervised.settings": ("BeamSearch", "Sampling"),
}
_HOME = {name: home for home, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'magicap' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
