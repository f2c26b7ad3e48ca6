"""Train the one vocabulary that both embedded models share.

A byte-level BPE of about 8,000 entries, learned from caption text. The language model reads it as it is; the
scorer reads the same entries behind a lower-casing normaliser, between a start and an end token.

    python recipes/train_tokenizer.py --out runs/tokenizer --text $MAGICAP_DATA/flickr8k/captions.jsonl \\
        $MAGICAP_DATA/text/flickr30k.jsonl $MAGICAP_DATA/text/coco_restval.txt
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cli import run
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from magicap.checks import require_int
from magicap.data import read_sentences
from magicap.models.language_model import END_TOKEN, PAD_TOKEN, START_TOKEN
from magicap.training.checks import require_rows


@dataclass(frozen=True)
class Config:
    text: list[str]
    """Data sets, of which the train split is read, or text files with a caption a line."""

    out: str
    """Folder to write, which gets language_model/ and scorer/."""

    vocabulary_size: int = 8000
    """Number of entries, special tokens included."""

    def __post_init__(self) -> None:
        require_int("--vocabulary_size", self.vocabulary_size)


def main(config: Config) -> None:
    sentences: list[str] = []
    for path in config.text:
        texts = read_sentences(path, splits=("train",))
        require_rows(texts, path, ("train",))
        sentences += texts
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[END_TOKEN, START_TOKEN, PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    # Both spellings are counted: the language model keeps case, the scorer reads lower case.
    bpe.train_from_iterator((text for s in sentences for text in (s, s.lower())), trainer)

    specials = {"eos_token": END_TOKEN, "bos_token": START_TOKEN, "pad_token": PAD_TOKEN}
    PreTrainedTokenizerFast(tokenizer_object=bpe, **specials).save_pretrained(
        Path(config.out, "language_model")
    )

    bpe.normalizer = normalizers.Lowercase()
    start, end = bpe.token_to_id(START_TOKEN), bpe.token_to_id(END_TOKEN)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START_TOKEN} $A {END_TOKEN}", special_tokens=[(START_TOKEN, start), (END_TOKEN, end)]
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe, **specials).save_pretrained(Path(config.out, "scorer"))
    print(json.dumps({"sentences": len(sentences), "vocabulary": bpe.get_vocab_size()}))


if __name__ == "__main__":
    run(main, Config)
