"""A captioner's memory: sampled from its language model, kept on disk, tuned on; a captioner adapted."""

import gzip
import json
import sys
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from magicap import BadData, BadModel, BadSettings, BeamMagicSearch, CaptionMemory
from magicap.adaptation.adapt import AdaptationSettings, adapt
from magicap.adaptation.tuning import NEIGHBOURS, TEMPERATURES, tune_decoding
from magicap.retrieval.memory_files import CAPTIONS_FILE, NGRAMS_FILE, VECTORS_FILE
from magicap.retrieval.modality_gap import pseudo_images
from magicap.retrieval.sampled_captions import sample_captions

NOUNS = ["dog", "man", "child", "biker", "wall", "beach"]
DOMAIN = [f"A {a} runs near the {b} on a {c}." for a in NOUNS for b in NOUNS for c in NOUNS[:3]]


@pytest.fixture(scope="module")
def captioner():
    return tiny.captioner(0)


@pytest.fixture(scope="module")
def memory(captioner):
    return CaptionMemory.from_texts(captioner.scorer, DOMAIN)


def part_with(memory, word):
    return memory.where(lambda text: word in text, key=word, asked=f"holds {word!r}")


@pytest.fixture(scope="module")
def talker():
    """A random language model that ends its sentences: one of the tokens that it likes is its end."""
    language_model = tiny.language_model(tiny.word_tokenizer(), seed=1)
    likely = language_model.probabilities(language_model.start().last).topk(2).indices
    language_model.end_id = int(likely[0, 1])
    return language_model


def test_sampled_captions_differ_and_are_the_same_again(talker):
    counts = []
    samples = sample_captions(talker, 40, seed=3, on_progress=counts.append)
    assert len(set(samples)) == len(samples) == sum(counts) == 40
    assert samples == sample_captions(talker, 40, seed=3)
    assert samples != sample_captions(talker, 40, seed=4)


def test_a_model_that_repeats_itself_is_not_sampled_for_ever(talker):
    assert len(sample_captions(talker, 10**6, max_new_tokens=2, temperature=0.01)) < 500


def test_a_memory_from_the_language_model_alone(talker, captioner):
    memory = CaptionMemory.from_language_model(talker, captioner.scorer, 10)
    assert len(memory) == 10
    assert memory.vectors.norm(dim=1) == pytest.approx(1, abs=1e-5)


def test_saved_and_read_it_is_nearly_the_same(memory, tmp_path):
    memory.save_pretrained(tmp_path / "memory")
    again = CaptionMemory.from_pretrained(tmp_path / "memory")
    assert again.texts == memory.texts
    assert (again.vectors * memory.vectors).sum(dim=1).min() > 0.9999
    numbers = memory.document_frequencies.numbers
    assert again.document_frequencies.idf(numbers) == pytest.approx(memory.document_frequencies.idf(numbers))
    again.save_pretrained(tmp_path / "twice")
    for name in (VECTORS_FILE, NGRAMS_FILE, CAPTIONS_FILE):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()


def test_four_bits_a_number_are_half_the_size_and_nearly_as_near(memory, tmp_path):
    small = CaptionMemory(memory.texts, memory.vectors, bits=4)
    small.save_pretrained(tmp_path / "four")
    memory.save_pretrained(tmp_path / "eight")
    sizes = [load_file(tmp_path / name / VECTORS_FILE).popitem()[1].nbytes for name in ("four", "eight")]
    assert 2 * sizes[0] == sizes[1]
    again = CaptionMemory.from_pretrained(tmp_path / "four")
    assert (again.vectors * memory.vectors).sum(dim=1).min() > 0.98
    again.save_pretrained(tmp_path / "twice")
    for name in (VECTORS_FILE, NGRAMS_FILE, CAPTIONS_FILE):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "four" / name).read_bytes()
    with pytest.raises(BadSettings, match="8 or 4 bits a number, found 5"):
        CaptionMemory(memory.texts, memory.vectors, bits=5)
    narrow = torch.nn.functional.normalize(memory.vectors[:, :23], dim=1)
    with pytest.raises(BadSettings, match="even width, found 23"):
        CaptionMemory(memory.texts, narrow, bits=4).save_pretrained(tmp_path / "odd")


