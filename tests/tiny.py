"""Tiny random models of the real classes, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from magicap import BeamSearch, Captioner, ImageTextScorer, LanguageModel, MagicSearch, SupervisedCaptioner
from magicap.models.soft_prompt import SoftPrompt
from magicap.supervised.decoder import DecoderConfig
from magicap.supervised.grid import GridConfig
from magicap.supervised.network import CaptionNetwork
from magicap.supervised.vocabulary import SPECIALS, Vocabulary
from magicap.training.fresh_scorer import with_image_tower

SENTENCES = [
    "A dog runs across the grass.",
    "Two children play on a beach, near the sea.",
    "A man in a red shirt climbs a rock — it's a café wall!",
    "Mountain bikers' tricks: jumping, sliding; 3 of them.",
]


def gpt2_bpe() -> Path | None:
    """GPT-2's own vocabulary, where the data folder's neighbour has it."""
    data = os.environ.get("MAGICAP_DATA")
    folder = Path(data).parent / "tokenizers" / "gpt2" if data else None
    return folder if folder and folder.is_dir() else None


def word_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE learned from a handful of sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(SENTENCES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")


def language_model(tokenizer: PreTrainedTokenizerBase, seed: int = 0, width: int = 32) -> LanguageModel:
    torch.manual_seed(seed)
    size = len(tokenizer)
    config = GPT2Config(
        vocab_size=size,
        n_positions=24,
        n_embd=width,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LanguageModel(GPT2LMHeadModel(config), tokenizer)


def scorer_config(**text: Any) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": 32,
                "heads": 4,
                "layers": 2,
                **text,
            },
        },
        "preprocess_cfg": {
            "size": 32,
            "mode": "RGB",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def scorer(*, custom_text: bool = False, seed: int = 0, **text: Any) -> ImageTextScorer:
    """A random CLIP, or CustomTextCLIP, that reads CLIP's own BPE."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    torch.manual_seed(seed)
    config = scorer_config(**text)
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model = kind(**config["model_cfg"])
    with torch.no_grad():
        # open_clip's initial weights are so small that all texts, and all pictures, have nearly one vector
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn_like(parameter) * 1.5 / parameter.shape[-1] ** 0.5)
        model.logit_scale.fill_(2.0)
    preprocess = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    config["model_cfg"]["custom_text"] = custom_text
    return ImageTextScorer(model, open_clip.SimpleTokenizer(), preprocess, config)


def timm_scorer(seed: int = 0) -> ImageTextScorer:
    """A random timm trunk of 64 features under a projection, and the same text tower."""
    torch.manual_seed(seed)
    vision = {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": "mlp",
        "image_size": 160,
    }
    base = scorer(seed=seed)
    return with_image_tower(base, vision, {**base.config["preprocess_cfg"], "size": 160})


def captioner(seed: int = 0, *, custom_text: bool = False, **settings: Any) -> Captioner:
    decoding = MagicSearch(**{"top_k": 8, "alpha": 0.2, "beta": 1.0, "max_new_tokens": 8, **settings})
    return Captioner(
        language_model(word_tokenizer(), seed), scorer(custom_text=custom_text, seed=seed), decoding
    )


def with_soft_prompt(seed: int = 0, **settings: Any) -> Captioner:
    """As :func:`captioner`, with a language model that has a soft prompt of random weights."""
    conditioned = captioner(seed, **settings)
    torch.manual_seed(seed)
    soft_prompt = SoftPrompt(conditioned.scorer.width, conditioned.language_model.model.config.n_embd)
    conditioned.language_model.soft_prompt = soft_prompt.requires_grad_(False)
    return conditioned


def save_bert(folder: Path, words: Iterable[str], *, width: int, **shape: Any) -> None:
    """Write a BERT with random weights, and a tokenizer that knows some words."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(words))]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(known))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": len(known), "hidden_size": width, "intermediate_size": width}
    BertModel(BertConfig(**size, num_attention_heads=2, **shape)).save_pretrained(folder)


def supervised(kind: str = "soft", seed: int = 0) -> SupervisedCaptioner:
    """Random weights over a grid of 2 x 2, eleven words and room for captions of six."""
    torch.manual_seed(seed)
    words = "a man dog runs on grass in red the two boys".split()
    decoder = DecoderConfig(kind, width=16, embedding=8, attention=8, layers=1, heads=2, max_words=6)
    network = CaptionNetwork(GridConfig("mobilenetv2_035", size=64), decoder, Vocabulary([*SPECIALS, *words]))
    return SupervisedCaptioner(network, BeamSearch(2, 1.0, 6))


def pictures(count: int, seed: int = 0) -> list[Any]:
    """Random pictures of 4 x 4 coloured squares, each a (40, 40, 3) uint8 array."""
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randint(0, 256, (count, 4, 4, 3), generator=generator, dtype=torch.uint8)
    return list(squares.repeat_interleave(10, dim=1).repeat_interleave(10, dim=2).numpy())
