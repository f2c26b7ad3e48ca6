"""Magic search as its published code works, to be measured against; no script of its own.

Su et al. 2022, "Language Models Can See", https://github.com/yxuansu/MAGIC, ``image_captioning/``: one
picture at a time; always as many steps as tokens are allowed, whether or not the end token was chosen; every
step copies the language model's keys and values for all K candidates, runs them, computes the head for each,
decodes the K texts one by one, and encodes them whole.

The published code pads the K texts to the longest of them (``CLIP.compute_text_representation``: the
tokenizer's ``padding=True``). OpenAI's package and open_clip pad to the context, 77 tokens; that is the other
way here.

Shapes: K candidates, T tokens of the prefix, W hidden width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from magicap import ImageTextScorer, LanguageModel, MagicSearch


@torch.inference_mode()
def published_magic_search(
    language_model: LanguageModel,
    scorer: ImageTextScorer,
    pixels: Tensor,
    settings: MagicSearch,
    *,
    to_context: bool = False,
) -> list[int]:
    """Token ids of the caption of one picture, and what was written behind its end token.

    Args:
        pixels: (3, H, W) bytes, as the scorer's transform makes them.
        to_context: pad texts to the scorer's context, and not to the longest of them.
    """
    image = scorer.encode_pixels(pixels[None])[0]
    base, head = language_model.model.base_model, language_model.model.get_output_embeddings()
    ids = torch.tensor([[language_model.start_id]])
    output = base(ids, use_cache=True)
    past, hidden = output.past_key_values, output.last_hidden_state  # (1, T, W)
    logits = head(hidden[:, -1])[0]
    for _ in range(settings.max_new_tokens):
        probability, candidates = torch.softmax(logits, dim=-1).topk(min(settings.top_k, len(logits)))
        past.batch_repeat_interleave(len(candidates))
        output = base(candidates[:, None], past_key_values=past, use_cache=True)
        past, new_hidden = output.past_key_values, output.last_hidden_state  # (K, 1, W)
        new_logits = head(new_hidden[:, -1])
        sequences = torch.cat([ids.expand(len(candidates), -1), candidates[:, None]], dim=1)
        texts = [language_model.text(sequence) for sequence in sequences]
        vectors = encode_padded(scorer, texts, to_context=to_context)
        fit = torch.softmax(scorer.logit_scale * vectors @ image, dim=0)
        context = F.normalize(hidden.expand(len(candidates), -1, -1), dim=-1)
        repetition = (context @ F.normalize(new_hidden, dim=-1).mT).squeeze(-1).max(dim=1).values
        score = (1 - settings.alpha) * probability - settings.alpha * repetition + settings.beta * fit
        best = score.argmax()
        past.batch_select_indices(best[None])
        ids, logits = sequences[best][None], new_logits[best]
        hidden = torch.cat([hidden, new_hidden[best][None]], dim=1)
    return ids[0, 1:].tolist()


def encode_padded(scorer: ImageTextScorer, texts: Sequence[str], *, to_context: bool) -> Tensor:
    """(K, D) unit vectors of whole texts, which padding makes equally long."""
    ids: Tensor = scorer.tokenizer(list(texts))
    if to_context:
        return F.normalize(scorer.model.encode_text(ids), dim=-1)
    end_id = scorer.tokenize([""])[0][1]  # behind the start token
    length = int((ids[:, 1:] == end_id).int().argmax(dim=1).max()) + 2
    tower = "text." if hasattr(scorer.model, "text") else ""
    positions = scorer.model.get_parameter(f"{tower}positional_embedding")
    mask = scorer.model.get_buffer(f"{tower}attn_mask")
    shorter = {
        f"{tower}positional_embedding": positions[:length],
        f"{tower}attn_mask": mask[:length, :length],
    }
    vectors: Tensor = functional_call(scorer.model, shorter, kwargs={"text": ids[:, :length]})[1]
    return vectors


def up_to_end(ids: Sequence[int], end_id: int) -> list[int]:
    """Token ids before the end token."""
    return list(ids[: ids.index(end_id)] if end_id in ids else ids)
