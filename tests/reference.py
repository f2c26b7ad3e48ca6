"""Magic search written straight from its definition: full strings, full encodes, one picture, no cache.

The slow judge of every fast path. It shares no code with ``magicap``: only the loaded transformers and
open_clip models, their tokenizers and the picture's preprocessing are taken from the captioner.
"""

from __future__ import annotations

import torch

from magicap import Captioner, MagicSearch
from magicap.images.reader import open_image

START, PAD = "<-start_of_text->", "<-pad->"


def reference_caption(captioner: Captioner, picture: object, settings: MagicSearch) -> list[int]:
    """Token ids of the caption, the end token included where it was chosen."""
    return [token for token, *_ in reference_steps(captioner, picture, settings)]


def read(model, ids: list[list[int]], told: torch.Tensor | None):
    """The model's output for whole sequences, the first token's embedding with what it is told."""
    embeddings = model.get_input_embeddings()(torch.tensor(ids))
    if told is not None:
        embeddings = torch.cat([embeddings[:, :1] + told, embeddings[:, 1:]], dim=1)
    return model(inputs_embeds=embeddings, output_hidden_states=True)


Scored = tuple[int, float, float, float]
"""A token, and what confidence, degeneration and image give it."""


@torch.no_grad()
def reference_steps(
    captioner: Captioner, picture: object, settings: MagicSearch, told: torch.Tensor | None = None
) -> list[Scored]:
    """Each chosen token with what confidence, degeneration and image gave it.

    Args:
        told: what is added to the start token's embedding.
    """
    tokenizer = captioner.language_model.tokenizer
    image = image_of(captioner, picture)
    start = tokenizer.convert_tokens_to_ids(START)
    prefix, steps = [start, *tokenizer(settings.prefix, add_special_tokens=False).input_ids], []
    for _ in range(settings.max_new_tokens):
        steps.append(reference_candidates(captioner, image, prefix, settings, told)[0])
        prefix.append(steps[-1][0])
        if steps[-1][0] == tokenizer.eos_token_id:
            break
    return steps


def image_of(captioner: Captioner, picture: object) -> torch.Tensor:
    """(D,) unit vector of a picture."""
    image = captioner.scorer.model.encode_image(captioner.scorer.preprocess(open_image(picture))[None])[0]
    return image / image.norm()


@torch.no_grad()
def reference_candidates(
    captioner: Captioner,
    image: torch.Tensor,
    prefix: list[int],
    settings: MagicSearch,
    told: torch.Tensor | None = None,
    unread: int = 0,
) -> list[Scored]:
    """The candidates behind a prefix, the best first.

    Args:
        image: (D,) unit vector.
        prefix: token ids, the start token first.
        told: what is added to the start token's embedding.
        unread: how many of the first tokens the scorer does not read.
    """
    model, tokenizer = captioner.language_model.model, captioner.language_model.tokenizer
    clip, clip_tokenizer = captioner.scorer.model, captioner.scorer.tokenizer
    silent = {*tokenizer.convert_tokens_to_ids([START, PAD]), *tokenizer.all_special_ids}
    output = read(model, [prefix], told)
    probability = torch.softmax(output.logits[0, -1], dim=0)
    hidden = output.hidden_states[-1][0]
    candidates = torch.topk(probability, min(settings.top_k, len(probability))).indices.tolist()

    extended = [[*prefix, candidate] for candidate in candidates]
    new_hidden = read(model, extended, told).hidden_states[-1][:, -1]
    texts = [tokenizer.decode([t for t in row[unread:] if t not in silent]) for row in extended]
    text_vectors = clip.encode_text(clip_tokenizer(texts))
    text_vectors = text_vectors / text_vectors.norm(dim=1, keepdim=True)
    fit = torch.softmax(clip.logit_scale.exp() * text_vectors @ image, dim=0)

    scored = []
    for number, candidate in enumerate(candidates):
        cosines = torch.cosine_similarity(new_hidden[number][None], hidden, dim=1)
        confidence = ((1 - settings.alpha) * probability[candidate]).item()
        degeneration = (-settings.alpha * cosines.max()).item()
        scored.append((candidate, confidence, degeneration, (settings.beta * fit[number]).item()))
    return sorted(scored, key=lambda one: -sum(one[1:]))  # stable: of equals the more probable comes first


@torch.no_grad()
def reference_contrastive(captioner: Captioner, top_k: int, alpha: float, length: int) -> list[int]:
    """Contrastive search from its own paper (Su et al. 2022, arXiv 2202.06417, eq. 5), text only."""
    model, tokenizer = captioner.language_model.model, captioner.language_model.tokenizer
    prefix = [tokenizer.convert_tokens_to_ids(START)]
    for _ in range(length):
        output = model(torch.tensor([prefix]), output_hidden_states=True)
        probability = torch.softmax(output.logits[0, -1], dim=0)
        seen = torch.nn.functional.normalize(output.hidden_states[-1][0], dim=-1)
        scores = {}
        for candidate in torch.topk(probability, top_k).indices.tolist():
            states = model(torch.tensor([[*prefix, candidate]]), output_hidden_states=True).hidden_states[-1]
            new = torch.nn.functional.normalize(states[0, -1], dim=-1)
            scores[candidate] = (1 - alpha) * probability[candidate].item() - alpha * (
                seen @ new
            ).max().item()
        prefix.append(max(scores, key=scores.__getitem__))
        if prefix[-1] == tokenizer.eos_token_id:
            break
    return prefix[1:]
