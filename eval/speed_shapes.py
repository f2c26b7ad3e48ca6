"""Captioners of random weights at the shapes of larger models, for measuring how fast they are.

What ``eval/speed.py`` and ``eval/speed_ladder.py`` measure with; no script of its own.

A random language model gives all words nearly the same probability and a random scorer all texts the same
cosine, so nothing could be pruned; both are scaled until the best candidate of the first step is about as
probable as that of trained models. The end token has a bias that no other logit makes up for, so every
caption has as many tokens as it may have.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, PreTrainedModel

from magicap import Captioner, CaptionMemory, ImageTextScorer, LanguageModel
from magicap.models.scorer import text_fingerprint
from magicap.models.soft_prompt import SoftPrompt

# Between what the embedded captioner gives its best candidate on average, 0.45 by its language model and 0.20
# by its scorer (903 steps of 100 dev pictures, published settings).
CONFIDENCE = 0.35

_NEVER = -1e9  # logit of the end token; finite, as a sum with -inf in it may be NaN


def captioner_of(shape: str, bpe: str | None, top_k: int) -> Captioner:
    """A captioner by its name or from its folder; for ``ViT-...`` GPT-2 small beside that CLIP.

    Args:
        bpe: folder of GPT-2's vocab.json and merges.txt, which random weights need.
        top_k: candidates of the first step, among which one is made likely.
    """
    if not shape.startswith("ViT-"):
        return Captioner.from_pretrained(shape)
    if bpe is None:
        raise SystemExit("random weights need --bpe, the folder of GPT-2's vocab.json and merges.txt")
    torch.manual_seed(0)
    files = {"vocab": str(Path(bpe) / "vocab.json"), "merges": str(Path(bpe) / "merges.txt")}
    tokenizer = GPT2Tokenizer(**files)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50259))
    never_end(model, tokenizer.eos_token_id)
    language_model, scorer = LanguageModel(model, tokenizer), random_scorer(shape)
    soft_prompt = SoftPrompt(scorer.width, model.config.n_embd).eval().requires_grad_(False)
    language_model.soft_prompt = soft_prompt
    make_confident(language_model, scorer, top_k)
    return Captioner(language_model, scorer)


def random_scorer(shape: str) -> ImageTextScorer:
    """A CLIP of one of open_clip's shapes."""
    clip = open_clip.create_model(shape).eval()
    preprocess: Any = image_transform_v2(PreprocessCfg(**clip.visual.preprocess_cfg), is_train=False)
    config = {"model_cfg": open_clip.get_model_config(shape), "preprocess_cfg": clip.visual.preprocess_cfg}
    return ImageTextScorer(clip, open_clip.get_tokenizer(shape), preprocess, config)


def never_end(model: PreTrainedModel, end_id: int) -> None:
    """Give the head of a language model a bias that keeps it from its end token."""
    head: Any = model.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features)
    biased.weight, biased.bias = head.weight, torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        biased.bias[end_id] = _NEVER
    model.set_output_embeddings(biased)


@torch.no_grad()
def make_confident(language_model: LanguageModel, scorer: ImageTextScorer, top_k: int) -> None:
    """Scale random models until the best first candidate has :data:`CONFIDENCE`."""
    norm: Any = language_model.model.base_model.ln_f
    while (probabilities := language_model.probabilities(language_model.start().last)[0]).max() < CONFIDENCE:
        norm.weight.mul_(1.1)
    candidates = probabilities.topk(top_k).indices
    texts = scorer.encode_texts(language_model.texts([[token] for token in candidates.tolist()]))
    image = scorer.encode_pixels(torch.zeros(1, 3, scorer.side, scorer.side))[0]
    while torch.softmax(scorer.logit_scale * texts @ image, dim=0).max() < CONFIDENCE:
        scorer.model.logit_scale.add_(0.1)


def with_random_memory(captioner: Captioner, size: int, max_new_tokens: int) -> Captioner:
    """The same models with the embedded captioner's decoding, and captions of its memory, vectors random.

    Args:
        size: captions of the memory.
    """
    embedded = Captioner.from_pretrained()
    assert embedded.memory is not None
    texts = embedded.memory.texts[:size]
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(len(texts), captioner.scorer.width, generator=generator), dim=1)
    memory = CaptionMemory(texts, vectors)
    memory.text_tower = text_fingerprint(captioner.scorer.model)  # as if its scorer had encoded them
    decoding = replace(embedded.decoding, max_new_tokens=max_new_tokens)
    return Captioner(captioner.language_model, captioner.scorer, decoding, memory)
