"""Metrics without Java: equal to coco-caption's own code, and sane on every kind of text."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

import magicap
from magicap.errors import BadSettings, MetricUnavailable
from magicap.metrics import (
    FIGURES,
    METRICS,
    Score,
    bleu,
    broken,
    cider_d,
    diversity,
    evaluate,
    lengths,
    rouge_l,
    unfinished,
)
from magicap.metrics.cider import DocumentFrequencies, TfIdf
from magicap.metrics.ngrams import ORDERS, hash_ngrams, hash_words, words
from magicap.metrics.suite import figure_of
from magicap.metrics.tokenizer import PTB

WORDS = ["a", "dog", "runs", "on", "the", "grass", "man", "red", "1 1/2"]
ODD = [
    '"quoted"',
    "café",
    "it's",
    "\t",
    "日本語",
    "🐕",
    ".",
    "-",
    "--",
    "1/2",
    "don't",
    "\u00a0",
    "|||",
    "<b>",
]
caption = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
reference = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
odd_caption = st.lists(st.sampled_from(WORDS + ODD), max_size=12).map(" ".join) | st.text(max_size=40)


def corpora(text, references=None):
    """Two to six images: candidates, and one to four references of each."""
    image = st.tuples(text, st.lists(text if references is None else references, min_size=1, max_size=4))
    return st.lists(image, min_size=2, max_size=6).map(lambda rows: tuple(map(list, zip(*rows, strict=True))))


def coco_caption_scores(candidates, references) -> dict[str, tuple[float, list[float]]]:
    """coco-caption's scores of the same tokens."""
    tokens = {i: [" ".join(PTB(text))] for i, text in enumerate(candidates)}
    reference_tokens = {i: [" ".join(PTB(text)) for text in texts] for i, texts in enumerate(references)}
    values, lists = Bleu(4).compute_score(reference_tokens, tokens, verbose=0)
    scores = {
        f"BLEU-{n}": (value, per_image)
        for n, (value, per_image) in enumerate(zip(values, lists, strict=True), start=1)
    }
    scores["ROUGE-L"] = Rouge().compute_score(reference_tokens, tokens)
    scores["CIDEr-D"] = Cider().compute_score(reference_tokens, tokens)
    return scores


# coco-caption fails or gives full marks where an empty caption meets an empty reference; ours scores it 0.
@given(corpora(caption, reference))
def test_bleu_rouge_and_cider_equal_coco_captions(corpus):
    candidates, references = corpus
    ours = evaluate(candidates, references, metrics=["bleu", "rouge_l", "cider_d"]).scores
    for name, (value, per_image) in coco_caption_scores(candidates, references).items():
        assert ours[name].value == pytest.approx(value, abs=1e-8), name
        np.testing.assert_allclose(ours[name].per_image, per_image, atol=1e-8, err_msg=name)


@given(corpora(odd_caption), st.randoms(use_true_random=False))
def test_order_of_images_and_references_does_not_matter(corpus, random):
    candidates, references = corpus
    order = list(range(len(candidates)))
    random.shuffle(order)
    shuffled = [random.sample(references[i], len(references[i])) for i in order]
    names = ["bleu", "rouge_l", "cider_d", "diversity", "lengths", "broken"]
    straight = evaluate(candidates, references, metrics=names).scores
    mixed = evaluate([candidates[i] for i in order], shuffled, metrics=names).scores
    for name, score in straight.items():
        assert mixed[name].value == pytest.approx(score.value, abs=1e-9), name
        if score.per_image is not None:
            np.testing.assert_allclose(mixed[name].per_image, score.per_image[order], atol=1e-9)


@given(corpora(odd_caption))
def test_scores_stay_in_their_range_and_pool_as_they_say(corpus):
    candidates, references = corpus
    weights = np.ones((1, len(candidates)))
    for name, score in evaluate(
        candidates, references, metrics=["bleu", "rouge_l", "cider_d"]
    ).scores.items():
        figure = FIGURES[name]
        assert figure.low <= score.value <= figure.high + 1e-9
        assert np.all((score.per_image >= figure.low) & (score.per_image <= figure.high + 1e-9))
        assert score.resampled(weights)[0] == pytest.approx(score.value)
        assert score.resampled(3 * weights)[0] == pytest.approx(score.value, abs=1e-4)


