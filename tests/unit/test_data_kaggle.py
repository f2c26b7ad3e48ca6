"""Flickr8k as Kaggle has it, captions.txt and Images/: read with drawn splits, and used by recipes."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from repository import recipe
from tiny import SENTENCES

from magicap.data import ImageFiles, read_captions, read_sentences
from magicap.data.flickr8k import SPLIT_FILES
from magicap.errors import BadData
from magicap.evaluation.matching import choose_references


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory):
    """Thirty pictures of two captions each."""
    folder = tmp_path_factory.mktemp("flickr8k")
    (folder / "Images").mkdir()
    rng = np.random.default_rng(0)
    with open(folder / "captions.txt", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption"))
        for number in range(30):
            name = f"{number:03}_a.jpg"
            Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8)).save(folder / "Images" / name)
            rows.writerows((name, SENTENCES[(number + k) % len(SENTENCES)]) for k in range(2))
    return folder


def test_a_tenth_each_is_for_dev_and_test_the_same_whichever_path_is_given(kaggle):
    splits = {split: read_captions(kaggle, split) for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "dev": 3, "test": 3}
    images = [row.image for rows in splits.values() for row in rows]
    assert sorted(images) == [row.image for row in read_captions(kaggle)]
    assert {row.split for row in splits["dev"]} == {"dev"}
    assert read_captions(kaggle / "captions.txt", ("val",)) == splits["dev"]
    assert len(read_sentences(kaggle)) == 48
    assert choose_references(kaggle, "test") == splits["test"]
    assert len(choose_references(kaggle, None)) == 30
    with ImageFiles(kaggle) as files:
        assert all(image in files for image in images)


def test_split_files_beside_it_decide(kaggle, tmp_path):
    (tmp_path / "Images").mkdir()
    (tmp_path / "captions.txt").write_bytes((kaggle / "captions.txt").read_bytes())
    for number, name in enumerate(SPLIT_FILES.values()):
        (tmp_path / name).write_text(f"{number:03}_a.jpg\n")
    assert [row.image for row in read_captions(tmp_path, "test")] == ["002_a.jpg"]


def test_without_pictures_beside_it_no_split_is_drawn(kaggle, tmp_path):
    (tmp_path / "captions.txt").write_bytes((kaggle / "captions.txt").read_bytes())
    with pytest.raises(BadData, match="without splits"):
        read_captions(tmp_path, "train")


def test_recipes_of_text_and_of_pictures_learn_from_the_folder_alone(kaggle, tmp_path):
    folder = str(kaggle)
    tokens, tune, supervised = map(recipe, ("train_tokenizer", "tune_language_model", "train_cnn_lstm"))
    tokens.main(tokens.Config(text=[folder], out=str(tmp_path / "tokens"), vocabulary_size=300))
    tune.main(
        tune.Config(
            text=[folder],
            validation_text=[folder],
            tokenizer=str(tmp_path / "tokens" / "language_model"),
            out=str(tmp_path / "text"),
            layers=1,
            width=16,
            heads=2,
            batch_size=8,
            max_steps=2,
            cpu=True,
        )
    )
    supervised.main(
        supervised.Config(
            captions=folder,
            images=[folder],
            out=str(tmp_path / "cnn"),
            image_model="mobilenetv2_035",
            image_size=64,
            width=16,
            embedding=8,
            attention=8,
            max_words=6,
            min_count=3,
            views=1,
            batch_size=8,
            captions_per_image=1,
            xe_epochs=1,
            finetune_epochs=0,
            scst_epochs=0,
            cpu=True,
        )
    )
    assert (tmp_path / "text" / "best").is_dir()
    assert (tmp_path / "cnn" / "best").is_dir()
