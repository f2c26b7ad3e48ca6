"""Pictures with metadata.jsonl: read as the library datasets, the reference here, reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from captioned import put, put_lines
from PIL import Image

from magicap.data import ImageFiles, read_captions, read_sentences


def test_imagefolder_with_metadata_in_or_above_its_splits(tmp_path):
    names = ["train/0001.png", "train/x/0002.png", "valid/0001.png", "test/0001.png"]
    texts = [["One.", "Eins."], "Two.", ["Three."], "Four."]
    above, inside = tmp_path / "above", tmp_path / "inside"
    put_lines(
        above / "metadata.jsonl", [{"file_name": n, "text": t} for n, t in zip(names, texts, strict=True)]
    )
    for name, text in zip(names, texts, strict=True):
        split, _, rest = name.partition("/")
        file = inside / split / "metadata.jsonl"
        before = file.read_text() if file.exists() else ""
        put(file, before + json.dumps({"file_name": rest, "text": text}) + "\n")
    assert sorted(map(str, read_captions(above))) == sorted(map(str, read_captions(inside)))
    assert [(row.image, row.split, row.captions) for row in read_captions(above)] == [
        ("train/0001.png", "train", ("One.", "Eins.")),
        ("train/x/0002.png", "train", ("Two.",)),
        ("valid/0001.png", "val", ("Three.",)),
        ("test/0001.png", "test", ("Four.",)),
    ]
    assert read_captions(above / "metadata.jsonl", "dev") == read_captions(inside, "val")
    assert [(row.image, row.split) for row in read_captions(inside / "valid")] == [("0001.png", "val")]
    assert read_sentences(inside) == ["One.", "Eins.", "Two."]
    for name in names:
        put(inside / name, name)
    images = ImageFiles([inside])
    assert [images.read(row.image).decode() for row in read_captions(above)] == names


LAYOUTS = {
    "split folders": ["train/a.png", "train/x/b.png", "validation/a.png", "test/c.png"],
    "other words": ["training/a.png", "dev/a.png", "testing/c.png"],
    "years": ["train2014/a.png", "val2014/a.png"],
    "words apart": ["my-train/a.png", "set.eval/c.png"],
    "deeper": ["data/train/a.png", "data/valid/b.png"],
    "no splits": ["a.png", "x/b.png"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["string", "list", "rows"])
def test_imagefolder_reads_as_the_library_datasets_does(tmp_path, layout, kind):
    import datasets

    folder = tmp_path / "set"
    names = LAYOUTS[layout]
    rows: dict[Path, list[dict]] = {}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)
        depth = 0 if layout == "no splits" else 2 if layout == "deeper" else 1
        home = folder.joinpath(*Path(name).parts[:depth])
        texts = {
            "string": [f"Of {name}."],
            "list": [[f"Of {name}.", "Two."]],
            "rows": [f"Of {name}.", "Two."],
        }
        rows.setdefault(home, []).extend(
            {"file_name": (folder / name).relative_to(home).as_posix(), "text": text} for text in texts[kind]
        )
    for home, lines in rows.items():
        put_lines(home / "metadata.jsonl", lines)

    theirs: dict[tuple[str, str], list[str]] = {}
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    for split, part in loaded.items():
        for row in part.cast_column("image", datasets.Image(decode=False)):
            name = Path(row["image"]["path"]).relative_to(folder).as_posix()
            text = [row["text"]] if isinstance(row["text"], str) else row["text"]
            theirs.setdefault(({"validation": "val"}.get(split, split), name), []).extend(text)
    ours = {(row.split, row.image): list(row.captions) for row in read_captions(folder)}
    assert ours == theirs
    assert len(ours) == len(names)
