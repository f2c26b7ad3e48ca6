"""Captioners that others have made, at their shapes with random weights; no script of its own.

Each writes a given number of tokens. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from magicap import Captioner
from magicap.images.transform import ImageTransform

PREFIX = 10
"""Embeddings that ClipCap (Mokady et al. 2021) puts before a caption."""

Rival = tuple[ImageTransform, Callable[[Tensor], Tensor]]
"""How it reads pictures, and from bytes (B, 3, H, W) to the ids of new tokens (B, T)."""


def blip(new_tokens: int, config: Any = None) -> Rival:
    """BLIP-base (Li et al. 2022) with greedy search: ViT-B/16 at 384 pixels, BERT-base with cross attention.

    Args:
        config: a ``BlipConfig`` of another shape, for tests.
    """
    config = config or BlipConfig(text_config={"num_attention_heads": 12})
    model = BlipForConditionalGeneration(config).eval()
    side = config.vision_config.image_size
    transform = ImageTransform((side, side), "squash")

    def generate(pixels: Tensor) -> Tensor:
        ids: Tensor = model.generate(transform.normalise(pixels), **forced(new_tokens))
        return ids[:, 1:]

    return transform, generate


def vit_gpt2(new_tokens: int, encoder: Any = None, decoder: Any = None) -> Rival:
    """ViT-B/16 at 224 pixels and GPT-2 small with cross attention, greedy search.

    Args:
        encoder, decoder: a ``ViTConfig`` and a ``GPT2Config`` of other shapes, for tests.
    """
    encoder, decoder = encoder or ViTConfig(), decoder or GPT2Config()
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model: Any = VisionEncoderDecoderModel(config).eval()
    model.generation_config.decoder_start_token_id = decoder.bos_token_id
    model.generation_config.pad_token_id = 0  # nothing is padded; without one, transformers warns
    side = encoder.image_size
    transform = ImageTransform((side, side), "squash", mean=(0.5,) * 3, std=(0.5,) * 3)

    def generate(pixels: Tensor) -> Tensor:
        ids: Tensor = model.generate(transform.normalise(pixels), **forced(new_tokens))
        return ids[:, 1:]

    return transform, generate


def clipcap(new_tokens: int, captioner: Captioner, beams: int) -> Rival:
    """As ClipCap (Mokady et al. 2021): a picture's vector through an MLP to ten embeddings before GPT-2.

    Image tower and language model are those of a captioner of ours.
    """
    scorer, model = captioner.scorer, captioner.language_model.model
    width = model.get_input_embeddings().weight.shape[1]
    mapping = nn.Sequential(
        nn.Linear(scorer.width, width * PREFIX // 2),
        nn.Tanh(),
        nn.Linear(width * PREFIX // 2, width * PREFIX),
    )
    settings = forced(new_tokens) | {"num_beams": beams, "pad_token_id": captioner.language_model.pad_id}

    def generate(pixels: Tensor) -> Tensor:
        prefix = mapping(scorer.encode_pixels(pixels)).view(len(pixels), PREFIX, width)
        mask = torch.ones(prefix.shape[:2], dtype=torch.long)
        ids: Tensor = model.generate(inputs_embeds=prefix, attention_mask=mask, **settings)
        return ids

    return scorer.transform, generate


def forced(new_tokens: int) -> dict[str, Any]:
    """Options of ``generate``: greedy search that writes so many tokens."""
    return {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "num_beams": 1, "do_sample": False}