def test_a_perfect_caption_scores_the_maximum():
    texts = ["a dog runs over wet grass", "two men in red shirts climb", "the empty street lies in rain"]
    scores = evaluate(texts, [[text] * 5 for text in texts], metrics=["bleu", "rouge_l", "cider_d"]).scores
    for name, score in scores.items():
        top = FIGURES[name].high
        assert score.value == pytest.approx(top, rel=1e-6)
        np.testing.assert_allclose(score.per_image, top, rtol=1e-6)


@pytest.mark.parametrize("empty", ["", " \t\n", "...", '"'])
def test_an_empty_caption_scores_nothing(empty):
    scores = evaluate([empty, empty], [["a dog"], ["a man"]], metrics=["bleu", "rouge_l", "cider_d"]).scores
    assert all(score.value < 1e-3 and (score.per_image < 1e-3).all() for score in scores.values())
    assert scores["CIDEr-D"].value == scores["ROUGE-L"].value == 0


def test_long_and_strange_captions_survive():
    strange = ["word " * 10_000, "\x00\ufffd\ud800", "a\tdog\u2028runs", "<|endoftext|>", '"' * 50]
    report = evaluate(
        strange, [["a dog runs", text] for text in strange], metrics=[*METRICS.keys() - {"meteor"}]
    )
    assert all(math.isfinite(score.value) for score in report.scores.values())


def test_one_image_has_no_cider_but_the_rest():
    report = evaluate(["a dog"], [["a dog"]], metrics=["bleu", "cider_d"])
    assert "two images" in report.absent["CIDEr-D"]
    assert report.scores["BLEU-1"].value == pytest.approx(1)
    with pytest.raises(MetricUnavailable, match="found one"):
        cider_d(["a dog"], [["a dog"]])


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [
        (["a"], [["a"], ["b"]], "1 candidates and references of 2 images"),
        (["a", "b"], [["a"], []], "1 images have no reference caption, the first at position 1"),
        ([], [], "expected at least one image"),
        ("a dog", ["a dog"], "found something else"),
        (["a dog"], ["a dog"], "found something else"),
    ],
)
@pytest.mark.parametrize("metric", [bleu, rouge_l, cider_d])
def test_what_cannot_be_scored_is_refused(metric, candidates, references, says):
    with pytest.raises(BadSettings, match=says):
        metric(candidates, references)


def test_an_unknown_metric_is_named():
    with pytest.raises(BadSettings, match="no metric 'cider': expected some of bleu, "):
        evaluate(["a"], [["a"]], metrics=["cider"])
    assert "BLEU-4" in evaluate(["a"], [["a"]], metrics="bleu").scores


def test_the_suite_refuses_what_its_metrics_would_not_notice():
    with pytest.raises(BadSettings, match="2 candidates and references of 0 images"):
        evaluate(["a", "b"], [], metrics=["lengths"])
    with pytest.raises(BadSettings, match="found something else"):
        evaluate(["a", None], [["a"], ["b"]], metrics=["lengths"])
    with pytest.raises(BadSettings, match="says n already"):
        evaluate(["a"], [["a"]], metrics=["bleu"], about={"n": "1000"})
    texts = np.array(["a dog", "a cat"])
    assert evaluate(texts, [texts, texts], metrics=["bleu", "cider_d"]).scores[
        "BLEU-1"
    ].value == pytest.approx(1)


def test_a_score_that_is_no_number_is_no_figure():
    report = evaluate(
        ["a"],
        [["a"]],
        metrics=[],
        extra_metrics={"mine": lambda c, r: {"mine": Score.mean("mine", np.array([np.nan]), {})}},
    )
    assert report.scores == {}
    assert "not a number" in report.absent["mine"]


def test_diversity_counts_words_and_captions():
    said = ["A dog runs.", "a dog runs", "A cat sits down."]
    scores = diversity(said)
    assert scores["distinct captions"].value == 2
    assert scores["vocabulary"].value == 6
    assert scores["distinct-1"].value == pytest.approx(6 / 10)
    assert scores["distinct-2"].value == pytest.approx(5 / 7)
    assert scores["most frequent caption"].value == pytest.approx(2 / 3)
    assert lengths(said)["words"].value == pytest.approx(10 / 3)
    with pytest.raises(BadSettings, match="resampled by image"):
        scores["vocabulary"].resampled(np.ones((1, 3)))
    with pytest.raises(BadSettings, match="expected a list of captions"):
        diversity([])


