"""A folder as ``openai/clip-vit-base-patch32`` is laid out on the hub, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from transformers import CLIPConfig, CLIPModel

_PREPROCESSING = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
"""As repositories of early versions have it: no rescaling named, and sides as plain numbers."""

_SPECIALS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""Open_clip's names, and those of the published vocabulary."""

_TINY_VISION = {"image_size": 32, "patch_size": 16, "hidden_size": 64, "intermediate_size": 128}
_TINY_TEXT = {"hidden_size": 32, "intermediate_size": 96}
_TINY = {"num_hidden_layers": 2, "num_attention_heads": 4}


def tiny_clip(*, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> CLIPModel:
    """A random ``CLIPModel`` of two small towers that tells pictures, and texts, apart.

    Args:
        vision, text: fields of the towers' configurations in place of those here.
    """
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config={**_TINY_VISION, **_TINY, **(vision or {})},
        text_config={**_TINY_TEXT, **_TINY, **(text or {})},
        projection_dim=24,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():  # initial weights are so small that all texts, and all pictures, have one vector
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn_like(parameter) * 1.5 / parameter.shape[-1] ** 0.5)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def write_clip(model: CLIPModel, folder: Path, **preprocessing: Any) -> Path:
    """Write configuration, weights, CLIP's own vocabulary and preprocessing; the folder.

    Args:
        preprocessing: fields of ``preprocessor_config.json`` in place of those of early versions.
    """
    model.save_pretrained(folder)
    bpe = open_clip.SimpleTokenizer()
    words = {_SPECIALS.get(word, word): number for word, number in bpe.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in bpe.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    tokens = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    side = model.config.vision_config.image_size
    steps = {**_PREPROCESSING, "size": side, "crop_size": side, **preprocessing}
    (folder / "preprocessor_config.json").write_text(json.dumps(steps), encoding="utf-8")
    return folder
