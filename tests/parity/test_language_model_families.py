"""Language models of other families than GPT-2: step by step they give what their own forward gives."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from repository import script
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from magicap import BadSettings, BeamMagicSearch, Captioner, CaptionMemory, LanguageModel, MagicSearch
from magicap.models.fingerprint import fingerprint

own_forward = script("own_forward")

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "gemma2": _GROUPED,
    "mistral": _GROUPED,
}
"""Fields of tiny configurations, beside the common ones."""


def _model(family: str, **fields: Any) -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = tiny.word_tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = CONFIG_MAPPING[family](
        **{**_COMMON, **FAMILIES[family], **ends, **fields, "vocab_size": len(tokenizer)}
    )
    return LanguageModel(AutoModelForCausalLM.from_config(config), tokenizer)


def _assert_steps_are_the_forward(model: LanguageModel, count: int = 30) -> None:
    """Hold hidden states and probabilities at each of ``count`` tokens against the model's own."""
    assert max(own_forward.differences(model, count)) < 1e-4


WINDOWED: dict[str, dict[str, Any]] = {
    "gemma2": {},
    "mistral": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
}
"""Families that look back at a window alone, in some layers or all."""


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_those_of_the_models_own_forward(family):
    _assert_steps_are_the_forward(_model(family))


@pytest.mark.parametrize("window", [4, 20])
@pytest.mark.parametrize("family", WINDOWED)
def test_captions_are_no_longer_than_the_window_of_attention(family, window):
    model = _model(family, sliding_window=window, **WINDOWED[family])
    assert model.max_new_tokens == window - 1
    _assert_steps_are_the_forward(model, window - 1)
    captioner = Captioner(model, tiny.scorer(), MagicSearch(top_k=5, max_new_tokens=window))
    with pytest.raises(BadSettings, match=f"max_new_tokens must be at most {window - 1}"):
        captioner.caption(tiny.pictures(1)[0])


def test_gpt_neos_local_layers_take_no_more_columns_than_their_window():
    model = _model("gpt_neo", window_size=20)
    assert model.max_new_tokens == 19
    _assert_steps_are_the_forward(model, 19)
    model.extend(model.start(), torch.arange(19)[None])
    with pytest.raises(BadSettings, match="at most 20 tokens side by side, found 21"):
        model.extend(model.start(), torch.arange(20)[None])
    with pytest.raises(BadSettings, match="at most 4 tokens side by side"):
        _model("gpt_neo", window_size=4)


def test_added_tokens_are_the_same_at_every_load():
    first, again = (_model("gpt_neox") for _ in range(2))
    assert fingerprint(first.network) == fingerprint(again.network)
    table = first.model.get_input_embeddings().weight
    assert torch.allclose(table[first.start_id], table[: first.start_id].mean(dim=0))


def test_a_llama_captions_by_beam_magic_search():
    captioner = Captioner(_model("llama"), tiny.scorer())
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, tiny.SENTENCES)
    captions = captioner.caption(tiny.pictures(3), BeamMagicSearch(max_new_tokens=8, neighbours=3))
    assert all(caption.error is None and caption.hypotheses for caption in captions)
