"""Training objectives as functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def next_token_cross_entropy(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of each token given those before it, in nats.

    Args:
        logits: (B, T, V) scores of the next token at every position.
        ids: (B, T) the tokens themselves.
        mask: (B, T) true at tokens that count, false at padding.
    """
    counted = mask[:, 1:].bool()
    return F.cross_entropy(logits[:, :-1][counted], ids[:, 1:][counted])


def simctg_contrastive(hidden: Tensor, mask: Tensor, margin: float = 0.5) -> Tensor:
    """Contrastive term of SimCTG: token vectors of one sentence are pushed apart (Su et al. 2022, eq. 2).

    Args:
        hidden: (B, T, D) last hidden states.
        mask: (B, T) true at tokens that count.
        margin: rho; how much closer a vector must be to itself than to any other, in cosine.
    """
    unit = F.normalize(hidden, dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    hinge = F.relu(margin - 1.0 + cosine)
    valid = mask.bool()
    pairs = valid[:, :, None] & valid[:, None, :]
    pairs &= ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return hinge[pairs].sum() / pairs.sum().clamp(min=1)


def info_nce(images: Tensor, texts: Tensor, owner: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Symmetric contrastive loss where every picture owns one or several texts of the batch.

    Text to picture is the usual cross-entropy; picture to text averages the log-likelihood over the
    picture's own texts (Radford et al. 2021; Khosla et al. 2020, L_out).

    Args:
        images: (B, D) unit vectors.
        texts: (N, D) unit vectors.
        owner: (N,) the row of ``images`` each text belongs to.
        logit_scale: the inverse temperature.
    """
    with torch.autocast(images.device.type, enabled=False):  # cosines of eight bits are too coarse
        logits = logit_scale * (texts @ images.T)
    text_to_image = F.cross_entropy(logits, owner)
    positive = F.one_hot(owner, images.shape[0]).to(logits.dtype)
    image_to_text = -(positive * logits.log_softmax(dim=0)).sum(dim=0) / positive.sum(dim=0).clamp(min=1)
    return (text_to_image + image_to_text.mean()) / 2


def hardest_negative_hinge(images: Tensor, texts: Tensor, owner: Tensor, margin: float = 0.2) -> Tensor:
    """VSE++ max-of-hinges: only the hardest wrong picture and wrong text count (Faghri et al. 2018, eq. 6).

    Args:
        images: (B, D) unit vectors.
        texts: (N, D) unit vectors.
        owner: (N,) the row of ``images`` each text belongs to.
        margin: by how much a true pair must beat the hardest false one, in cosine.
    """
    cosine = texts @ images.T
    true = cosine.gather(1, owner[:, None]).squeeze(1)
    false = cosine.masked_fill(F.one_hot(owner, images.shape[0]).bool(), -1.0)
    wrong_image = F.relu(margin - true + false.max(dim=1).values)
    wrong_text = F.relu(margin - true + false.max(dim=0).values[owner])
    return (wrong_image + wrong_text).mean()


def caption_cross_entropy(logits: Tensor, words: Tensor, pad: int, smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of captions' words, in nats.

    Args:
        logits: (..., T, V) at every position.
        words: (..., T) the words themselves, ``pad`` where there is none.
        pad: the id that is left out of the mean.
        smoothing: share of probability that the target spreads over all words (Szegedy et al. 2016).
    """
    return F.cross_entropy(
        logits.flatten(0, -2), words.flatten(), ignore_index=pad, label_smoothing=smoothing
    )


def doubly_stochastic(attention: Tensor, mask: Tensor) -> Tensor:
    """Attention to each location shall sum to one: mean of (1 - sum_t attention)^2 (Xu et al. 2015, eq. 14).

    Args:
        attention: (..., T, L) summing to 1 over L.
        mask: (..., T) true at words.
    """
    total = (attention * mask[..., None]).sum(dim=-2)
    return ((1 - total) ** 2).mean(dim=-1)[mask.any(dim=-1)].mean()


def reinforce_locations(
    attention: Tensor, context_weights: Tensor, mask: Tensor, advantage: Tensor, entropy_weight: float = 0.002
) -> Tensor:
    """REINFORCE for the locations that hard attention samples, a word (Xu et al. 2015, eq. 12).

    Args:
        attention: (..., T, L) probabilities of locations.
        context_weights: (..., T, L) a one at the location sampled; rows without are soft and left out.
        mask: (..., T) true at words.
        advantage: (...,) the caption's log-likelihood less a baseline.
        entropy_weight: lambda_e, as in the authors' code.
    """
    sampled = mask & (context_weights.amax(dim=-1) == 1)
    log_p = (attention * context_weights).sum(dim=-1).clamp(min=1e-8).log()
    entropy = -(attention * attention.clamp(min=1e-8).log()).sum(dim=-1)
    objective = advantage.detach()[..., None] * log_p * sampled + entropy_weight * entropy * mask
    return -objective.sum() / mask.sum()


def self_critical(log_probability: Tensor, mask: Tensor, reward: Tensor) -> Tensor:
    """Policy gradient of sampled captions, each compared with the others of its picture.

    Self-critical sequence training (Rennie et al. 2017) with the mean of the other samples as baseline (Luo
    2020, arXiv 2003.09971), which is closer than the greedy caption and costs no search.

    Args:
        log_probability: (B, C, T) of sampled words, C at least 2.
        mask: (B, C, T) true at words.
        reward: (B, C).
    """
    C = reward.shape[1]
    others = (reward.sum(dim=1, keepdim=True) - reward) / (C - 1)
    advantage = (reward - others)[:, :, None]
    return -(advantage * log_probability * mask).sum() / mask.sum()


def distillation(student: Tensor, teacher: Tensor, temperature: float = 0.05) -> Tensor:
    """A student's vectors shall equal their teacher's, and have the same neighbours within the batch.

    Mean of one less the cosine to the teacher's vector, plus the Kullback-Leibler divergence between two
    softmaxes over the teacher's vectors of the batch: of the teacher's cosines and of the student's.

    Args:
        student: (N, D) unit vectors, which get the gradient.
        teacher: (N, D) unit vectors of the same texts.
        temperature: of both softmaxes.
    """
    with torch.autocast(student.device.type, enabled=False):  # cosines of eight bits are too coarse
        cosine, target = student @ teacher.T, teacher @ teacher.T
    target = (target / temperature).log_softmax(dim=1)
    predicted = (cosine / temperature).log_softmax(dim=1)
    neighbours = F.kl_div(predicted, target, log_target=True, reduction="batchmean")
    return (1 - cosine.diagonal()).mean() + neighbours