def test_a_reduced_one_lies_in_a_subspace_and_comes_back_from_disk(memory, captioner, tmp_path):
    small = memory.reduced(12)
    assert small.coordinates.shape == (len(memory), 12)
    assert small.width == memory.width
    assert small.vectors.norm(dim=1) == pytest.approx(1, abs=1e-5)
    positions = torch.tensor([[5, 0], [7, 7]])
    assert torch.allclose(small.vectors_at(positions), small.vectors[positions])
    small.save_pretrained(tmp_path)
    again = CaptionMemory.from_pretrained(tmp_path)
    assert again.vectors.shape == memory.vectors.shape
    queries = captioner.scorer.encode_images(tiny.pictures(3))
    assert torch.allclose(again.cosines(queries), queries @ small.vectors.T, atol=0.01)
    more = again.with_texts(captioner.scorer, [*memory.texts[:2], "A capybara in a bath."])
    assert len(more) == len(memory) + 1
    assert more.coordinates.shape[1] == 12
    assert more.coordinates[-1].norm() == pytest.approx(1, abs=1e-5)
    part = part_with(again, "biker")
    bikers = [n for n, text in enumerate(again.texts) if "biker" in text]
    assert torch.allclose(part.cosines(queries), again.cosines(queries)[:, bikers], atol=1e-6)


def test_at_full_width_a_reduced_one_holds_the_same_vectors(memory):
    assert torch.allclose(memory.reduced(memory.width).vectors, memory.vectors, atol=1e-5)


def test_axes_of_another_number_are_refused(memory):
    with pytest.raises(BadSettings, match=r"one axis for each of 24 coordinates, found axes \(3, 24\)"):
        CaptionMemory(memory.texts, memory.vectors, axes=torch.eye(24)[:3])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (VECTORS_FILE, b"no tensors"),
        (NGRAMS_FILE, b"no tensors"),
        (CAPTIONS_FILE, b"no gzip"),
        (CAPTIONS_FILE, gzip.compress(json.dumps(["one"]).encode(), mtime=0)),
        (CAPTIONS_FILE, gzip.compress(b"5", mtime=0)),
        (CAPTIONS_FILE, gzip.compress(bytes(range(256)), mtime=0)[:20] + b"\xff" * 20),
        (CAPTIONS_FILE, None),
    ],
)
def test_a_damaged_one_is_named(memory, tmp_path, name, content):
    memory.save_pretrained(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadModel, match="holds no caption memory that can be read"):
        CaptionMemory.from_pretrained(tmp_path)


def test_a_part_of_it(memory):
    part = part_with(memory, "biker")
    assert part.texts == [text for text in DOMAIN if "biker" in text]
    assert part is part_with(memory, "biker")
    assert part.document_frequencies is memory.document_frequencies  # what is rare is rare among all
    with pytest.raises(BadSettings, match="none of the 108 captions of the memory holds 'giraffe'"):
        part_with(memory, "giraffe")


def test_the_nearest_are_the_nearest_of_all(memory, captioner):
    queries = captioner.scorer.encode_images(tiny.pictures(3))
    cosines, _ = memory.nearest(queries, 7)
    expected = (queries @ memory.vectors.T).sort(dim=1, descending=True)
    assert torch.equal(cosines, expected.values[:, :7])
    assert memory.nearest(queries, 10**6)[0].shape == (3, len(memory))


def test_of_equals_the_earlier_comes_first():
    axes = torch.eye(3)
    memory = CaptionMemory(["b", "a", "a again", "a once more"], axes[[1, 0, 0, 0]])
    cosines, positions = memory.nearest(axes[:1], 4)
    assert positions.tolist() == [[1, 2, 3, 0]]
    assert cosines.tolist() == [[1, 1, 1, 0]]
    assert memory.nearest(axes[:1])[1].shape == (1, 1)


def test_a_decoding_is_tuned_among_settings_that_are_compared(memory, captioner):
    tuned = tune_decoding(BeamMagicSearch(top_k=9), memory, seed=1)
    assert tuned.neighbours in NEIGHBOURS
    assert tuned.temperature in TEMPERATURES
    assert tuned.top_k == 9
    assert tuned == tune_decoding(BeamMagicSearch(top_k=9), memory, seed=1)
    images = captioner.scorer.encode_images(tiny.pictures(4))
    assert tune_decoding(BeamMagicSearch(), memory, images).neighbours in NEIGHBOURS


