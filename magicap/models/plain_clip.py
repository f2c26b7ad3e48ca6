"""The commonest scorer, a plain ViT of timm beside a plain text tower, without importing open_clip or timm.

The modules hold weights under open_clip's names and in its order.

Shapes: N pictures or texts, T tokens, W width of a tower, D embedding width.
"""

from __future__ import annotations

import copy
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from magicap.models.class_vector import attach_class_vector, class_vector_of
from magicap.models.float_layers import GELU, FloatLayers
from magicap.models.loading import import_open_clip
from magicap.models.weight_names import fits, table
from magicap.reading import read_text

_TRUNKS = {
    "vit_tiny_patch16_224": (192, 12, 3),
    "vit_small_patch16_224": (384, 12, 6),
    "vit_base_patch16_224": (768, 12, 12),
}
"""Width, blocks and heads by timm's names."""

_SIDE, _PATCH = 224, 16
_PREPROCESS = {
    "mode": ("RGB",),
    "interpolation": ("bicubic", "bilinear"),
    "resize_mode": ("shortest", "longest", "squash"),
}
"""What a plain ``preprocess_cfg`` may say."""


@dataclass(frozen=True)
class ClipShape:
    """What counts of an open_clip configuration."""

    trunk: str
    pool: str
    """``token`` or ``avg``."""

    embed_dim: int
    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    pool_type: str = "argmax"
    eos_id: int = 2

    @classmethod
    def of(cls, config: Any) -> ClipShape | None:
        """The shape that a ``model_cfg`` describes; None where that is no plain scorer."""
        if not isinstance(config, dict) or config.keys() != {"embed_dim", "vision_cfg", "text_cfg"}:
            return None
        vision, text = config["vision_cfg"], config["text_cfg"]
        if not isinstance(vision, dict) or not isinstance(text, dict):
            return None
        plain = {"timm_model_pretrained": False, "timm_proj": "mlp", "image_size": _SIDE}
        named = {"timm_model_name", "timm_pool"}
        if vision.keys() != plain.keys() | named or any(
            repr(vision[name]) != repr(plain[name]) for name in plain
        ):
            return None
        sizes = {"context_length", "vocab_size", "width", "heads", "layers"}
        may = {"pool_type", "eos_id", "hf_tokenizer_name"}
        if text.keys() - may != sizes or not text.get("hf_tokenizer_name"):
            return None
        shape = cls(
            vision["timm_model_name"],
            vision["timm_pool"],
            config["embed_dim"],
            **{name: value for name, value in text.items() if name != "hf_tokenizer_name"},
        )
        numbers = (shape.embed_dim, *(text[name] for name in sizes))
        usual = (
            isinstance(shape.trunk, str)
            and shape.trunk in _TRUNKS
            and shape.pool in ("token", "avg")
            and shape.pool_type in ("argmax", "eos")
            and type(shape.eos_id) is int
            and all(type(number) is int and number > 0 for number in numbers)
            and shape.width % shape.heads == 0
        )
        return shape if usual else None


class PlainClip(nn.Module):
    """Weights under the names of an open_clip ``CLIP``, in its order; made without any of its code."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.shape = shape
        self.text_pool_type, self.text_eos_id = shape.pool_type, shape.eos_id
        self.positional_embedding = nn.Parameter(torch.empty(shape.context_length, shape.width))
        self.text_projection = nn.Parameter(torch.empty(shape.width, shape.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.visual = _Image(shape)
        self.transformer = _Text(shape)
        self.token_embedding = table(shape.vocab_size, shape.width)
        self.ln_final = nn.LayerNorm(shape.width)

    def encode_image(self, pixels: Tensor, layers: FloatLayers | None = None) -> Tensor:
        """Vectors (N, D) of pictures (N, 3, H, W), not of length one.

        Args:
            layers: what computes the products of the blocks, and keeps what it prepacks.
        """
        vectors: Tensor = self.visual(pixels, layers or FloatLayers())
        return vectors

    def encode_text(self, ids: Tensor) -> Tensor:
        """Vectors (N, D) of padded rows of ids (N, T), not of length one; the plain way to do it."""
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((length, length), float("-inf"), device=ids.device).triu(1)
        for block in self.transformer.resblocks:
            normed = block.ln_1(x)
            x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        pooled = (ids == self.text_eos_id).int() if self.text_pool_type == "eos" else ids
        rows = torch.arange(len(ids), device=ids.device)
        vectors: Tensor = self.ln_final(x)[rows, pooled.argmax(dim=-1)] @ self.text_projection
        return vectors


class _Image(nn.Module):
    """A trunk under a projection."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.trunk = _Trunk(shape)
        width = self.trunk.num_features
        projection = _FeedForward(width, 2 * shape.embed_dim, shape.embed_dim, bias=False)
        self.head = nn.Sequential(OrderedDict(mlp=projection))

    def forward(self, pixels: Tensor, layers: FloatLayers) -> Tensor:
        vectors: Tensor = self.head(self.trunk(pixels, layers))
        return vectors


