"""How well pictures find their texts and texts their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from magicap.errors import BadSettings

if TYPE_CHECKING:
    from torch import Tensor


def retrieval_recall(
    similarity: Tensor,
    owner: Tensor,
    ranks: Sequence[int] = (1, 5, 10),
    *,
    text_to_image: Tensor | None = None,
) -> dict[str, float]:
    """Recall at each rank in percent, and the median rank; picture to text and text to picture.

    A picture counts as retrieved when any one of its own texts stands among the first k, as in Karpathy and
    Fei-Fei 2015. A wrong answer with an equal score stands before the right one, so that a model which scores
    everything alike gets the worst rank.

    Args:
        similarity: (B, N) of B pictures and N texts.
        owner: (N,) the picture each text belongs to; every picture must own at least one.
        ranks: the k of recall@k.
        text_to_image: (B, N) what ranks the pictures of each text, where that is not ``similarity``, as after
            re-ranking.

    Raises:
        BadSettings: a picture without a text.
    """
    is_own = owner[None, :] == owner.new_tensor(range(similarity.shape[0]))[:, None]
    if not bool(is_own.any(dim=1).all()):
        raise BadSettings("every picture must own at least one text")
    best_own = similarity.masked_fill(~is_own, -float("inf")).max(dim=1).values
    columns = similarity if text_to_image is None else text_to_image
    true = columns.gather(0, owner[None, :]).squeeze(0)
    # "Not below" instead of "at least": a NaN must not count as retrieved either.
    image_rank = (~is_own & ~(similarity < best_own[:, None])).sum(dim=1)
    text_rank = (~is_own & ~(columns < true[None, :])).sum(dim=0)
    figures = {f"image_to_text_r{k}": 100 * (image_rank < k).float().mean().item() for k in ranks}
    figures |= {f"text_to_image_r{k}": 100 * (text_rank < k).float().mean().item() for k in ranks}
    medians = {"image_to_text": image_rank, "text_to_image": text_rank}
    return figures | {
        f"{way}_median_rank": 1 + rank.float().quantile(0.5).item() for way, rank in medians.items()
    }
