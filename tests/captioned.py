"""Small data sets in the forms that captioned pictures come in, as true to life as a few lines can be."""

from __future__ import annotations

import json
from pathlib import Path


def put(path: Path, content: str | dict | list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def put_lines(path: Path, rows: list[dict]) -> Path:
    return put(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sentence(text: str, number: int) -> dict:
    tokens = text.lower().rstrip(" .").split()
    return {"tokens": tokens, "raw": text, "imgid": 0, "sentid": number}


OURS = {"image": "a.jpg", "split": "train", "captions": ["A."]}

KARPATHY_COCO = {
    "images": [
        {
            "filepath": "val2014",
            "sentids": [770337, 771687],
            "filename": "COCO_val2014_000000391895.jpg",
            "imgid": 0,
            "split": "test",
            "sentences": [
                sentence("Someone rides a moped.", 770337),
                sentence("Ein Fußweg.", 1),
            ],
            "cocoid": 391895,
        },
        *(
            {
                "filepath": f"{folder}2014",
                "sentids": [1],
                "filename": f"COCO_{folder}2014_00000000000{number}.jpg",
                "imgid": number,
                "split": split,
                "sentences": [sentence(f"Picture {number}.", number)],
                "cocoid": number,
            }
            for number, folder, split in ((1, "train", "train"), (2, "val", "restval"), (3, "val", "val"))
        ),
    ],
    "dataset": "coco",
}


COCO = {
    "info": {"description": "COCO 2014 Dataset", "year": 2014},
    "images": [
        {
            "license": 3,
            "file_name": "COCO_val2014_000000391895.jpg",
            "height": 360,
            "width": 640,
            "id": 391895,
        },
        {
            "license": 4,
            "file_name": "COCO_val2014_000000522418.jpg",
            "height": 480,
            "width": 640,
            "id": 522418,
        },
    ],
    "licenses": [],
    "annotations": [
        {"image_id": 522418, "id": 1, "caption": "A cake is cut."},
        {"image_id": 391895, "id": 2, "caption": "Someone rides a moped."},
        {"image_id": 522418, "id": 3, "caption": "A cake.\n"},
    ],
}


TOKENS = """1000268201_693b08cb0e.jpg#0\tA child goes up the steps .
1000268201_693b08cb0e.jpg#1\tA girl at a hut .
1001773457_577c3a7d70.jpg#0\tTwo dogs are at play
1002674143_1b742ab4b8.jpg#0\tA girl , full of "paint" .
2258277193_586949ec62.jpg.1#0\tpeople wait
"""
CSV = """image,caption
1000268201_693b08cb0e.jpg,A child goes up the steps .
1000268201_693b08cb0e.jpg,A girl at a hut .
1001773457_577c3a7d70.jpg,Two dogs are at play
1002674143_1b742ab4b8.jpg,"A girl , full of ""paint"" ."
2258277193_586949ec62.jpg.1,people wait
"""


def put_split_files(folder: Path) -> None:
    names = {
        "train": "1000268201_693b08cb0e",
        "dev": "1001773457_577c3a7d70",
        "test": "1002674143_1b742ab4b8",
    }
    for split, name in names.items():
        put(folder / f"Flickr_8k.{split}Images.txt", f"{name}.jpg\n")
