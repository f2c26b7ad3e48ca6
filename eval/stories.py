"""Stories with and without pictures: how near their sentences are to the pictures, by two scorers.

    python eval/stories.py --images $MAGICAP_DATA/flickr8k/images-test.tar --pictures 60

Every picture gets a title, by turns of :data:`TITLES`, which names nothing that it shows. The same language
model tells the story without pictures (``beta`` 0, no soft prompt), by magic search as published for stories,
and with the soft prompt too. A picture's figure is the mean cosine of its sentences: by the scorer that
steered, and by another one, which did not. Differences are to the stories without pictures, with 95 %
intervals by a paired bootstrap over pictures and Wilcoxon's signed-rank test.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from transformers import HfArgumentParser

from magicap.captioners.load import load_scorer
from magicap.captioners.presets import DEFAULT
from magicap.captioners.stories import STORY_SEARCH, Story
from magicap.captioners.zero_shot import Captioner
from magicap.data.pictures import ImageFiles
from magicap.decoding.settings import MagicSearch
from magicap.errors import MagicapError
from magicap.images.reader import open_image
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer

Array = NDArray[np.float64]
TITLES = ("A day out", "The weekend", "A good start", "What happened next", "An old friend")


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    pictures: int = field(default=60, metadata={"help": "how many are drawn from them"})
    sentences: int = field(default=5, metadata={"help": "of each story"})
    title_end: str = field(default="", metadata={"help": "what stands behind a title"})
    preset: str = field(default=DEFAULT, metadata={"help": "whose models tell the stories"})
    language_model: str | None = field(
        default=None, metadata={"help": "folder or hub id of another language model, without a soft prompt"}
    )
    other_scorer: str = field(default="unpaired", metadata={"help": "preset whose scorer steered nothing"})
    resamples: int = field(default=10_000, metadata={"help": "of the bootstrap"})
    seed: int = field(default=0, metadata={"help": "of pictures and resamples"})


def main(config: Config) -> None:
    captioner = Captioner.from_pretrained(config.preset)
    if config.language_model is not None:
        captioner = Captioner(LanguageModel.from_pretrained(config.language_model), captioner.scorer)
    searches = {"without pictures": replace(STORY_SEARCH, beta=0.0), "magic search": STORY_SEARCH}
    if captioner.language_model.soft_prompt is not None:
        searches["magic search, soft prompt"] = replace(STORY_SEARCH, soft_prompt=True)
    pictures = drawn_pictures(config)
    stories = {name: write_all(captioner, pictures, search, config) for name, search in searches.items()}
    for name, story in stories.items():
        print(f"{name}: {story[0].heading} | {story[0]}")
    print("\n| search | sentences | different | words of one | scorer | cosine | less without | p |")
    print("|---|--:|--:|--:|---|--:|--:|--:|")
    scorers = {config.preset: captioner.scorer, config.other_scorer: load_scorer(config.other_scorer)}
    for scorer_name, scorer in scorers.items():
        figures = {name: cosines(scorer, pictures, one) for name, one in stories.items()}
        baseline = figures["without pictures"]
        for name, one in stories.items():
            shown = compared(figures[name], baseline, config) if name != "without pictures" else "| "
            print(
                f"| {name} | {counts(one)} | {scorer_name} | {figures[name].mean():.4f} | {shown} |",
                flush=True,
            )


def drawn_pictures(config: Config) -> list[bytes]:
    """Some pictures, the same for the same seed."""
    generator = np.random.default_rng(config.seed)
    with ImageFiles(config.images) as files:
        names = sorted(files)
        return [files.read(names[i]) for i in generator.choice(len(names), config.pictures, replace=False)]


def write_all(
    captioner: Captioner, pictures: list[bytes], search: MagicSearch, config: Config
) -> list[Story]:
    """A story of each picture."""
    return [
        captioner.story(
            picture,
            title=TITLES[number % len(TITLES)],
            sentences=config.sentences,
            decoding=search,
            title_end=config.title_end,
        )
        for number, picture in enumerate(pictures)
    ]


def cosines(scorer: ImageTextScorer, pictures: list[bytes], stories: list[Story]) -> Array:
    """Of each picture and its sentences, the mean."""
    vectors = scorer.encode_images([open_image(picture) for picture in pictures])
    means = [
        (scorer.encode_texts([sentence.text for sentence in story.sentences]) @ vector).mean()
        for vector, story in zip(vectors, stories, strict=True)
    ]
    return np.array(means, dtype=np.float64)


def compared(figures: Array, baseline: Array, config: Config) -> str:
    """The mean difference with its interval, and the p of Wilcoxon's test."""
    differences = figures - baseline
    rows = np.random.default_rng(config.seed).integers(
        0, len(differences), (config.resamples, len(differences))
    )
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    p = float(wilcoxon(differences).pvalue)
    return f"{differences.mean():+.4f} ({low:+.4f} to {high:+.4f}) | {p:.1e}"


def counts(stories: list[Story]) -> str:
    """Sentences a story, different ones of all, and words a sentence."""
    texts = [sentence.text for story in stories for sentence in story.sentences]
    words = sum(len(text.split()) for text in texts) / len(texts)
    return f"{len(texts) / len(stories):.1f} | {len(set(texts))} of {len(texts)} | {words:.1f}"


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"stories.py: {error}")
