"""Put a tuned language model and a trained scorer into one captioner folder, ready for ``--preset FOLDER``.

    python recipes/assemble_captioner.py --language_model runs/language_model/best \\
        --scorer runs/scorer/best --out magicap/embedded --dtype float16 --memory_drawn 100000

A README.md that lies in the folder (the model card) is left as it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tqdm import tqdm
from transformers import HfArgumentParser

from magicap import BeamMagicSearch, Captioner, CaptionMemory, ImageTextScorer, LanguageModel, MagicSearch
from magicap.data import read_sentences
from magicap.decoding.drawing import draw_captions
from magicap.presets import DEFAULT


@dataclass(frozen=True)
class Config:
    scorer: str = field(metadata={"help": "folder, hf-hub: id or open_clip name of a scorer"})
    out: str = field(metadata={"help": "folder to write"})
    language_model: str | None = field(
        default=None,
        metadata={
            "help": "folder or hub id of a causal language model, with its soft prompt if it has one; "
            "default: that of --base, without"
        },
    )
    base: str = field(
        default=DEFAULT, metadata={"help": "preset or captioner's folder whose language model is taken"}
    )
    scorer_tag: str | None = field(
        default=None, metadata={"help": "open_clip's tag, where the scorer is a name"}
    )
    dtype: str = field(
        default="float16", metadata={"help": "of the stored weights: float16, bfloat16 or float32"}
    )
    memory_drawn: int = field(
        default=0, metadata={"help": "captions that the language model is to say, to be remembered"}
    )
    memory_temperature: float = field(default=0.8, metadata={"help": "at which it says them"})
    memory_text: list[str] = field(
        default_factory=list, metadata={"help": "caption text to remember too (train split)"}
    )
    memory_of: str | None = field(
        default=None,
        metadata={"help": "preset or captioner's folder whose remembered captions are taken too"},
    )
    memory_of_size: int | None = field(
        default=None, metadata={"help": "of these at most so many, its first; default: all"}
    )
    memory_size: int | None = field(
        default=None, metadata={"help": "captions of --memory_text at most, chosen at random; default: all"}
    )
    memory_held_out: list[str] = field(
        default_factory=list,
        metadata={"help": "data sets whose dev, val and test captions are left out, word for word"},
    )
    memory_bits: int = field(
        default=8, metadata={"help": "bits of a number of their vectors on disk: 8 or 4"}
    )
    memory_width: int | None = field(
        default=None,
        metadata={"help": "dimensions of the subspace that their vectors are reduced to; default: all"},
    )
    neighbours: int = field(
        default=BeamMagicSearch.neighbours, metadata={"help": "remembered captions that are the evidence"}
    )
    temperature: float = field(
        default=BeamMagicSearch.temperature, metadata={"help": "of their weights, in deviations of cosines"}
    )
    memory_weight: float = field(
        default=BeamMagicSearch.memory_weight,
        metadata={"help": "share of their words while beams are written"},
    )
    seed: int = field(default=1, metadata={"help": "of what it says, and of the choice of text"})
    top_k: int = field(default=MagicSearch.top_k, metadata={"help": "candidates a step"})
    alpha: float = field(default=MagicSearch.alpha, metadata={"help": "weight of the degeneration penalty"})
    beta: float = field(default=MagicSearch.beta, metadata={"help": "weight of the picture"})
    max_new_tokens: int = field(
        default=MagicSearch.max_new_tokens, metadata={"help": "longest caption, in tokens"}
    )


def main(config: Config) -> None:
    captioner = Captioner(
        language_model(config),
        ImageTextScorer.from_pretrained(config.scorer, config.scorer_tag),
        MagicSearch(config.top_k, config.alpha, config.beta, config.max_new_tokens),
    )
    captioner.memory = memory(captioner, config)
    if captioner.memory is not None:
        captioner.decoding = BeamMagicSearch(
            neighbours=config.neighbours,
            temperature=config.temperature,
            memory_weight=config.memory_weight,
            max_new_tokens=config.max_new_tokens,
            prompted=captioner.language_model.prompt is not None,
        )
    captioner.save_pretrained(config.out, dtype=config.dtype)


def language_model(config: Config) -> LanguageModel:
    """The one asked for; a base's without its soft prompt, which knows the base's scorer alone."""
    if config.language_model is not None:
        return LanguageModel.from_pretrained(config.language_model)
    taken = Captioner.from_pretrained(config.base).language_model
    taken.prompt = None
    return taken


def memory(captioner: Captioner, config: Config) -> CaptionMemory | None:
    texts = sentences(config)
    if config.memory_of is not None:
        others = Captioner.from_pretrained(config.memory_of).memory
        texts += [] if others is None else others.texts[: config.memory_of_size]
    if config.memory_drawn:
        with tqdm(total=config.memory_drawn, desc="drawing captions", disable=None) as bar:
            texts += draw_captions(
                captioner.language_model,
                config.memory_drawn,
                temperature=config.memory_temperature,
                seed=config.seed,
                progress=bar.update,
            )
    if not texts:
        return None
    with tqdm(total=len(texts), desc="encoding them", disable=None) as bar:
        found = CaptionMemory.from_texts(captioner.scorer, texts, progress=bar.update)
    whole = CaptionMemory(found.texts, found.vectors, bits=config.memory_bits)
    return whole if config.memory_width is None else whole.reduced(config.memory_width)


def sentences(config: Config) -> list[str]:
    """The caption text that is to be remembered."""
    held_out = {
        text
        for path in config.memory_held_out
        for text in read_sentences(path, splits=("dev", "val", "test"), held_out=())
    }
    texts = dict.fromkeys(text for path in config.memory_text for text in read_sentences(path))
    kept = [text for text in texts if text not in held_out]
    if config.memory_size is not None and config.memory_size < len(kept):
        kept = random.Random(config.seed).sample(kept, config.memory_size)
    return kept


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
