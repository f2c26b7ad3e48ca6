"""Captioners by name: one table of where their parts are, how they decode, who made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from magicap.decoding.settings import BeamMagicSearch, MagicSearch


@dataclass(frozen=True)
class Preset:
    """A named captioner: a folder, or parts that lie in several folders or are fetched from the hub."""

    origin: str
    """Who made it, from what."""

    licence: str
    """Under what terms it may be used, as far as its makers said."""

    folder: Path | None = None
    """A captioner's folder, which holds everything else."""

    language_model: str | Path = ""
    """Hub id or folder of the language model."""

    scorer: str | Path = ""
    """open_clip name, ``hf-hub:`` id or folder of the scorer."""

    scorer_tag: str | None = None
    """open_clip's tag of the scorer's weights, where it is a name."""

    decoding: MagicSearch | BeamMagicSearch | None = None
    """How it captions by default; None: magic search as published for COCO."""

    downloads: tuple[str, ...] = ()
    """The hub's repositories that hold the parts: the language model's, then the scorer's."""

    revision: Mapping[str, str] = field(default_factory=dict)
    """Repository of :attr:`downloads` -> the commit that is loaded; of others the newest."""

    memory: Path | None = None
    """Folder of the caption memory, where there is one."""

    samples_memory: bool = False
    """Whether one is sampled from the language model at first use, for beam magic search; without it the
    decoding is :attr:`decoding`."""


EMBEDDED = Path(__file__).parents[1] / "embedded"
"""The captioner that comes with the package, as ``save_pretrained`` wrote it."""

BASELINE = Path(__file__).parents[1] / "baseline"
"""The supervised captioner that comes with the package."""

UNPAIRED_FOLDER = Path(__file__).parents[1] / "unpaired"
"""Scorer and memory of the captioner that was trained without any captioned picture."""

DEFAULT, UNPAIRED, DEFAULT_SUPERVISED = "embedded", "unpaired", "cnn-lstm"

_CLIP, _CLIP_TAG, _CLIP_REPOSITORY = "ViT-B-32", "openai", "timm/vit_base_patch32_clip_224.openai"

PRESETS = {
    DEFAULT: Preset(
        folder=EMBEDDED,
        origin="trained by this project's recipes; see magicap/embedded/README.md",
        licence="Apache-2.0; learned from Flickr8k (research use) and COCO pictures (terms of their owners)",
    ),
    UNPAIRED: Preset(
        language_model=EMBEDDED / "language_model",
        scorer=UNPAIRED_FOLDER / "scorer",
        memory=UNPAIRED_FOLDER / "memory",
        decoding=BeamMagicSearch(neighbours=800, ngram_weight=0.25),
        origin="an ImageNet classifier and caption text alone; see magicap/unpaired/README.md",
        licence="Apache-2.0; the COCO captions in its memory are CC BY 4.0",
    ),
    DEFAULT_SUPERVISED: Preset(
        folder=BASELINE,
        origin="trained by recipes/train_cnn_lstm.py; see magicap/baseline/README.md",
        licence="Apache-2.0; the Flickr8k pictures and captions it learned from are for research use",
    ),
    "coco": Preset(
        language_model="cambridgeltl/magic_mscoco",
        scorer=_CLIP,
        scorer_tag=_CLIP_TAG,
        decoding=MagicSearch(top_k=45, alpha=0.1, beta=2.0, max_new_tokens=15),
        samples_memory=True,
        downloads=("cambridgeltl/magic_mscoco", _CLIP_REPOSITORY),
        origin="GPT-2 tuned on COCO captions by Su et al. 2022; CLIP ViT-B/32 by Radford et al. 2021",
        licence="as their authors published them; CLIP is MIT",
    ),
    "flickr30k": Preset(
        language_model="cambridgeltl/magic_flickr30k",
        scorer=_CLIP,
        scorer_tag=_CLIP_TAG,
        decoding=MagicSearch(top_k=25, alpha=0.1, beta=2.0, max_new_tokens=19),
        samples_memory=True,
        downloads=("cambridgeltl/magic_flickr30k", _CLIP_REPOSITORY),
        origin="GPT-2 tuned on Flickr30k captions by Su et al. 2022; CLIP ViT-B/32 by Radford et al. 2021",
        licence="as their authors published them; CLIP is MIT",
    ),
}
