"""States of single patches and words in an image-text model's towers, as vectors of one local space.

Shapes: N pictures of L patches, M texts of T words, D width of the global space, E of the local one, W of a
tower. A word is a token between start and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicap.checks import require_int, require_number
from magicap.errors import BadModel, BadSettings
from magicap.models.fine_grained.bilinear import BilinearPooling
from magicap.models.fine_grained.late_interaction import late_interaction, late_interaction_of_pairs
from magicap.models.scorer import ImageTextScorer

Pooling = Literal["late_interaction", "bilinear"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


@dataclass(frozen=True)
class FineGrainedSettings:
    """What the local projections read, and how much their score counts."""

    width: int = 64
    """E, of the local space."""

    hidden: int = 256
    """Width of the layer between a tower's states and the local space."""

    dropout: float = 0.1
    """In front of both layers, while training."""

    region: int = 2
    """A patch of ours is the mean of a square of the tower's patches, so many a side."""

    image_block: int = -2
    """Which block's states a patch has, counted from behind. Where the class token is pooled, no loss has
    taught the last block what to make of patches."""

    text_block: int = -2
    """Which block's states a word has, counted from behind; likewise where the end token is pooled."""

    weight: float = 1.0
    """What the local score counts beside the global cosine."""

    pooling: Pooling = "late_interaction"
    """How the words of a text and the patches of a picture become one score."""

    glimpses: int = 2
    """How many attentions bilinear pooling has."""

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise BadSettings(f"pooling must be {' or '.join(POOLINGS)}, found {self.pooling!r}")
        for name in ("width", "hidden", "region", "glimpses"):
            require_int(name, getattr(self, name))
        for name in ("image_block", "text_block"):
            expected = "a whole number counted from behind, -1 for the last block"
            require_number(name, getattr(self, name), lambda block: block <= -1 and block % 1 == 0, expected)
        require_number("dropout", self.dropout, lambda share: 0 <= share < 1, "at least 0 and below 1")
        require_number("weight", self.weight, lambda weight: True, "a finite number")


@dataclass(frozen=True)
class LocalImages:
    """N pictures, encoded by a fine-grained scorer."""

    vectors: Tensor
    """(N, D) global unit vectors."""

    patches: Tensor
    """(N, L, E) local unit vectors, row by row of the grid."""

    grid: tuple[int, int]
    """Rows and columns of patches, L together."""


@dataclass(frozen=True)
class LocalTexts:
    """M texts, encoded by a fine-grained scorer."""

    vectors: Tensor
    """(M, D) global unit vectors."""

    words: Tensor
    """(M, T, E) local unit vectors, zero at padding."""

    mask: Tensor
    """(M, T) true at words, false at padding."""


class LocalHeads(nn.Module):
    """The part that is trained: projections of patches and words, how these are pooled, the temperature.

    Args:
        image_width: W of the image tower.
        text_width: W of the text tower.
        settings: width of the projections, their dropout, and how they are pooled.
    """

    def __init__(self, image_width: int, text_width: int, settings: FineGrainedSettings) -> None:
        super().__init__()
        self.image = _projection(image_width, settings)
        self.text = _projection(text_width, settings)
        self.logit_scale = nn.Parameter(torch.tensor(20.0).log())
        is_bilinear = settings.pooling == "bilinear"
        self.bilinear = BilinearPooling(settings.width, settings.glimpses) if is_bilinear else None

    def patches(self, states: Tensor) -> Tensor:
        """Unit vectors (..., E) of the image tower's states (..., W)."""
        return F.normalize(self.image(states.float()), dim=-1)

    def words(self, states: Tensor) -> Tensor:
        """Unit vectors (..., E) of the text tower's states (..., W)."""
        return F.normalize(self.text(states.float()), dim=-1)

    def scores(self, patches: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Local scores (N, M) of all pictures with all texts; differentiable.

        Args:
            patches: (N, L, E) as :meth:`patches` gives them.
            words: (M, T, E) as :meth:`words` gives them, padded.
            mask: (M, T) true at words, false at padding.
        """
        if self.bilinear is None:
            return late_interaction(patches, words, mask)
        scores: Tensor = self.bilinear(patches, words, mask)
        return scores

    def scores_of_pairs(
        self, images: LocalImages, texts: LocalTexts, rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Local scores of some pairs only, in the shape of ``rows`` and ``columns``; for ranking.

        Args:
            images: N pictures.
            texts: M texts.
            rows: of any shape; the picture of each pair, an index below N.
            columns: of the same shape; its text, an index below M.
        """
        of_pairs = late_interaction_of_pairs if self.bilinear is None else self.bilinear.of_pairs
        return of_pairs(images.patches, texts.words, texts.mask, rows, columns)


def _projection(width: int, settings: FineGrainedSettings) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Dropout(settings.dropout),
        nn.Linear(width, settings.hidden),
        nn.GELU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, settings.width),
    )


