"""The captioners that ship with the package, on real photographs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import reference_caption
from repository import ROOT

from magicap import Captioner, MagicSearch, caption, load_captioner
from magicap.captioners.presets import BASELINE, EMBEDDED, PRESETS, UNPAIRED
from magicap.data import ImageFiles, read_captions, read_sentences
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.models.incremental_text import EncodedText

UNPAIRED_FOLDER = PRESETS[UNPAIRED].memory.parent
SAMPLE = ROOT / "docs" / "sample.jpg"


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.from_pretrained()


@pytest.fixture(scope="module")
def test_pictures(data_dir) -> list[bytes]:
    folder = data_dir / "flickr8k"
    tar = ImageFiles([folder / "images-test.tar"])
    return [tar.read(row.image) for row in read_captions(folder / "captions.jsonl", ("test",))]


def test_it_captions_the_sample_photograph_out_of_the_box():
    text = caption(SAMPLE)
    assert text.finished
    assert len(text.split()) >= 4
    assert text[0].isupper()
    assert text.endswith(".")
    assert caption([SAMPLE, "nowhere.jpg"])[0] == text


def test_the_supervised_one_is_a_preset_and_shows_its_attention():
    supervised = load_captioner("cnn-lstm")
    explanation = supervised.explain(SAMPLE)
    assert explanation.caption == supervised.caption(SAMPLE)
    assert explanation.caption.finished
    assert len(explanation.caption.split()) >= 4
    attention = explanation.attention
    assert len(attention) == len(explanation.caption.steps)
    assert attention.reshape(len(attention), -1).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert not np.allclose(attention[0], attention[1])


@pytest.mark.parametrize(("folder", "count"), [(EMBEDDED, 7), (UNPAIRED_FOLDER, 4), (BASELINE, 1)])
def test_weights_are_half_precision_safetensors_or_less(folder, count):
    weights = list(folder.rglob("*.safetensors"))
    assert len(weights) == count
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, "pt") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert types <= {"F16", "I64", "I32", "I8", "U8"}


def test_what_ships_is_small_together():
    folders = (EMBEDDED, UNPAIRED_FOLDER, BASELINE)
    assert (
        sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) < 110e6
    )


def test_its_text_tower_is_cached(captioner):
    assert captioner.scorer.text_tower is not None


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (EMBEDDED, ("Flickr8k", "train_scorer.py", "tune_language_model.py", "seed", "Apache-2.0", "ViT-Ti")),
        (UNPAIRED_FOLDER, ("distill_text_tower.py", "build_classifier_scorer.py", "seed", "CC BY 4.0")),
        (BASELINE, ("Flickr8k", "train_cnn_lstm.py", "seed", "Apache-2.0", "MobileNetV2")),
    ],
)
def test_a_card_names_data_commands_and_licences(folder, words):
    card = (folder / "README.md").read_text()
    for word in words:
        assert word in card


def test_magic_search_equals_the_slow_reference(captioner, test_pictures):
    _equals_the_reference(captioner, test_pictures[:2])


@pytest.mark.slow
def test_magic_search_equals_the_slow_reference_on_two_hundred_pictures(captioner, test_pictures):
    _equals_the_reference(captioner, test_pictures[:200])


def _equals_the_reference(captioner: Captioner, pictures: list[bytes]) -> None:
    magic = MagicSearch(top_k=20, alpha=0.1, beta=0.6, max_new_tokens=20)
    for picture, text in zip(pictures, captioner.caption(pictures, magic), strict=True):
        assert [step.token_id for step in text.steps] == reference_caption(captioner, picture, magic)


def test_its_memory_holds_no_caption_of_the_pictures_it_is_tested_on(captioner, data_dir):
    """But for commonplaces, which people write of one picture as of another: 3.7 % of COCO val's captions
    stand among those of other COCO pictures word for word."""
    for folder, split in (("coco", "val"), ("coco_more", "dev"), ("flickr8k", "test")):
        references = set(read_sentences(data_dir / folder / "captions.jsonl", (split,), held_out=()))
        for memory in (captioner.memory, Captioner.from_pretrained(UNPAIRED).memory):
            assert sum(text in references for text in memory.texts) < 0.05 * len(references)


def test_the_unpaired_one_shares_the_language_model_and_names_classes(captioner):
    unpaired = Captioner.from_pretrained(UNPAIRED)
    assert unpaired.caption(SAMPLE).finished
    classes = unpaired.scorer.class_vector
    assert classes.classifier.out_features == 1000
    pixels = unpaired.scorer.pixels(SAMPLE)[None]
    pooled = unpaired.scorer.model.visual.trunk(unpaired.scorer.transform.normalise(pixels))
    assert not unpaired.scorer.model.visual.head.projection(pooled).any()  # nothing was learned from pairs
    cat = SAMPLE.parent / "pictures" / "cat.jpg"
    assert "cat" in unpaired.caption(cat).lower()
    assert "cat" in captioner.caption(cat).lower()


@pytest.mark.slow  # golden captions hold constraints, too
def test_words_can_be_included_and_excluded(captioner):
    decoding = captioner.decoding
    excluded = captioner.caption(SAMPLE).lower().rstrip(".").split()[1]
    assert excluded not in captioner.caption(SAMPLE, replace(decoding, exclude=(excluded,))).lower().split()
    assert "tree" in captioner.caption(SAMPLE, replace(decoding, include=("tree",))).lower()
    assert len(captioner.caption(SAMPLE, replace(decoding, max_words=6)).split()) <= 6


def test_a_batch_gives_each_picture_what_it_gets_alone(captioner, test_pictures):
    together = captioner.caption(test_pictures[:8], batch_size=8)
    assert [captioner.caption(picture) for picture in test_pictures[:8]] == together
    assert len(set(together)) > 4


def test_incremental_text_vectors_equal_whole_ones_on_real_captions(captioner, data_dir):
    texts = read_sentences(data_dir / "flickr8k" / "captions.jsonl", ("test",), held_out=())[:100]
    scorer = captioner.scorer
    cache = scorer.incremental_text_encoder()
    words = [text.split() for text in texts]
    prefixes, captions = [EncodedText()] * len(texts), [""] * len(texts)
    with torch.no_grad():
        for length in (2, 4, 6):
            pieces = [[" ".join(row[:length]), " ".join(row[: length - 1])] for row in words]
            extension = cache.extend(prefixes, captions, pieces)
            flat = [piece for row in pieces for piece in row]
            whole = torch.nn.functional.normalize(scorer.model.encode_text(scorer.tokenizer(flat)), dim=1)
            assert (torch.cat(extension.vectors) - whole).abs().max() < 1e-5
            prefixes, captions = list(extension.prefixes), [row[0] for row in pieces]


def test_pictures_find_their_captions(captioner, data_dir):
    folder = data_dir / "flickr8k"
    rows = read_captions(folder / "captions.jsonl", ("dev",))[:60]
    tar = ImageFiles([folder / "images-dev.tar"])
    texts = [text for row in rows for text in row.captions]
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.captions])
    similarity = captioner.scorer.similarity([tar.read(row.image) for row in rows], texts)
    assert retrieval_recall(similarity, owner)["image_to_text_r1"] > 35  # of 60 pictures; chance is 1


def test_its_fine_grained_scorer_finds_the_words_in_the_picture(captioner):
    fine = FineGrainedScorer.from_pretrained(EMBEDDED / "fine_grained", captioner.scorer)
    right, wrong = fine.similarity([SAMPLE], ["A man looks through a camera.", "Two dogs play in the snow."])[
        0
    ]
    assert right > wrong


@pytest.mark.slow
def test_it_needs_less_than_one_and_a_half_gigabytes():
    # Not getrusage: a child's ru_maxrss begins with what its parent held when it forked.
    program = f"""
from magicap import caption
caption({str(SAMPLE)!r})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1.5e9
