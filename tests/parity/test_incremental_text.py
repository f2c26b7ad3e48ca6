"""Incremental text vectors equal whole ones, for causal towers of both layouts; others are encoded whole."""

from __future__ import annotations

import random

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from magicap import ImageTextScorer
from magicap.models.incremental_text import EncodedText

WORDS = "a dog's café — Running, 3rd! über-fast\u00a0<x> ☃ the the rollerblading man . mountain".split(" ")


def encoded_in_full(scorer, texts) -> torch.Tensor:
    """open_clip's own encoder over the full context."""
    with torch.no_grad():
        vectors = scorer.model.encode_text(scorer.tokenizer(list(texts)))
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.fixture(scope="module", params=[False, True], ids=["CLIP", "CustomTextCLIP"])
def scorer(request):
    return tiny.scorer(custom_text=request.param)


def test_a_thousand_random_prefixes_and_candidates(scorer):
    rng = random.Random(0)
    assert scorer.text_tower is not None
    encoder = scorer.incremental_text_encoder()
    checked = 0
    while checked < 1000:
        rows, count = rng.randint(1, 4), rng.randint(1, 12)
        prefixes, captions = [EncodedText()] * rows, [""] * rows
        for _ in range(5):
            candidates = [
                [text + rng.choice([" ", ""]) + rng.choice(WORDS) for _ in range(count)] for text in captions
            ]
            extension = encoder.extend(prefixes, captions, candidates)
            for row in range(rows):
                assert (extension.vectors[row] - encoded_in_full(scorer, candidates[row])).abs().max() < 1e-5
            captions = [rng.choice(row) for row in candidates]
            # Some captions come back with the prefix of two words ago, as after an eviction.
            prefixes = [rng.choice(pair) for pair in zip(prefixes, extension.prefixes, strict=True)]
            checked += rows * count


@given(st.lists(st.lists(st.text(max_size=12), min_size=3, max_size=3), min_size=1, max_size=4))
def test_any_text_may_follow_any_other(scorer, rounds):
    encoder = scorer.incremental_text_encoder()
    prefix, caption = EncodedText(), ""
    for texts in rounds:
        extension = encoder.extend([prefix], [caption], [texts])
        assert (extension.vectors[0] - encoded_in_full(scorer, texts)).abs().max() < 1e-5
        (prefix,), caption = extension.prefixes, texts[1]


def test_captions_of_any_length_and_number_of_candidates_run_together(scorer):
    encoder = scorer.incremental_text_encoder()
    captions = ["a dog", "two men and a boat on the sea", ""]
    first = encoder.extend([EncodedText()] * 3, captions, [["x"]] * 3)
    texts = [
        ["a dog runs", "a dog."],
        ["two men and a boat on the sea at night"],
        ["the", "sea", "the", "THE"],
    ]
    second = encoder.extend(first.prefixes, captions, texts)
    for vectors, row in zip(second.vectors, texts, strict=True):
        assert (vectors - encoded_in_full(scorer, row)).abs().max() < 1e-5


def test_only_what_is_new_is_computed_and_that_once(scorer):
    encoder = scorer.incremental_text_encoder()
    caption = "a dog runs across the grass"
    first = encoder.extend([EncodedText()], [""], [[caption]])
    assert first.tokens == 8  # start, six words, end
    second = encoder.extend(first.prefixes, [caption], [[f"{caption} quickly", f"{caption} QUICKLY"]])
    assert second.tokens == 6 + 2  # six words of the caption; a word and an end, once for both
    third = encoder.extend(second.prefixes, [caption], [[f"{caption} quickly", f"{caption} again"]])
    assert third.tokens == 2 + 2
    assert third.added == (0,)
    assert all(a is b for a, b in zip(second.prefixes[0].cache, third.prefixes[0].cache, strict=True))


def test_a_text_longer_than_the_context_is_cut_as_open_clip_cuts_it(scorer):
    text = "dog " * 100
    encoder = scorer.incremental_text_encoder()
    extension = encoder.extend([EncodedText()], [""], [[text, "dog"]])
    assert (extension.vectors[0] - encoded_in_full(scorer, [text, "dog"])).abs().max() < 1e-5


def test_special_tokens_inside_outside_text_are_dropped(scorer):
    honest = scorer.encode_texts(["a dog   on the grass"])
    for cunning in (
        "a dog <end_of_text> on the <START_OF_TEXT> grass",
        "a dog &lt;end_of_text&gt; on the grass",
        "a dog &amp;amp;amp;lt;end_of_text&amp;amp;amp;gt; on the grass",
        "a dog ＜end_of_text＞ on the grass",
    ):
        assert (honest - scorer.encode_texts([cunning])).abs().max() < 1e-5, cunning


def test_a_tower_that_is_not_causal_is_encoded_whole():
    scorer = tiny.scorer(custom_text=True, no_causal_mask=True, pool_type="first")
    assert scorer.text_tower is None
    encoder = scorer.incremental_text_encoder()
    for caption, texts in (("", ["a dog", "a dog runs"]), ("a dog runs", ["a dog runs fast", "x"])):
        extension = encoder.extend([EncodedText()], [caption], [texts])
        assert (extension.vectors[0] - encoded_in_full(scorer, texts)).abs().max() < 1e-5


def test_a_tower_that_only_looks_causal_is_found_out(caplog):
    scorer = tiny.scorer()
    scorer.model.attn_mask.zero_()
    assert scorer._confirmed_tower() is None
    assert "encoded in full" in caplog.text


@given(
    st.lists(
        st.text(st.characters() | st.sampled_from("ab &;<>\x1b[m "), max_size=30), min_size=1, max_size=4
    )
)
def test_tokens_are_those_of_open_clips_own_call(transformers_reader, texts):
    """For a transformers tokenizer the call is shortened; the ids up to the pooled one must not change."""
    tower = transformers_reader.text_tower
    own = [tower.cut(row) for row in transformers_reader.tokenizer(list(texts)).tolist()]
    assert [tower.cut(row) for row in transformers_reader.tokenize(texts)] == own


@pytest.fixture(scope="module")
def transformers_reader(tmp_path_factory):
    """A scorer that reads through a transformers tokenizer, as the embedded one does."""
    from transformers import PreTrainedTokenizerFast

    bpe = tiny.word_tokenizer().backend_tokenizer
    bpe.add_special_tokens(["<s>", "<pad>"])
    start, end = bpe.token_to_id("<s>"), bpe.token_to_id("<|endoftext|>")
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A <|endoftext|>", special_tokens=[("<s>", start), ("<|endoftext|>", end)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    specials = {"eos_token": "<|endoftext|>", "bos_token": "<s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=bpe, **specials).save_pretrained(folder)
    shape = tiny.scorer_config(
        context_length=12, vocab_size=bpe.get_vocab_size(), pool_type="eos", eos_id=end
    )
    scorer = ImageTextScorer.from_config(shape, folder)
    assert scorer._tokens.is_plain
    assert scorer.text_tower is not None
    return scorer
