"""How often do captions name a person, a colour or a number that no reference names?

Persons: of the pictures whose references name none, the share whose caption names one; words are looked up
in a list of those that mean human beings, so "a couple of zebras", a baby elephant and "his paw" do not
count. Colours and numbers: of the captions that name any, the share with one that no reference of the
picture names. References need not name every colour that is there, so that share is an upper bound.

    python eval/invented_words.py --captions ours=ours.jsonl magic=mscoco_magic_result.json \\
        --references $MAGICAP_DATA/coco/captions.jsonl --split val

A file that carries its own references, as MAGIC's published outputs do, is held against those.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from magicap.errors import MagicapError
from magicap.evaluation.matching import choose_references, match
from magicap.evaluation.predictions import read_predictions
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB

PERSONS = frozenset(
    """adult adults athlete athletes audience bicyclist bicyclists biker bikers boy boys chef child children
    cowboy crowd cyclist cyclists girl girls guy guys kid kids ladies lady man men motorcyclist officer
    people person persons player players police policeman policemen rider riders skateboarder
    skateboarders skier skiers snowboarder snowboarders soldier soldiers someone somebody spectators
    surfer surfers swimmer teen teenager toddler tourists umpire woman women worker workers""".split()
)
COLOURS = {name: name for name in "black blue brown green orange pink purple red white yellow".split()}
COLOURS |= {"grey": "grey", "gray": "grey"}
NUMBERS = {name: name for name in "two three four five six seven eight nine ten".split()}
NUMBERS |= {"couple": "two", "pair": "two", "both": "two"}
"""A word to the one that stands for all of its meaning."""


@dataclass(frozen=True)
class Config:
    captions: list[str] = field(metadata={"help": "NAME=FILE, captions in any form that magicap eval reads"})
    references: str | None = field(
        default=None, metadata={"help": "data set with the references; default: those in the files"}
    )
    split: str | None = field(default=None, metadata={"help": "its split, where it has several"})


def main(config: Config) -> None:
    print(
        "| captions | pictures without a person | a person invented | pictures with one | person missed "
        "| captions with a colour | a colour invented | captions with a number | a number invented |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for spec in config.captions:
        name, _, path = spec.partition("=")
        predictions = read_predictions(path)
        references = choose_references(config.references, config.split, predictions.references)
        scored = match(predictions, references)
        rows = list(zip(scored.candidates, scored.references, strict=True))
        columns = [*persons(rows), invented(rows, COLOURS), invented(rows, NUMBERS)]
        cells = " | ".join(f"{len(flags)} | {share(flags)}" for flags in columns)
        print(f"| {name} | {cells} |")


def persons(rows: Sequence[tuple[str, Sequence[str]]]) -> tuple[list[bool], list[bool]]:
    """Whether a caption names a person where no reference does; whether it names none where one does."""
    pairs = [(names_person(text), any(map(names_person, references))) for text, references in rows]
    return [named for named, true in pairs if not true], [not named for named, true in pairs if true]


def names_person(text: str) -> bool:
    """Whether a sentence names a human being."""
    return not PERSONS.isdisjoint(words(PTB(text)))


def invented(rows: Sequence[tuple[str, Sequence[str]]], meanings: Mapping[str, str]) -> list[bool]:
    """Of captions that name some of these words: whether they name one that no reference does."""
    flags = []
    for text, references in rows:
        if named := meant(text, meanings):
            true = set().union(*(meant(reference, meanings) for reference in references))
            flags.append(not named <= true)
    return flags


def meant(text: str, meanings: Mapping[str, str]) -> set[str]:
    """What a sentence names of these words, each by the word that stands for its meaning."""
    return {meanings[word] for word in words(PTB(text)) if word in meanings}


def share(flags: list[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.1f} %" if flags else "-"


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"invented_words.py: {error}")
