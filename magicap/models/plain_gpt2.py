"""GPT-2 as modules that hold weights under transformers' names, without importing transformers.

Shapes: B rows, T tokens, W hidden width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from magicap.models.gpt2 import ACTIVATIONS
from magicap.models.loading import explain_loading_errors
from magicap.models.weight_names import fits, table
from magicap.reading import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE, GENERATION_FILE, WEIGHTS_FILE = "config.json", "generation_config.json", "model.safetensors"
PLAIN_KIND = "GPT2LMHeadModel"
"""What transformers calls such a model."""

_OTHER_FILES = ("adapter_config.json",)
"""Files from which transformers would take weights as well."""

_ONLY = {
    "model_type": "gpt2",
    "architectures": [PLAIN_KIND],
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "is_encoder_decoder": False,
    "pruned_heads": {},
}
"""What a configuration says, where it says anything of it, of a GPT-2 that this file can hold."""

_WITHOUT_EFFECT: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"), (float,)),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), (int, type(None))),
    **dict.fromkeys(("dtype", "torch_dtype", "transformers_version", "summary_type"), (str,)),
    **dict.fromkeys(("use_cache", "summary_proj_to_labels", "summary_use_proj"), (bool,)),
    "initializer_range": (float,),
    "summary_activation": (type(None),),
}
"""Other settings and their types, which change nothing that is computed; dropout is for training."""

_GENERATION: dict[str, tuple[type, ...]] = {
    **{name: types for name, types in _WITHOUT_EFFECT.items() if name.endswith("token_id")},
    **dict.fromkeys(
        ("_from_model_config", "output_attentions", "output_hidden_states", "use_cache"), (bool,)
    ),
    "transformers_version": (str,),
}
"""The same of a ``generation_config.json``."""


@dataclass(frozen=True)
class Gpt2Shape:
    """What counts of transformers' ``GPT2Config``, by its names there."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    add_cross_attention: bool = False

    @property
    def max_position_embeddings(self) -> int:
        """Another name of :attr:`n_positions`."""
        return self.n_positions

    @classmethod
    def of(cls, config: Any) -> Gpt2Shape | None:
        """The shape that a ``config.json`` describes; None where that is no plain GPT-2."""
        if not isinstance(config, dict) or "model_type" not in config or "architectures" not in config:
            return None
        # By their forms, as 0 is False to Python, but not to transformers.
        if any(repr(config.get(name, value)) != repr(value) for name, value in _ONLY.items()):
            return None
        others = config.keys() - cls.__dataclass_fields__.keys() - _ONLY.keys()
        if not all(_is_without_effect(name, config[name]) for name in others):
            return None
        shape = cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})
        sizes = (shape.vocab_size, shape.n_positions, shape.n_embd, shape.n_layer, shape.n_head)
        if not all(type(size) is int and size > 0 for size in (*sizes, shape.inner)):
            return None
        flags = (shape.scale_attn_weights, shape.scale_attn_by_inverse_layer_idx)
        epsilon = shape.layer_norm_epsilon
        usual = (
            shape.n_embd % shape.n_head == 0
            and type(shape.activation_function) is str
            and shape.activation_function in ACTIVATIONS
            and all(type(flag) is bool for flag in flags)
            and type(epsilon) is float
            and epsilon > 0
        )
        return shape if usual else None

    @property
    def inner(self) -> int:
        """Width inside the feed-forward layers."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


def _is_without_effect(name: str, value: Any) -> bool:
    usual = type(value) in _WITHOUT_EFFECT.get(name, ())
    return usual and (not name.endswith(("drop", "dropout")) or 0 <= value <= 1)


def _is_plain_generation(config: Any) -> bool:
    """Whether a ``generation_config.json`` is one that transformers makes of a model's own configuration."""
    return isinstance(config, dict) and all(
        type(value) in _GENERATION.get(name, ()) and value != -1 for name, value in config.items()
    )


class Conv1D(nn.Module):
    """The weights of a linear layer as GPT-2 stores them: (in, out)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inner, outer)), nn.Parameter(torch.empty(outer))

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) of (..., in)."""
        return x @ self.weight + self.bias


