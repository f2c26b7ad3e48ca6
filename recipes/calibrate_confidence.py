"""Fit how sure a captioner is of its captions: the probability that one is right, from what its search knows.

    python recipes/calibrate_confidence.py --base embedded --out runs/sure \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/coco_more/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-dev.tar $MAGICAP_DATA/coco_more/images-dev.tar
    magicap caption photo.jpg --preset runs/sure --min-confidence 0.5

A caption is right when its CIDEr-D, by the corpus of its data set, is above 50 (of 100 times CIDEr-D). The
pictures must be new to the captioner: dev pictures, which none of its parts learned from. The figures printed
are of captions that the regression was not fitted on (cross-validation). The captioner is written to --out
with its models as they are; only captions by its own decoding have a confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cli import run
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from magicap import BeamMagicSearch, Captioner
from magicap.arrays import BoolArray, FloatArray, IntArray
from magicap.captioners.folder import as_dtype
from magicap.captioners.presets import DEFAULT
from magicap.captioners.saving import weights_fingerprint
from magicap.checks import require_int, require_number
from magicap.data import CaptionedImage, ImageFiles
from magicap.decoding.beam_magic import beam_magic_search
from magicap.decoding.confidence import FEATURES, ConfidenceModel, Term, features_of
from magicap.decoding.context import DecodingContext
from magicap.decoding.minimum_bayes_risk import Competition
from magicap.errors import BadData, BadSettings
from magicap.evaluation.reliability import FIGURES, Rated, are_right
from magicap.metrics import cider_d
from magicap.training.pairs import read_captioned_images
from magicap.training.progress import progress


@dataclass(frozen=True)
class Config:
    captions: list[str]
    """Data sets with captioned pictures that the captioner did not learn from."""

    images: list[str]
    """Folders or tar files with their pictures."""

    out: str
    """Folder of the captioner with its confidence."""

    base: str = DEFAULT
    """Preset or folder of the captioner; its decoding must be beam magic search with a memory."""

    split: str = "dev"
    """Split of the data sets that is read."""

    weights: Literal["pictures", "sets"] = "pictures"
    """Whether every picture weighs the same, or every data set."""

    regularisation: float = 0.3
    """Inverse strength of the penalty on the weights of the regression, above 0; a small one shrinks them."""

    folds: int = 10
    """Parts of the pictures in cross-validation."""

    limit: int | None = None
    """The most pictures of each data set, its first; default: all."""

    batch_size: int = 16
    """Number of pictures that are captioned together."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the stored weights; it must be that in which they lie in --base, or finer."""

    seed: int = 1
    """Seed of the parts in cross-validation."""

    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""

    def __post_init__(self) -> None:
        require_int("--folds", self.folds, least=2)
        require_int("--batch_size", self.batch_size)
        if self.limit is not None:
            require_int("--limit", self.limit, least=2)
        require_number("--regularisation", self.regularisation, lambda strength: strength > 0, "above 0")


@dataclass(frozen=True, eq=False)
class Captioned:
    """N captioned pictures of some data sets."""

    features: FloatArray
    """(N, F) in the order of FEATURES."""

    cider_d: FloatArray
    """(N,) of the captions, 0 to 10, by the corpus of their own data set."""

    data_set: IntArray
    """(N,) which data set a picture is of."""

    @property
    def right(self) -> BoolArray:
        """(N,) which captions are right."""
        return are_right(self.cider_d)


def main(config: Config) -> None:
    sets = [read_captioned_images(path, (config.split,))[: config.limit] for path in config.captions]
    pictures = ImageFiles(config.images)
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    require_usable(captioner, config)
    captioned = caption_sets(captioner, sets, pictures, config.batch_size)
    require_both(captioned.right, config.folds)
    print_figures(config, captioned, cross_validated(captioned, config))
    terms, bias = fitted(captioned, np.arange(len(captioned.cider_d)), config)
    fingerprint, decoding, count = captioner.fingerprint, captioner.decoding, len(captioned.cider_d)
    captioner.confidence = ConfidenceModel(terms, bias, fingerprint, decoding, count)
    captioner.save_pretrained(config.out, dtype=config.dtype)


def require_usable(captioner: Captioner, config: Config) -> None:
    """Refuse what has no confidence, or would be another captioner once it is stored.

    Raises:
        BadSettings: it is refused.
    """
    if not isinstance(captioner.decoding, BeamMagicSearch) or captioner.memory is None:
        raise BadSettings(
            f"expected a captioner with a memory that decodes by beam magic search, found {config.base}: "
            f"{type(captioner.decoding).__name__}, memory {captioner.memory!r}"
        )
    models = [captioner.language_model.model, captioner.language_model.soft_prompt, captioner.scorer.model]
    for model in models:
        stored = as_dtype(config.dtype)
        if model is not None and weights_fingerprint(model, stored) != weights_fingerprint(model, None):
            raise BadSettings(
                f"--dtype {config.dtype} rounds the weights of {config.base}, which makes it another "
                "captioner; give --dtype float32"
            )


