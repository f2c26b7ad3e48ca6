"""A second scorer of the same methods that matches words with patches, to re-rank by.

The towers of an :class:`ImageTextScorer` are frozen. Two small projections read the towers' states of single
patches and words, and the score is their late interaction (many to many, in the manner of SCAN, Lee et al.
2018, and FILIP, Yao et al. 2022), or what bilinear pooling makes of them (BAN, Kim et al. 2018), beside the
global cosine (one to one).

Shapes: N pictures of L patches, M texts of T words, D width of the global space, E of the local one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from magicap.checks import require_int
from magicap.errors import BadModel, BadSettings, ModelNotFound
from magicap.files import open_to_readers
from magicap.images.reader import ImageSource, open_image
from magicap.models.fine_grained.late_interaction import candidates_first
from magicap.models.fine_grained.local_features import (
    FineGrainedSettings,
    LocalHeads,
    LocalImages,
    LocalTexts,
    TowerStates,
    padded,
)
from magicap.models.finite import require_finite, require_unit
from magicap.models.loading import explain_loading_errors
from magicap.models.scorer import ImageTextScorer
from magicap.reading import read_text

FORMAT = 1
SETTINGS_FILE = "fine_grained.json"
WEIGHTS_FILE = "fine_grained.safetensors"


@dataclass(frozen=True)
class Candidates:
    """The nearest few of every picture and every text by the global score, with their local scores."""

    cosines: Tensor
    """(N, M) the global score."""

    texts: Tensor
    """(N, K) the texts nearest to each picture."""

    texts_local: Tensor
    """(N, K) their local scores."""

    images: Tensor
    """(M, K) the pictures nearest to each text; K is smaller where there are fewer pictures."""

    images_local: Tensor
    """(M, K) their local scores."""

    def ranked(self, weight: float) -> tuple[Tensor, Tensor]:
        """Candidates by cosine plus weighted local score, and behind them all others by cosine.

        Returns:
            Two (N, M) in float64: in the first a row ranks the texts for a picture, in the second a column
            ranks the pictures for a text.
        """
        texts = self.cosines.gather(1, self.texts) + weight * self.texts_local
        images = self.cosines.T.gather(1, self.images) + weight * self.images_local
        return (
            candidates_first(self.cosines, self.texts, texts),
            candidates_first(self.cosines.T, self.images, images).T,
        )


@dataclass(frozen=True)
class Alignment:
    """How well each word of a text fits each place of a picture."""

    words: tuple[str, ...]
    """The text, parted at white space."""

    cosines: Tensor
    """(words, rows, columns) of each word with each place of the picture, in [-1, 1]."""

    seen: tuple[float, float, float, float]
    """Left, top, right and bottom of these places in widths and heights of the picture: 0, 0, 1, 1 where the
    scorer sees it whole. It may cut the sides off, or pad them."""


class FineGrainedScorer:
    """Pictures and texts by their parts.

    Args:
        scorer: one whose towers show patches and words; shared, not copied.
        settings: which states are read, and how much the score counts; None: the defaults.
        heads: trained projections of the settings' shape; None makes fresh ones, for recipes.

    Attributes:
        scorer: whose towers are read.
        heads: the local projections.
        settings: what they read, and how much their score counts.

    Raises:
        BadModel: the scorer's towers are of another kind.
    """

    def __init__(
        self,
        scorer: ImageTextScorer,
        settings: FineGrainedSettings | None = None,
        heads: LocalHeads | None = None,
    ) -> None:
        self.scorer = scorer
        self.settings = settings or FineGrainedSettings()
        self.states = TowerStates(scorer, self.settings)
        self.heads = (heads or self._fresh_heads()).to(scorer.device).eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, scorer: ImageTextScorer) -> FineGrainedScorer:
        """What :meth:`save_pretrained` wrote, with the scorer that it was trained on.

        Raises:
            ModelNotFound: nothing there.
            BadModel: of another scorer, of another format, or damaged.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        stored = _settings(folder)
        with explain_loading_errors("fine-grained scorer", str(folder)):
            _require_format_and_scorer(folder, stored, scorer.fingerprint)
            fine = cls(scorer, FineGrainedSettings(**stored["settings"]))
            fine.heads.load_state_dict(load_file(folder / WEIGHTS_FILE))
        what = f"fine-grained scorer {str(folder)!r}"
        require_finite(fine.heads, what)
        picture, words = fine.encode_images([Image.linear_gradient("L")]), fine.encode_texts(["a dog runs"])
        require_unit(picture.patches, what)
        require_unit(words.words[words.mask], what)
        return fine

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write settings, projections (in ``dtype``) and the scorer's fingerprint, but not the scorer."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stored = {"format": FORMAT, "scorer": self.scorer.fingerprint, "settings": asdict(self.settings)}
        (folder / SETTINGS_FILE).write_text(
            json.dumps(stored, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        weights = {
            name: weight.detach().to(dtype).contiguous() for name, weight in self.heads.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        open_to_readers(folder)

    def encode_images(self, images: Sequence[ImageSource], batch_size: int = 32) -> LocalImages:
        """Global and local vectors of pictures.

        Args:
            images: each anything that :func:`magicap.images.reader.open_image` takes.

        Raises:
            BadImage: a picture cannot be read.
            BadSettings: there is no picture.
        """
        if not images:
            raise BadSettings("expected at least one picture, found none")
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        encoded = [
            self.encode_pixels(torch.stack([self.scorer.pixels(image) for image in batch]))
            for batch in batches
        ]
        return LocalImages(
            torch.cat([batch.vectors for batch in encoded]),
            torch.cat([batch.patches for batch in encoded]),
            encoded[0].grid,
        )

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> LocalImages:
        """Global and local vectors of pictures as the scorer's ``pixels`` gives them, (N, 3, H, W)."""
        vectors, states = self.states.of_pixels(pixels)
        patches = self.heads.patches(states.flatten(2).transpose(1, 2))
        return LocalImages(vectors, patches, (states.shape[2], states.shape[3]))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> LocalTexts:
        """Global and local vectors of texts. Special tokens that stand in a text are dropped."""
        vectors, states, counts = self.states.of_texts(texts, batch_size)
        return LocalTexts(vectors, *padded(self.heads.words(states), counts))

    def similarity(self, images: Sequence[ImageSource], texts: Sequence[str]) -> Tensor:
        """Global cosine plus weighted local score, (number of pictures, number of texts)."""
        return self.compare(self.encode_images(images), self.encode_texts(texts))

    @torch.inference_mode()
    def compare(self, images: LocalImages, texts: LocalTexts) -> Tensor:
        """:meth:`similarity` of what is encoded already, (N, M)."""
        local = self.heads.scores(images.patches, texts.words, texts.mask)
        return images.vectors @ texts.vectors.T + self.settings.weight * local

    def rerank(self, images: LocalImages, texts: LocalTexts, top: int = 20) -> tuple[Tensor, Tensor]:
        """Rank by the global cosine, then the first of each query again by :meth:`compare`'s score.

        Args:
            images: N pictures.
            texts: M texts.
            top: how many texts of each picture, and pictures of each text, are scored again.

        Returns:
            Two (N, M) in float64: in the first a row ranks the texts for a picture, in the second a column
            ranks the pictures for a text. All others stand behind these candidates, by their cosines.
        """
        return self.candidates(images, texts, top).ranked(self.settings.weight)

    @torch.inference_mode()
    def candidates(self, images: LocalImages, texts: LocalTexts, top: int = 20) -> Candidates:
        """The ``top`` nearest of each query by the global cosine, with their local scores.

        Raises:
            BadSettings: ``top`` is no whole number of at least 1.
        """
        require_int("top", top)
        local = partial(self.heads.scores_of_pairs, images, texts)
        cosines = images.vectors @ texts.vectors.T
        nearest_texts = cosines.topk(min(top, cosines.shape[1]), dim=1).indices
        nearest_images = cosines.T.topk(min(top, cosines.shape[0]), dim=1).indices
        picture = torch.arange(len(nearest_texts), device=cosines.device)[:, None].expand_as(nearest_texts)
        text = torch.arange(len(nearest_images), device=cosines.device)[:, None].expand_as(nearest_images)
        return Candidates(
            cosines, nearest_texts, local(picture, nearest_texts), nearest_images, local(nearest_images, text)
        )

    def align(self, image: ImageSource, text: str) -> Alignment:
        """How well each word fits each place of a picture; a word of several tokens is their mean.

        Raises:
            BadImage: the picture cannot be read.
        """
        picture = open_image(image)
        return self.align_pixels(self.scorer.pixels(picture), picture.size, text)

    @torch.inference_mode()
    def align_pixels(self, pixels: Tensor, size: tuple[int, int], text: str) -> Alignment:
        """:meth:`align` of a picture as the scorer's ``pixels`` gives it.

        Args:
            pixels: (3, H, W) bytes.
            size: width and height of the picture itself.
        """
        pictures, texts = self.encode_pixels(pixels[None]), self.encode_texts([text])
        cosines = texts.words[0] @ pictures.patches[0].T
        words = self.states.tokens_by_word(text)
        rows = [cosines[tokens].mean(dim=0).view(pictures.grid) for _, tokens in words]
        empty = cosines.new_empty(0, *pictures.grid)
        seen = _seen(self.scorer.config["preprocess_cfg"], size)
        return Alignment(tuple(word for word, _ in words), torch.stack(rows) if rows else empty, seen)

    def _fresh_heads(self) -> LocalHeads:
        blank = self.scorer.preprocess(Image.new("RGB", (8, 8)))
        try:
            image_width = self.states.of_pixels(blank[None])[1].shape[1]
        except AssertionError as error:  # how timm and open_clip say that there is no such block
            raise BadModel(
                f"expected at least {-self.settings.image_block} blocks in the image tower, found fewer "
                f"({error}); set image_block closer to -1"
            ) from error
        text_width = int(self.states.text_tower.part.positional_embedding.shape[1])
        return LocalHeads(image_width, text_width, self.settings)


def _seen(preprocess: dict[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Where in a picture of a width and height lies what open_clip's transform makes of it."""
    mode, sides = preprocess.get("resize_mode") or "shortest", preprocess["size"]
    if mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    height, width = (sides, sides) if isinstance(sides, int) else sides[-2:]
    ratios = size[0] / width, size[1] / height
    scale = min(ratios) if mode == "shortest" else max(ratios)
    across, down = scale * width / size[0], scale * height / size[1]
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def require_made_for(folder: str | Path, scorer: str) -> None:
    """Refuse a fine-grained scorer that was trained on another scorer than this.

    Args:
        folder: what :meth:`FineGrainedScorer.save_pretrained` wrote.
        scorer: fingerprint of the scorer in float32.

    Raises:
        ModelNotFound: nothing there.
        BadModel: of another scorer, of another format, or damaged.
    """
    folder = Path(folder)
    _require_format_and_scorer(folder, _settings(folder), scorer)


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / SETTINGS_FILE).is_file():
        raise ModelNotFound(
            f"{folder}: expected a fine-grained scorer with {SETTINGS_FILE}, found none; "
            "train one with recipes/train_fine_grained.py"
        )
    with explain_loading_errors("fine-grained scorer", str(folder)):
        stored: dict[str, Any] = json.loads(read_text(folder / SETTINGS_FILE))
    return stored


def _require_format_and_scorer(folder: Path, stored: dict[str, Any], scorer: str) -> None:
    if stored.get("format") != FORMAT:
        raise BadModel(
            f"{folder / SETTINGS_FILE}: expected format {FORMAT}, found {stored.get('format')!r}; "
            "use the version of magicap that wrote it, or train it anew"
        )
    if stored["scorer"] != scorer:
        raise BadModel(
            f"{folder}: expected the scorer {stored['scorer']} that it was trained on, "
            f"found {scorer}; load that scorer, in float32, or train anew with "
            "recipes/train_fine_grained.py"
        )
