"""Models and tokenizers that are read without transformers and open_clip, against theirs."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Tokenizer

from magicap import Captioner, ImageTextScorer, LanguageModel
from magicap.captioners.sources import sources_of
from magicap.models.fingerprint import fingerprint
from magicap.models.language_files import by_transformers
from magicap.models.plain_clip import PlainClip
from magicap.models.plain_gpt2 import PlainGpt2
from magicap.models.scorer_files import by_open_clip
from magicap.training.fresh_scorer import ScorerShape, fresh_scorer

SOURCES = sources_of("embedded")
LANGUAGE_MODEL, SCORER = SOURCES.language_model, SOURCES.scorer[0]

PIECES = "a dog|A Dog.| |\n|café|☃|&amp;|&amp;lt;|Ã©|🐕|'s|\u00a0|<-pad->|<-start_of_text->".split("|")
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from([*PIECES, "<|endoftext|>", "<|ENDOFTEXT|>", "runs fast " * 30]), max_size=8
        ).map("".join),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def plain_scorer():
    return ImageTextScorer.from_pretrained(SCORER)


@pytest.fixture(scope="module")
def scorer():
    return ImageTextScorer(*by_open_clip(SCORER, None, "cpu", torch.float32, None))


@pytest.fixture(scope="module")
def plain_language_model():
    return LanguageModel.from_pretrained(LANGUAGE_MODEL)


@pytest.fixture(scope="module")
def language_model():
    return LanguageModel(*by_transformers(str(LANGUAGE_MODEL), torch.float32, "main"))


@given(TEXTS)
def test_a_scorer_reads_texts_as_open_clip_does(plain_scorer, scorer, texts):
    assert isinstance(plain_scorer.network, PlainClip)
    assert plain_scorer.tokenize(texts) == scorer.tokenize(texts)
    assert plain_scorer.count_cut(texts) == scorer.count_cut(texts)
    assert [*map(plain_scorer.without_specials, texts)] == [*map(scorer.without_specials, texts)]
    assert torch.allclose(plain_scorer.encode_texts(texts), scorer.encode_texts(texts), rtol=0, atol=1e-6)


@given(TEXTS, st.lists(st.lists(st.integers(0, 7999), max_size=12), max_size=3))
def test_a_language_model_reads_and_writes_texts_as_transformers_does(
    plain_language_model, language_model, texts, rows
):
    assert isinstance(plain_language_model.network, PlainGpt2)
    assert plain_language_model.encode_captions(texts) == language_model.encode_captions(texts)
    assert plain_language_model.texts(rows) == language_model.texts(rows)
    for name in ("start_id", "pad_id", "end_id", "max_new_tokens", "vocabulary_size", "_special_ids"):
        assert getattr(plain_language_model, name) == getattr(language_model, name)


def test_vectors_fingerprints_and_settings_of_a_scorer_are_those_of_open_clip(plain_scorer, scorer):
    pixels = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    vectors = scorer.encode_pixels(pixels)
    assert torch.allclose(plain_scorer.encode_pixels(pixels), vectors, rtol=0, atol=1e-6)
    assert plain_scorer.fingerprint == scorer.fingerprint
    assert json.dumps(plain_scorer.config) == json.dumps(scorer.config)
    made = copy.deepcopy(plain_scorer)
    weights = dict(made.network.named_parameters())
    assert str(made.model) == str(scorer.model)
    assert made.model.visual.preprocess_cfg == scorer.model.visual.preprocess_cfg
    assert all(parameter is weights[name] for name, parameter in made.model.named_parameters())
    assert fingerprint(made.model) == scorer.fingerprint
    assert made.text_tower.part is made.model is made.network
    assert torch.equal(made.encode_pixels(pixels), vectors)
    assert str(made.preprocess) == str(scorer.preprocess)
    assert str(made.tokenizer.tokenizer) == str(scorer.tokenizer.tokenizer)
    assert made.tokenize(["A dog."]) == scorer.tokenize(["A dog."])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_scorer_that_recipes_make_is_plain(tmp_path, pool):
    torch.manual_seed(0)
    made = fresh_scorer(ScorerShape(pool=pool, text_layers=2), str(SCORER))
    made.save_pretrained(tmp_path)
    read = ImageTextScorer.from_pretrained(tmp_path)
    assert isinstance(read.network, PlainClip)
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    assert torch.allclose(read.encode_pixels(pixels), made.encode_pixels(pixels), rtol=0, atol=1e-6)
    assert torch.allclose(read.encode_texts(["a dog"]), made.encode_texts(["a dog"]), rtol=0, atol=1e-6)
    assert read.fingerprint == made.fingerprint == fingerprint(read.model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_are_built_from_what_was_read(tmp_path, copied):
    """Also where the folder has gone since."""
    shutil.copytree(LANGUAGE_MODEL, tmp_path / "language_model")
    shutil.copytree(SCORER, tmp_path / "scorer")
    language_model = LanguageModel.from_pretrained(tmp_path / "language_model")
    scorer = ImageTextScorer.from_pretrained(tmp_path / "scorer")
    shutil.rmtree(tmp_path / "language_model")
    shutil.rmtree(tmp_path / "scorer")
    language_model, scorer = copied(language_model), copied(scorer)
    assert isinstance(language_model.network, PlainGpt2)
    assert isinstance(scorer.network, PlainClip)
    assert language_model.model.config.n_embd == 256
    assert language_model.model.get_input_embeddings().weight is language_model.model.lm_head.weight
    assert language_model.encode_captions(["A dog."]) == [
        [language_model.start_id, *language_model.tokenizer("A dog.").input_ids, language_model.end_id]
    ]
    assert scorer.tokenizer(["a dog"]).shape == (1, 40)
    assert scorer.model.visual.head.class_vector is scorer.class_vector


def test_the_tokenizer_of_gpt2_is_read_as_transformers_reads_it(tmp_path):
    trained = tiny.word_tokenizer()
    vocabulary, merges = (
        trained.get_vocab(),
        json.loads(trained.backend_tokenizer.to_str())["model"]["merges"],
    )
    made = GPT2Tokenizer(vocabulary, [tuple(pair) for pair in merges])
    written = tiny.language_model(made)
    written.save_pretrained(tmp_path)
    read = LanguageModel.from_pretrained(tmp_path)
    assert isinstance(read.network, PlainGpt2)
    texts = [*tiny.SENTENCES, " two  spaces ", "café <|endoftext|>☃", "<-pad-> it's", ""]
    ids = written.encode_captions(texts)
    assert read.encode_captions(texts) == ids
    assert read.texts(ids) == written.texts(ids)
    assert read.tokenizer(texts).input_ids == written.tokenizer(texts).input_ids
    assert type(read.tokenizer) is GPT2Tokenizer


@pytest.mark.parametrize("file", ["special_tokens_map.json", "added_tokens.json"])
def test_a_tokenizer_that_more_files_belong_to_is_left_to_transformers(tmp_path, file):
    shutil.copytree(LANGUAGE_MODEL, tmp_path / "it")
    (tmp_path / "it" / file).write_text("{}")
    assert not isinstance(LanguageModel.from_pretrained(tmp_path / "it").network, PlainGpt2)


def test_building_the_models_changes_no_random_number_and_no_caption():
    captioner = Captioner.from_pretrained()
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
    before = captioner.caption(picture)
    fingerprints = captioner.fingerprint
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert captioner.language_model.model is captioner.language_model.network
    assert captioner.scorer.model is captioner.scorer.network
    assert torch.equal(torch.rand(3), expected)
    captioner.cache.clear()
    after = captioner.caption(picture)
    assert after == before
    assert after.score == pytest.approx(before.score, rel=1e-5)
    del captioner.__dict__["_models"]
    assert captioner.fingerprint == fingerprints