class TowerStates:
    """States of single patches and words in the two towers of a scorer, beside their pooled vectors.

    Raises:
        BadModel: the towers are of a kind that does not show its patches or words.
    """

    def __init__(self, scorer: ImageTextScorer, settings: FineGrainedSettings) -> None:
        require_patches(scorer.model.visual)
        if scorer.text_tower is None:
            raise BadModel(
                "expected a causal text tower, whose words can be read one by one, found one of another "
                "kind; take a scorer of CLIP's kind"
            )
        blocks = len(scorer.text_tower.part.transformer.resblocks)
        if blocks < -settings.text_block:
            raise BadModel(
                f"expected at least {-settings.text_block} blocks in the text tower, found {blocks}; "
                f"set text_block to {-blocks} or above"
            )
        self.scorer, self.settings, self.text_tower = scorer, settings, scorer.text_tower
        tokenizer: Any = getattr(scorer.tokenizer, "tokenizer", scorer.tokenizer)
        self._decode, self._specials = tokenizer.decode, set(tokenizer.all_special_ids)

    @torch.no_grad()
    def of_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Global unit vectors (N, D), and states (N, W, rows, columns), of pictures (N, 3, H, W)."""
        visual = self.scorer.model.visual
        dtype = next(visual.parameters()).dtype
        normalised = self.scorer.transform.normalise(pixels.to(self.scorer.device))
        output = visual.forward_intermediates(
            normalised.to(dtype), indices=[self.settings.image_block], output_fmt="NCHW"
        )
        states = output["image_intermediates"][0].float()
        regions = F.avg_pool2d(states, self.settings.region, ceil_mode=True)
        return F.normalize(output["image_features"].float(), dim=-1), regions

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str], batch_size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
        """Global unit vectors of texts, and the states of their words, one text behind the other.

        Special tokens that stand in a text are dropped. Texts of about equal length run together.

        Returns:
            Unit vectors (M, D), states (words of all texts, W), and how many words each text has (M,).
        """
        rows = self._ids(texts)
        order = sorted(range(len(rows)), key=lambda text: len(rows[text]))
        vectors = torch.empty(len(rows), self.scorer.width, device=self.scorer.device)
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            hidden = self.text_tower.hidden_states([rows[text] for text in batch])
            vectors[batch] = self.text_tower.pool(hidden[-1], [rows[text] for text in batch])
            for text, state in zip(batch, hidden[self.settings.text_block].float(), strict=True):
                states[text] = state[self._word_columns(rows[text])]
        width = int(self.text_tower.part.positional_embedding.shape[1])
        counts = torch.tensor([len(state) for state in states], dtype=torch.long, device=vectors.device)
        return vectors, torch.cat([vectors.new_empty(0, width), *states]), counts

    def tokens_by_word(self, text: str) -> list[tuple[str, list[int]]]:
        """The words of a text, parted at white space, each with the indices of its tokens."""
        row = self._ids([text])[0]
        ids = [row[column] for column in self._word_columns(row)]
        # Whole prefixes are decoded: a token may be but a part of a letter.
        word_of_token = [max(0, len(self._decode(ids[: n + 1]).split()) - 1) for n in range(len(ids))]
        return [
            (word, [token for token, index in enumerate(word_of_token) if index == number])
            for number, word in enumerate(self._decode(ids).split())
        ]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        plain = [self.scorer.without_specials(text) for text in texts]
        return [self.text_tower.cut(row) for row in self.scorer.tokenize(plain)]

    def _word_columns(self, row: Sequence[int]) -> list[int]:
        """Where in a row of ids the words' tokens stand."""
        return [column for column, token_id in enumerate(row) if token_id not in self._specials]


def require_patches(visual: Any) -> Any:
    """The image tower, of open_clip or timm, if it shows its patches.

    Raises:
        BadModel: it is of a kind that does not.
    """
    if not hasattr(getattr(visual, "trunk", visual), "forward_intermediates"):
        raise BadModel(
            "expected an image tower that shows its patches (forward_intermediates, as those of timm and "
            f"open_clip do), found {type(visual).__name__}; take another scorer"
        )
    return visual


def patch_states(visual: Any, pixels: Tensor, depth: float) -> Tensor:
    """States (N, W, rows, columns) of the patches of normalised pictures (N, 3, H, W).

    Args:
        visual: an image tower of open_clip, or a network of timm.
        depth: which block's states, as a share of all blocks, above 0; 1 for the last. Blocks above it are
            not computed.
    """
    blocks = _blocks(getattr(visual, "trunk", visual))
    output = visual.forward_intermediates(
        pixels,
        indices=[max(0, round(depth * blocks) - 1)],
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    states: Tensor = (output["image_intermediates"] if isinstance(output, dict) else output)[0]
    return states.float()


def _blocks(trunk: Any) -> int:
    """How many blocks, or stages, a network can show."""
    if hasattr(trunk, "feature_info"):
        return len(trunk.feature_info)
    return len(trunk.transformer.resblocks)


def padded(rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of M texts as (M, T, E), filled up with zeros, and a mask (M, T) true where there is a row.

    Args:
        rows: (K, E) of M texts.
        counts: (M,) how many rows each text has; K together.
    """
    longest = max(1, int(counts.max()) if len(counts) else 0)
    mask = torch.arange(longest, device=counts.device) < counts[:, None]
    filled = rows.new_zeros(*mask.shape, rows.shape[1])
    return filled.index_put((mask,), rows), mask
