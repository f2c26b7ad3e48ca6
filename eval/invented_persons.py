"""How often do captions name a person where no reference does, and none where one does?

Of the pictures whose references name no person, the share whose caption names one. Words are looked up in a
list of those that mean human beings: "a couple of zebras", a baby elephant and "his paw" do not count.

    python eval/invented_persons.py --captions ours=ours.jsonl magic=mscoco_magic_result.json \\
        --references $MAGICAP_DATA/coco/captions.jsonl --split val

A file that carries its own references, as MAGIC's published outputs do, is held against those.
"""

from __future__ import annotations

import sys
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


@dataclass(frozen=True)
class Config:
    captions: list[str] = field(metadata={"help": "NAME=FILE, captions in any form that magicap eval reads"})
    references: str | None = field(
        default=None, metadata={"help": "data set with the references; default: those in the files"}
    )
    split: str | None = field(default=None, metadata={"help": "its split, where it has several"})


def main(config: Config) -> None:
    print("| captions | pictures without a person | a person invented | pictures with one | person missed |")
    print("|---|--:|--:|--:|--:|")
    for spec in config.captions:
        name, _, path = spec.partition("=")
        predictions = read_predictions(path)
        scored = match(
            predictions, choose_references(config.references, config.split, predictions.references)
        )
        in_caption = [names_person(text) for text in scored.candidates]
        in_references = [any(map(names_person, references)) for references in scored.references]
        pairs = list(zip(in_caption, in_references, strict=True))
        invented = [named for named, referenced in pairs if not referenced]
        missed = [not named for named, referenced in pairs if referenced]
        print(f"| {name} | {len(invented)} | {share(invented)} | {len(missed)} | {share(missed)} |")


def names_person(text: str) -> bool:
    """Whether a sentence names a human being."""
    return not PERSONS.isdisjoint(words(PTB(text)))


def share(flags: list[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.1f} %" if flags else "-"


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"invented_persons.py: {error}")