class PlainGpt2(nn.Module):
    """Weights under the names of a ``GPT2LMHeadModel``, in its order; made without any of its code."""

    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.config = shape
        self.transformer: Any = nn.Module()
        self.transformer.wte = table(shape.vocab_size, shape.n_embd)
        self.transformer.wpe = table(shape.n_positions, shape.n_embd)
        self.transformer.h = nn.ModuleList(_Block(shape) for _ in range(shape.n_layer))
        self.transformer.ln_f = nn.LayerNorm(shape.n_embd, eps=shape.layer_norm_epsilon)
        self.lm_head = nn.Linear(shape.n_embd, shape.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of tokens' embeddings."""
        table: nn.Embedding = self.transformer.wte
        return table

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states (B, T, W) and logits (B, T, V) of whole rows (B, T); the plain way to do it."""
        parts = self.transformer
        x = parts.wte(ids) + parts.wpe.weight[: ids.shape[1]]
        for layer, block in enumerate(parts.h):
            x = x + block.attend(block.ln_1(x), layer)
            x = x + block.mlp(block.ln_2(x))
        hidden = parts.ln_f(x)
        return hidden, self.lm_head(hidden)


class _Block(nn.Module):
    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.shape = shape
        self.ln_1 = nn.LayerNorm(shape.n_embd, eps=shape.layer_norm_epsilon)
        self.attn: Any = nn.Module()
        self.attn.c_attn = Conv1D(shape.n_embd, 3 * shape.n_embd)
        self.attn.c_proj = Conv1D(shape.n_embd, shape.n_embd)
        self.ln_2 = nn.LayerNorm(shape.n_embd, eps=shape.layer_norm_epsilon)
        self.mlp = _FeedForward(shape)

    def attend(self, x: Tensor, layer: int) -> Tensor:
        heads = self.shape.n_head
        query, key, value = (
            part.unflatten(2, (heads, -1)).transpose(1, 2) for part in self.attn.c_attn(x).chunk(3, dim=2)
        )
        products = query @ key.transpose(2, 3)
        if self.shape.scale_attn_weights:
            products = products / (self.shape.n_embd // heads) ** 0.5
        if self.shape.scale_attn_by_inverse_layer_idx:
            products = products / (layer + 1)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        seen = products.masked_fill(later, float("-inf")).softmax(dim=-1) @ value
        attended: Tensor = self.attn.c_proj(seen.transpose(1, 2).flatten(2))
        return attended


class _FeedForward(nn.Module):
    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(shape.n_embd, shape.inner), Conv1D(shape.inner, shape.n_embd)
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[shape.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return outer


@dataclass(frozen=True)
class Gpt2Folder:
    """A language model as it was read, and what transformers' own is made of."""

    model: PlainGpt2
    source: str
    """The folder that it was read from."""

    files: dict[str, str]
    """Contents of configurations by their files' names."""

    @classmethod
    def read(cls, folder: str | Path, dtype: torch.dtype) -> Gpt2Folder | None:
        """A plain GPT-2; None where transformers has to say what a folder holds, or what is wrong with it."""
        from safetensors.torch import load_file

        folder = Path(folder)
        if any((folder / name).exists() for name in _OTHER_FILES):
            return None
        try:
            names = [n for n in (CONFIG_FILE, GENERATION_FILE) if n == CONFIG_FILE or (folder / n).exists()]
            files = {name: read_text(folder / name) for name in names}
            configs = {name: json.loads(text) for name, text in files.items()}
            shape = Gpt2Shape.of(configs[CONFIG_FILE])
            weights = load_file(folder / WEIGHTS_FILE) if shape else {}
        except (OSError, ValueError, TypeError, RecursionError, MemoryError, SafetensorError):
            return None
        if shape is None or not _is_plain_generation(configs.get(GENERATION_FILE, {})):
            return None
        with torch.device("meta"):  # which spends nothing on random weights
            model = PlainGpt2(shape)
        weights.setdefault("lm_head.weight", weights.get("transformer.wte.weight", torch.empty(0)))
        if not fits(model, weights):
            return None
        head = weights.pop("lm_head.weight")
        if head.data_ptr() != weights["transformer.wte.weight"].data_ptr():
            return None  # it has a head of its own after all
        model.load_state_dict(
            {name: weight.to(dtype, copy=True) for name, weight in weights.items()}, strict=False, assign=True
        )
        model.lm_head.weight = model.transformer.wte.weight
        return cls(model.eval(), str(folder), files)

    def whole(self) -> PreTrainedModel:
        """Transformers' own model, of the very same parameters."""
        with explain_loading_errors("language model", self.source):
            from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

        config: Any = GPT2Config.from_dict(json.loads(self.files[CONFIG_FILE]))
        config._name_or_path, config.dtype = self.source, self.model.dtype
        with torch.random.fork_rng(devices=[]):  # its random weights are not kept
            whole: Any = GPT2LMHeadModel(config)
        whole = whole.to(self.model.device, self.model.dtype)
        if GENERATION_FILE in self.files:
            whole.generation_config = GenerationConfig.from_dict(json.loads(self.files[GENERATION_FILE]))
        whole.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
        whole.tie_weights()
        return whole.eval()  # type: ignore[no-any-return]