class _Trunk(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.pool = shape.pool
        width, blocks, heads = _TRUNKS[shape.trunk]
        self.num_features = width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, (_SIDE // _PATCH) ** 2 + 1, width))
        self.patch_embed: Any = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, _PATCH, _PATCH)
        self.blocks = nn.Sequential(*(_ImageBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor, layers: FloatLayers) -> Tensor:
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x, layers)
        x = self.norm(x)
        pooled: Tensor = x[:, 0] if self.pool == "token" else x[:, 1:].mean(dim=1)
        return pooled


class _ImageBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn: Any = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _FeedForward(width, 4 * width, width)

    def forward(self, x: Tensor, layers: FloatLayers) -> Tensor:
        product = layers.product
        qkv = product(self.norm1(x), self.attn.qkv).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        x = x + product(attended, self.attn.proj)
        x = x + product(product(self.norm2(x), self.mlp.fc1, GELU), self.mlp.fc2)
        return x


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, outer: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, outer, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return outer


class _Text(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.resblocks: Any = nn.ModuleList(_TextBlock(shape) for _ in range(shape.layers))

    def get_cast_dtype(self) -> torch.dtype:
        """What the blocks compute in."""
        dtype: torch.dtype = self.resblocks[0].mlp.c_fc.weight.dtype
        return dtype


class _TextBlock(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        width = shape.width
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, shape.heads, batch_first=True)
        self.ls_1 = nn.Identity()
        self.ln_2 = nn.LayerNorm(width)
        c_fc, c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=c_fc, gelu=nn.GELU(), c_proj=c_proj))
        self.ls_2 = nn.Identity()


def read_plain_clip(config: Any, weights_file: Path) -> PlainClip | None:
    """A plain scorer's model in float32; None where open_clip has to say what it is, or what is wrong.

    Args:
        config: what an ``open_clip_config.json`` holds.
    """
    from safetensors.torch import load_file

    try:
        shape = ClipShape.of(config["model_cfg"]) if _is_plain_preprocess(config["preprocess_cfg"]) else None
        weights = load_file(weights_file) if shape else {}
    except (OSError, KeyError, TypeError, ValueError, MemoryError, SafetensorError):
        return None
    if shape is None:
        return None
    with torch.device("meta"):  # which spends nothing on random weights
        model = PlainClip(shape)
    if not fits(model, weights):
        return None
    model.load_state_dict({name: t.to(torch.float32, copy=True) for name, t in weights.items()}, assign=True)
    return model.eval()


def read_config(path: Path) -> Any:
    """What an ``open_clip_config.json`` holds; None where it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return None


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a plain scorer as open_clip states it once the model is made."""
    preprocess = {"fill_color": 0, **config["preprocess_cfg"]}
    order = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
    return {
        "model_cfg": config["model_cfg"],
        "preprocess_cfg": {name: preprocess[name] for name in order} | {"size": (_SIDE, _SIDE)},
    }


def as_open_clip(plain: PlainClip, config: dict[str, Any]) -> nn.Module:
    """Open_clip's own model, of the very same parameters.

    Args:
        config: ``model_cfg`` and ``preprocess_cfg``.

    Raises:
        MissingPackage: torchvision, which open_clip needs, is broken.
    """
    open_clip = import_open_clip()
    with torch.random.fork_rng(devices=[]):  # its random weights are not kept
        whole: Any = open_clip.CLIP(**copy.deepcopy(config["model_cfg"])).to(plain.logit_scale.device)
    open_clip.set_model_preprocess_cfg(whole, config["preprocess_cfg"])
    if (class_vector := class_vector_of(plain)) is not None:
        attach_class_vector(whole, class_vector)
    whole.load_state_dict(plain.state_dict(keep_vars=True), assign=True)
    return whole.eval()  # type: ignore[no-any-return]


def _is_plain_preprocess(preprocess: dict[str, Any]) -> bool:
    """Whether a ``preprocess_cfg`` says all, and nothing that open_clip might refuse."""
    if preprocess.keys() - {"fill_color"} != {*_PREPROCESS, "size", "mean", "std"}:
        return False
    fill = preprocess.get("fill_color", 0)
    if (
        repr(preprocess["size"]) not in (f"{_SIDE}", f"[{_SIDE}, {_SIDE}]")
        or type(fill) is not int
        or fill != 0
    ):
        return False
    channels = (preprocess["mean"], preprocess["std"])
    return all(preprocess[name] in values for name, values in _PREPROCESS.items()) and all(
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) is float and math.isfinite(value) for value in values)
        and (values is channels[0] or min(values) > 0)
        for values in channels
    )
