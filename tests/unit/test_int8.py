"""int8: the language model and the scorer's text tower in eight bits, the rest and the files as they are."""

import copy
import pickle

import pytest
import tiny
import torch
from torch import nn

from magicap import BeamMagicSearch, Captioner, CaptionMemory, SupervisedCaptioner, load_captioner
from magicap.adaptation import adapt as adaptation
from magicap.captioners import load_parts
from magicap.captioners.load import load_scorer
from magicap.errors import BadSettings
from magicap.models import scorer as scorer_module
from magicap.models.finite import are_unit
from magicap.models.float_layers import can_prepack
from magicap.models.int8 import Int8Layers, Int8Product
from magicap.results import BROKEN

TEXTS = ["a dog", "a dog runs across the grass.", "two children", "a man in red climbs a rock"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A captioner with a soft prompt and a memory, on disk."""
    captioner = tiny.with_soft_prompt()
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, tiny.SENTENCES)
    captioner.save_pretrained(path := tmp_path_factory.mktemp("int8") / "it")
    return path


@pytest.fixture(scope="module")
def exact(folder):
    return Captioner.from_pretrained(folder, device="cpu")


@pytest.fixture
def int8(folder):
    return Captioner.from_pretrained(folder, device="cpu", dtype="int8")


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_near_that_of_floats(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 48, bias=bias), torch.randn(3, 5, 64)
    product = Int8Product.of(layer.weight.T, layer.bias)(x)
    assert product.shape == (3, 5, 48)
    assert (product - layer(x)).norm() < 0.02 * layer(x).norm()


def test_a_row_does_not_depend_on_what_is_beside_it():
    torch.manual_seed(0)
    product, x = Int8Product.of(torch.randn(64, 48), torch.randn(48)), torch.randn(7, 64)
    beside = torch.cat([x, 1000 * torch.randn(9, 64)])
    assert product(beside)[:7].equal(product(x))
    assert product(x[:1]).equal(product(x)[:1])


def test_zeros_stay_zeros_and_broken_numbers_stay_broken():
    weight = torch.randn(8, 4)
    weight[:, 0] = 0
    product = Int8Product.of(weight, None)
    x = torch.zeros(4, 8)
    x[1, 0], x[2, 0], x[3, 1] = float("nan"), float("inf"), 1.0
    answer = product(x)
    assert answer[0].eq(0).all()
    assert not answer[1:3].isfinite().any()
    assert answer[3].isfinite().all()
    assert answer[3, 0] == 0


def test_an_in_projection_gives_queries_and_the_rest_alone():
    attention, x = nn.MultiheadAttention(16, 4), torch.randn(5, 16)
    layers = Int8Layers([attention])
    parts = torch.cat([layers.queries(x, attention), layers.keys_and_values(x, attention)], dim=1)
    assert parts.equal(layers.product(x, attention))


def test_vectors_and_probabilities_are_near(int8, exact):
    assert (int8.language_model.dtype, int8.scorer.dtype) == (torch.int8, torch.int8)
    close = torch.cosine_similarity(int8.scorer.encode_texts(TEXTS), exact.scorer.encode_texts(TEXTS))
    assert 0.99 < close.min() < 1
    assert int8.scorer.encode_images(tiny.pictures(3)).equal(exact.scorer.encode_images(tiny.pictures(3)))
    starts = [captioner.language_model.start() for captioner in (int8, exact)]
    states = [start.hidden for start in starts]
    assert 0.99 < torch.cosine_similarity(*states, dim=-1).min() < 1
    own, theirs = (
        captioner.language_model.probabilities(start.last)
        for captioner, start in zip((int8, exact), starts, strict=True)
    )
    assert (own - theirs).abs().max() < 0.05


@pytest.mark.parametrize("fast", [True, False])
def test_a_plain_image_tower_multiplies_in_bfloat16_where_that_is_fast(fast, monkeypatch):
    monkeypatch.setattr(scorer_module, "has_fast_bfloat16", lambda: fast)
    exact, int8 = (load_scorer("embedded") for _ in range(2))
    vectors = exact.encode_images(tiny.pictures(3))
    own = int8.to_int8().encode_images(tiny.pictures(3))
    assert own.equal(vectors) is not (fast and can_prepack())
    assert torch.cosine_similarity(own, vectors).min() > 0.999
    assert int8.in_float32().encode_images(tiny.pictures(3)).equal(vectors)
    assert int8.model is int8.network  # open_clip's own computes in float32
    torch.testing.assert_close(int8.encode_images(tiny.pictures(3)), vectors)


@pytest.mark.parametrize("decoding", [None, BeamMagicSearch(4, 3, 6, max_new_tokens=8, neighbours=4)])
def test_captions_come_out_whatever_the_batch(int8, decoding):
    pictures = tiny.pictures(4)
    together = int8.caption(pictures, decoding, batch_size=4)
    assert all(caption.error is None for caption in together)
    int8.cache.clear()
    assert int8.caption(pictures, decoding, batch_size=1) == together


def test_models_of_the_libraries_give_the_same(int8):
    captions = int8.caption(tiny.pictures(3))
    assert int8.language_model.model is int8.language_model.network
    assert int8.scorer.model is int8.scorer.network
    int8.cache.clear()
    assert int8.caption(tiny.pictures(3)) == captions
    assert int8.language_model.dtype == torch.int8


def test_copies_and_pickles_stay_int8(int8):
    captions = int8.caption(tiny.pictures(3))
    for again in (copy.deepcopy(int8), pickle.loads(pickle.dumps(int8))):
        assert again.language_model.dtype == again.scorer.dtype == torch.int8
        assert again.caption(tiny.pictures(3)) == captions
        assert again.fingerprint == int8.fingerprint


def test_it_is_another_captioner_than_in_float32(int8, exact):
    assert int8.fingerprint != exact.fingerprint
    assert int8.scorer.fingerprint != exact.scorer.fingerprint
    assert int8.steered_by(int8.decoding) == exact.steered_by(exact.decoding)


def test_it_is_saved_in_float32(int8, exact, folder, tmp_path):
    int8.save_pretrained(tmp_path / "again")
    loaded = Captioner.from_pretrained(tmp_path / "again", device="cpu")
    assert loaded.fingerprint == exact.fingerprint
    for name in ("language_model/model.safetensors", "scorer/open_clip_model.safetensors", "magicap.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_numbers_that_break_are_tried_in_float32(int8, exact, monkeypatch):
    pictures = tiny.pictures(2)
    encode = type(int8.scorer).encode_pixels

    def broken(scorer, pixels):
        vectors = encode(scorer, pixels)
        return vectors * float("nan") if scorer.dtype == torch.int8 else vectors

    monkeypatch.setattr(type(int8.scorer), "encode_pixels", broken)
    captions = int8.caption(pictures)
    assert all(caption.error is None or caption.error.code != BROKEN for caption in captions)
    assert captions == exact.caption(pictures)
    assert are_unit(int8.scorer.in_float32().encode_texts(TEXTS)).all()
    assert int8.scorer.dtype == torch.int8  # the copy shares its weights


def test_it_learns_in_float32(int8):
    trained = int8.language_model.to_train()
    assert trained.dtype == torch.float32
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    assert int8.language_model.dtype == torch.int8


def test_adapted_it_stays_int8(int8, monkeypatch):
    seen = []

    def adapt(parts, texts, images, *, settings):
        seen.append((parts.language_model.dtype, parts.scorer.dtype))
        return parts, None

    monkeypatch.setattr(adaptation, "adapt", adapt)
    adapted = int8.adapt(["a dog runs"])
    assert seen == [(torch.float32, torch.float32)]
    assert adapted.language_model.dtype == adapted.scorer.dtype == torch.int8


def test_elsewhere_than_on_a_processor_it_is_refused(folder, monkeypatch):
    monkeypatch.setattr(load_parts, "as_device", torch.device)  # as if there were a GPU
    with pytest.raises(BadSettings, match="int8 computes on cpu alone, found device 'cuda'; name device cpu"):
        Captioner.from_pretrained(folder, device="cuda", dtype="int8")


def test_only_where_captions_are_searched(folder, tmp_path, int8):
    tiny.supervised().save_pretrained(tmp_path / "trained")
    for refused in (
        lambda: SupervisedCaptioner.from_pretrained(tmp_path / "trained", dtype="int8"),
        lambda: load_captioner(tmp_path / "trained", dtype=torch.int8),
        lambda: load_scorer(folder, dtype="int8"),
        lambda: int8.save_pretrained(tmp_path / "it", dtype="int8"),
    ):
        with pytest.raises(BadSettings, match="int8 is for zero-shot captioners"):
            refused()


def test_models_that_it_does_not_go_with_are_refused():
    half = tiny.captioner()
    half.language_model.model.bfloat16()
    half.scorer.model.bfloat16()
    with pytest.raises(BadSettings, match=r"a plain GPT-2 in float32, found .* in torch\.bfloat16"):
        half.language_model.to_int8()
    with pytest.raises(BadSettings, match=r"text tower in float32, found one in torch\.bfloat16"):
        half.scorer.to_int8()
    half.scorer.text_tower = None
    with pytest.raises(BadSettings, match="causal text tower in float32, found another"):
        half.scorer.to_int8()