def caption_sets(
    captioner: Captioner,
    sets: Sequence[Sequence[CaptionedImage]],
    pictures: ImageFiles,
    batch_size: int,
) -> Captioned:
    """Caption data sets by the captioner's own decoding.

    Raises:
        BadImage, ImageNotFound: a picture that cannot be read, or is not there.
    """
    features: list[list[float]] = []
    cider: list[FloatArray] = []
    with progress(sum(map(len, sets)), "captioning", unit="picture") as bar:
        for rows in sets:
            texts = []
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                competitions = compete(captioner, [pictures.read(row.image) for row in batch])
                features += [list(features_of(one).values()) for one in competitions]
                texts += [one.hypotheses[0].text.strip() for one in competitions]
                bar.update(len(batch))
            score = cider_d(texts, [row.captions for row in rows])["CIDEr-D"]
            assert score.per_image is not None
            cider.append(score.per_image)
    numbers = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
    return Captioned(np.array(features), np.concatenate(cider), numbers)


def compete(captioner: Captioner, images: Sequence[bytes]) -> list[Competition]:
    """The captions of pictures that competed."""
    vectors = captioner.scorer.encode_images(images)
    context = DecodingContext(captioner.cache, vectors, memory=captioner.memory)
    return beam_magic_search(context, captioner.decoding)


def require_both(right: BoolArray, folds: int) -> None:
    """Refuse captions among which too few are right, or wrong, to learn which are.

    Raises:
        BadData: it is refused.
    """
    fewest = min(right.sum(), (~right).sum())
    if fewest < folds:
        raise BadData(
            f"expected at least {folds} right captions and as many wrong ones, found {right.sum()} and "
            f"{(~right).sum()}; give more pictures, or fewer --folds"
        )


def cross_validated(captioned: Captioned, config: Config) -> FloatArray:
    """(N,) probability that each caption is right, by a regression on the other parts' pictures."""
    right, probabilities = captioned.right, np.zeros(len(captioned.cider_d))
    parts = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
    for learned, held_out in parts.split(captioned.features, right):
        terms, bias = fitted(captioned, learned, config)
        for row in held_out:
            model = ConfidenceModel(terms, bias, "", BeamMagicSearch())
            probabilities[row] = model.probability(dict(zip(FEATURES, captioned.features[row], strict=True)))
    return probabilities


def fitted(captioned: Captioned, rows: IntArray, config: Config) -> tuple[dict[str, Term], float]:
    """Terms and bias of the regression on some pictures."""
    features = captioned.features[rows]
    means, stds = features.mean(axis=0), features.std(axis=0)
    stds[stds == 0] = 1.0  # a feature that is the same everywhere says nothing, whatever it is divided by
    counts = np.bincount(captioned.data_set[rows])
    even = config.weights == "sets"
    weights = (len(rows) / len(counts) / np.maximum(counts, 1))[captioned.data_set[rows]] if even else None
    regression = LogisticRegression(C=config.regularisation)
    regression.fit((features - means) / stds, captioned.right[rows], sample_weight=weights)
    columns = zip(means.tolist(), stds.tolist(), regression.coef_[0].tolist(), strict=True)
    terms = {name: Term(*column) for name, column in zip(FEATURES, columns, strict=True)}
    return terms, float(regression.intercept_[0])


def print_figures(config: Config, captioned: Captioned, probabilities: FloatArray) -> None:
    """A table of cross-validated figures, of all pictures and of every data set."""
    rows = {"all": np.arange(len(probabilities))}
    if len(config.captions) > 1:
        rows |= {path: np.flatnonzero(captioned.data_set == n) for n, path in enumerate(config.captions)}
    print("| pictures | n | right | " + " | ".join(FIGURES) + " |")
    print("|---" + "|--:" * (len(FIGURES) + 2) + "|")
    for name, numbers in rows.items():
        rated = Rated(probabilities[numbers], captioned.cider_d[numbers])
        figures = " | ".join(f"{figure(rated):.3f}" for figure in FIGURES.values())
        print(f"| {name} | {len(numbers)} | {100 * rated.right.mean():.1f} % | {figures} |")


if __name__ == "__main__":
    run(main, Config)