def test_noise_is_as_loud_as_pictures_are_far():
    vectors = F.normalize(torch.randn(400, 64, generator=torch.Generator().manual_seed(5)), dim=1)
    memory = CaptionMemory([str(number) for number in range(400)], vectors)
    near = pseudo_images(
        vectors[:50], memory, vectors[50:100]
    )  # pictures that are captions need next to none
    far = pseudo_images(vectors[:50], memory, pseudo_images(vectors[50:100], memory))
    for queries, low, high in ((near, 0.99, 1.01), (far, 0.15, 0.4)):
        assert low < (queries * vectors[:50]).sum(dim=1).mean() < high


SETTINGS = AdaptationSettings(epochs=3, learning_rate=3e-3, batch_size=8, max_tokens=20, samples=0)


def test_adapting_tunes_the_language_model_and_fills_the_memory(captioner, tmp_path):
    before = captioner.language_model.model.lm_head.weight.clone()
    lines = []
    adapted, report = adapt(
        captioner.parts, [*DOMAIN, *DOMAIN], folder=tmp_path, settings=SETTINGS, on_message=lines.append
    )
    assert report.learned + report.held_out == len(DOMAIN)
    assert report.after["bits_per_character"] < report.before["bits_per_character"]
    assert set(report.before) == {"bits_per_character"}  # there was no memory
    assert 0 <= report.after["utility"] <= 100
    assert set(adapted.memory.texts) < set(DOMAIN)
    assert isinstance(adapted.decoding, BeamMagicSearch)
    assert adapted.scorer is captioner.scorer
    assert torch.equal(before, captioner.language_model.model.lm_head.weight)
    assert lines
    # A finished run is not run again.
    _, again = adapt(captioner.parts, DOMAIN, folder=tmp_path, settings=SETTINGS)
    assert again.after == pytest.approx(report.after, abs=1e-5)


def test_an_adaptation_that_is_killed_goes_on_with_the_phase_at_hand(captioner, tmp_path, monkeypatch):
    """Sentences are encoded once, steps are taken once, captions are sampled once."""
    settings = replace(SETTINGS, samples=250, epochs=1)
    texts_encoded: list[int] = []
    encode = type(captioner.scorer).encode_texts

    def noted(scorer, texts, *args, **options):
        texts_encoded.append(len(texts))
        return encode(scorer, texts, *args, **options)

    def killed(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr(type(captioner.scorer), "encode_texts", noted)
    module = sys.modules["magicap.adaptation.adapt"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "sample_captions", killed)
        with pytest.raises(RuntimeError, match="killed"):
            adapt(captioner.parts, DOMAIN, folder=tmp_path, settings=settings)
    log = (tmp_path / "log.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(module, "tune_decoding", killed)
        with pytest.raises(RuntimeError, match="killed"):
            adapt(captioner.parts, DOMAIN, folder=tmp_path, settings=settings)
        samples = next(tmp_path.glob("samples-*.json")).read_text()
        monkeypatch.setattr(module, "sample_captions", killed)
    learned = len(DOMAIN) - int(len(DOMAIN) * settings.held_out)
    assert texts_encoded.count(learned) == 1
    adapted, _ = adapt(captioner.parts, DOMAIN, folder=tmp_path, settings=settings)
    assert (tmp_path / "log.jsonl").read_text() == log
    assert set(json.loads(samples)) <= set(adapted.memory.texts)


def test_an_adapted_captioner_captions_and_keeps_the_report(captioner):
    adapted = captioner.adapt(DOMAIN, settings=replace(SETTINGS, epochs=1))
    assert captioner.adaptation is None
    assert adapted.adaptation.learned + adapted.adaptation.held_out == len(DOMAIN)
    assert adapted.adaptation.after["bits_per_character"] > 0
    quick = BeamMagicSearch(max_new_tokens=10, beam_size=2)
    assert adapted.caption(tiny.pictures(1)[0], quick)


def test_too_few_sentences_are_refused(captioner, tmp_path):
    with pytest.raises(BadData, match="at least 20 different sentences"):
        adapt(captioner.parts, ["A dog.", "a dog"] * 50, folder=tmp_path)
    with pytest.raises(BadData, match="at least 20"):
        captioner.adapt([])
    with pytest.raises(BadData, match="found one text"):
        captioner.adapt("A dog runs.")
    with pytest.raises(BadSettings, match="held_out must be above 0"):
        AdaptationSettings(held_out=float("nan"))