def test_unfinished_captions_are_known_by_their_record_alone():
    said = ["two dogs run", "A dog runs on the", "개가 달린다"]
    assert unfinished(said, finished=[True, False, True])["unfinished"].per_image.tolist() == [0, 1, 0]
    with pytest.raises(MetricUnavailable, match="'finished'"):
        unfinished(said)
    with pytest.raises(BadSettings, match="expected 3 of finished, found 1"):
        unfinished(said, finished=[True])
    report = evaluate(said, [["two dogs run"]] * 3, metrics=["unfinished"])
    assert "unfinished" in report.absent
    report = evaluate(said, [["a dog"]] * 3, metrics=["unfinished"], finished=[True] * 3)
    assert report.scores["unfinished"].value == 0


def test_broken_captions_stutter_or_stop_short():
    whole = [
        "A dog runs.",
        "Two women look on.",
        "He gives her another ball.",
        "It is very very big",
        "Dogs.",
    ]
    wrong = [
        "A dog on the.",
        "A dog with",
        "A dog dog runs.",
        "On the a beach",
        "",
        "...",
        "A man and a woman and",
    ]
    assert broken(whole + wrong)["broken"].per_image.tolist() == [0] * len(whole) + [1] * len(wrong)
    with pytest.raises(BadSettings, match="broken: expected a list"):
        broken("A dog runs.")


def test_signatures_say_how_a_figure_came_about():
    about = {"split": "dev", "model": "abc"}
    report = evaluate(["a", "b"], [["a"], ["b", "c"]], metrics=["cider_d"], about=about)
    parts = report.scores["CIDEr-D"].signature_text.split("|")
    assert parts[0] == "metric:CIDEr-D"
    said = {"tok:ptb-3.4.1-py", "n:2", "refs:1-2", "split:dev", "model:abc"}
    assert said | {f"version:{magicap.__version__}"} < set(parts)


@settings(max_examples=20)
@given(st.lists(caption, min_size=2, max_size=6))
def test_similarity_of_pairs_is_cider_of_one_reference(texts):
    """The primitive behind rewards: any pair, weighed over given documents."""
    tokens = [words(PTB(text)) for text in texts]
    vectors = TfIdf.of(tokens, DocumentFrequencies.of([[caption] for caption in tokens]))
    count = len(texts)
    left, right = np.divmod(np.arange(count * count), count)
    pairs = vectors.similarity(left, right).reshape(count, count)
    for shift in range(count):
        references = [[texts[(i + shift) % count]] for i in range(count)]
        expected = cider_d(texts, references)["CIDEr-D"].per_image
        np.testing.assert_allclose(
            pairs[np.arange(count), (np.arange(count) + shift) % count], expected, atol=1e-9
        )


@given(st.lists(st.lists(caption, max_size=3), max_size=6))
def test_document_frequencies_count_groups_of_captions(groups):
    documents = [[words(PTB(text)) for text in texts] for texts in groups]
    counts = Counter()
    for captions in documents:
        counts.update({
            tuple(tokens[i : i + n])
            for tokens in captions for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1)
        })  # fmt: skip
    frequencies = DocumentFrequencies.of(documents)
    assert frequencies.documents == len(groups)
    assert sorted(frequencies.counts) == sorted(count for count in counts.values() if count > 1)
    for gram, count in [*counts.items(), (("no", "such"), 1)]:
        number = hash_ngrams(hash_words(gram), np.array([0]), len(gram))
        assert frequencies.idf(number) == pytest.approx(math.log(max(len(groups), 1) / count))


@given(st.lists(odd_caption, max_size=6))
def test_captions_counted_alone_are_documents_of_one(texts):
    alone, grouped = (
        DocumentFrequencies.of_texts(texts),
        DocumentFrequencies.of([[words(PTB(text))] for text in texts]),
    )
    assert alone.documents == grouped.documents
    assert np.array_equal(alone.numbers, grouped.numbers)
    assert np.array_equal(alone.counts, grouped.counts)


def test_every_figure_says_its_direction_and_its_range():
    without_java = [name for name in METRICS if name not in ("meteor", "spice")]
    report = evaluate(["a dog", "a man runs"], [["a dog"], ["a red man"]], metrics=without_java)
    assert set(report.scores) <= set(FIGURES)
    titles = {"BLEU", "METEOR", "ROUGE-L", "CIDEr-D", "SPICE", "diversity", "words", "unfinished", "broken"}
    assert {entry.title for entry in METRICS.values()} == titles
    for name, score in report.scores.items():
        assert FIGURES[name].low <= score.value <= FIGURES[name].high
    neutral = {name for name, figure in FIGURES.items() if not figure.higher_is_better}
    assert neutral == {"words", "most frequent caption", "unfinished", "broken"}
    assert figure_of("of one's own").higher_is_better
