"""A ``CLIPModel`` of transformers (``openai/clip-vit-base-patch32``) as the CLIP of open_clip that it is.

Shapes: W width of a tower, D embedding width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from magicap.errors import BadModel
from magicap.models.loading import (
    explain_loading_errors,
    import_open_clip,
    no_loading_bar,
    require_all_weights,
)

_KIND = "clip"
"""The ``model_type`` of a ``CLIPModel``."""

_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
"""Whether open_clip calls it QuickGELU."""

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers."""

_USUAL_EPS = 1e-5
"""Of layer norms, where a configuration says nothing of it."""

_ARGMAX_EOS = 2
"""What configurations of early versions have as the end token's id: the largest id of a text is meant."""

_TOWERS = {
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
_BLOCKS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn": "attn", "fc1": "c_fc", "fc2": "c_proj"}
"""Names of transformers, or how they begin, and those of open_clip."""

_TRANSPOSED = ("visual.proj", "text_projection")
"""Matrices that open_clip multiplies from the other side."""


def read_transformers_clip(
    source: str, device: str | torch.device, dtype: torch.dtype, revision: str | None
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The model as one of open_clip, its tokenizer, and what an ``open_clip_config.json`` would say of it.

    Args:
        source: a folder, or OWNER/NAME of the hub: ``config.json``, weights, tokenizer and
            ``preprocessor_config.json``.
        revision: commit, branch or tag of the hub's repository.

    Raises:
        ModelNotFound, BadModel: nothing there, or no ``CLIPModel`` that open_clip can compute.
    """
    open_clip = import_open_clip()
    with explain_loading_errors("scorer", source), no_loading_bar():
        from open_clip.tokenizer import HFTokenizer
        from transformers import AutoConfig, CLIPImageProcessor, CLIPModel

        commit: dict[str, Any] = {} if revision is None else {"revision": revision}
        shape = AutoConfig.from_pretrained(source, **commit)
        if shape.model_type != _KIND:
            raise BadModel(
                f"expected a CLIPModel of transformers in {source!r}, found the kind {shape.model_type!r}; "
                "name a model of open_clip, NAME:TAG, or a repository of its format, hf-hub:OWNER/NAME"
            )
        pictures = CLIPImageProcessor.from_pretrained(source, **commit).to_dict()
        config = {
            "model_cfg": _model_config(shape),
            "preprocess_cfg": _preprocess_config(pictures, shape.vision_config.image_size),
        }
        loaded: Any = CLIPModel.from_pretrained(
            source, config=shape, dtype=torch.float32, weights_only=True, output_loading_info=True, **commit
        )
        require_all_weights(loaded[1], "scorer", source)
        with torch.random.fork_rng(devices=[]):  # its random weights are not kept
            model: Any = open_clip.CLIP(**copy.deepcopy(config["model_cfg"]))
        model.load_state_dict(as_open_clip_weights(loaded[0].state_dict()))
        open_clip.set_model_preprocess_cfg(model, config["preprocess_cfg"])
        length = config["model_cfg"]["text_cfg"]["context_length"]
        tokenizer = HFTokenizer(source, context_length=length, **commit)
    return model.to(device, dtype), tokenizer, config


def as_open_clip_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a ``CLIPModel`` under the names, and in the layout, of an open_clip ``CLIP``.

    Queries, keys and values (W, W) each become one matrix (3W, W); the projections (D, W) become (W, D).
    """
    converted: dict[str, Tensor] = {}
    for name, weight in weights.items():
        new = _renamed(name)
        if ".q_proj." in new:
            parts = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            converted[new.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif new in _TRANSPOSED:
            converted[new] = weight.T.contiguous()
        elif ".k_proj." not in new and ".v_proj." not in new:
            converted[new] = weight
    return converted


def _renamed(name: str) -> str:
    for theirs, ours in _TOWERS.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    return ".".join(_BLOCKS.get(part, part) for part in name.split("."))


def _model_config(shape: Any) -> dict[str, Any]:
    """Open_clip's ``model_cfg`` of a ``CLIPConfig``."""
    vision, text = shape.vision_config, shape.text_config
    if vision.hidden_act != text.hidden_act or text.hidden_act not in _ACTIVATIONS:
        raise BadModel(
            f"expected the activation {' or '.join(_ACTIVATIONS)} in both towers of a CLIPModel, found "
            f"{vision.hidden_act} in the image tower and {text.hidden_act} in the text tower"
        )
    by_id = text.eos_token_id != _ARGMAX_EOS
    return {
        "embed_dim": shape.projection_dim,
        "quick_gelu": _ACTIVATIONS[text.hidden_act],
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_tower_config(vision),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            **_tower_config(text),
            **({"pool_type": "eos", "eos_id": text.eos_token_id} if by_id else {}),
        },
    }


def _tower_config(tower: Any) -> dict[str, Any]:
    """What both towers have."""
    return {
        "width": tower.hidden_size,
        "layers": tower.num_hidden_layers,
        "mlp_ratio": tower.intermediate_size / tower.hidden_size,
        **({} if tower.layer_norm_eps == _USUAL_EPS else {"norm_kwargs": {"eps": tower.layer_norm_eps}}),
    }


def _preprocess_config(pictures: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Open_clip's ``preprocess_cfg`` of what a ``CLIPImageProcessor`` does.

    Args:
        image_size: side of the square that the image tower reads, in pixels.
    """
    side = {"height": image_size, "width": image_size}
    is_cut = pictures["do_center_crop"] and pictures["crop_size"] == side
    modes = {"shortest": is_cut and pictures["size"] == {"shortest_edge": image_size}}
    modes["squash"] = pictures["size"] == side and (is_cut or not pictures["do_center_crop"])
    mode = next((name for name, fits in modes.items() if fits), None)
    is_usual = all(pictures[f"do_{step}"] for step in ("resize", "rescale", "normalize"))
    if mode is None or not is_usual or pictures["resample"] not in _INTERPOLATIONS:
        names = ("size", "crop_size", "do_center_crop", "do_resize", "do_rescale", "do_normalize", "resample")
        stated = ", ".join(f"{name} {pictures[name]}" for name in names)
        raise BadModel(
            f"expected pictures that are resized and cut to a square of {image_size} pixels by "
            f"preprocessor_config.json, bicubic or bilinear, and normalised; found {stated}"
        )
    return {
        "size": image_size,
        "mode": "RGB",
        "mean": list(pictures["image_mean"]),
        "std": list(pictures["image_std"]),
        "interpolation": _INTERPOLATIONS[pictures["resample"]],
        "resize_mode": mode,
        "fill_color": 0,
    }
