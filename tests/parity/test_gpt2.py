"""The language model's own step, and its own plain forward, against those of transformers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from magicap.models.gpt2 import ACTIVATIONS, Gpt2Blocks
from magicap.models.plain_gpt2 import Gpt2Folder, PlainGpt2
from magicap.models.token_cache import GrowingCache

CONFIGS = st.builds(
    GPT2Config,
    vocab_size=st.just(50),
    n_positions=st.just(12),
    n_embd=st.sampled_from([8, 24]),
    n_layer=st.integers(1, 3),
    n_head=st.sampled_from([1, 2, 4]),
    n_inner=st.sampled_from([None, 20]),
    activation_function=st.sampled_from(sorted(ACTIVATIONS)),
    scale_attn_by_inverse_layer_idx=st.booleans(),
    scale_attn_weights=st.booleans(),
    layer_norm_epsilon=st.sampled_from([1e-5, 1e-3]),
    initializer_range=st.just(0.2),
    bos_token_id=st.just(0),
    eos_token_id=st.just(0),
)


def model(config: GPT2Config) -> GPT2LMHeadModel:
    """Random weights, biases included, in float64, where rounding is far below what is asked for."""
    made = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@settings(max_examples=25)
@given(CONFIGS, st.integers(0, 2**31))
@torch.no_grad()
def test_steps_equal_the_forward_of_transformers(config, seed):
    torch.manual_seed(seed)
    made = model(config)
    blocks = Gpt2Blocks.of(made)
    ids = torch.randint(0, 50, (3, 9))
    cache = GrowingCache(9)
    embeddings = made.transformer.wte(ids)
    states = [blocks(embeddings[:, t : t + 1], t, None, cache) for t in range(9)]
    expected = made.transformer(ids).last_hidden_state
    assert relative(torch.cat(states, dim=1), expected) < 1e-6


@settings(max_examples=15)
@given(CONFIGS, st.integers(0, 2**31))
@torch.no_grad()
def test_a_plain_model_read_from_a_folder_equals_that_of_transformers(tmp_path_factory, config, seed):
    torch.manual_seed(seed)
    made = model(config)
    folder = tmp_path_factory.mktemp("gpt2")
    made.save_pretrained(folder)
    read = Gpt2Folder.read(folder, torch.float64)
    assert type(read.model) is PlainGpt2
    ids = torch.randint(0, 50, (3, 9))
    states, logits = read.model(ids)
    assert relative(states, made.transformer(ids).last_hidden_state) < 1e-6
    assert relative(logits, made(ids).logits) < 1e-6
    weights = read.model.state_dict()
    assert list(weights) == list(made.state_dict())  # in the same order, which fingerprints count
    whole = read.whole()
    assert torch.equal(whole(ids).logits, made(ids).logits)
    parameters = dict(read.model.named_parameters())
    assert all(parameter is parameters[name] for name, parameter in whole.named_parameters())
    assert whole.config.to_dict() == GPT2LMHeadModel.from_pretrained(folder, dtype="float64").config.to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"tie_word_embeddings": False},
        {"add_cross_attention": True},
        {"add_cross_attention": 0},
        {"reorder_and_upcast_attn": True},
        {"activation_function": "silu"},
        {"attn_pdrop": 3.0},
        {"n_layer": 3},
        {"vocab_size": 51},
        {"quantization_config": {"bits": 4}},
        {"model_type": "gpt_neo"},
        {"n_head": 3},
        {"n_embd": "8"},
    ],
)
def test_what_is_no_plain_gpt2_is_left_to_transformers(tmp_path, change):
    import json

    config = GPT2Config(vocab_size=50, n_positions=12, n_embd=8, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert Gpt2Folder.read(tmp_path, torch.float32) is not None
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert Gpt2Folder.read(tmp_path, torch.float32) is None
