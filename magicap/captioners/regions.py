"""The regions of a picture, each with a caption of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from magicap.checks import require_int
from magicap.images.reader import ImageSource, open_image
from magicap.regions.captions import RegionCaption, RegionCaptions, without_near_copies
from magicap.regions.proposals import MAX_REGIONS, Proposer

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner


_log = logging.getLogger(__name__)


def caption_regions(
    captioner: BaseCaptioner[Any],
    image: ImageSource,
    proposer: Proposer,
    decoding: Any = None,
    *,
    max_regions: int = MAX_REGIONS,
    seed: int = 0,
) -> RegionCaptions:
    """Propose regions, caption each and the whole, and leave out regions that say nothing new.

    A region that cannot be captioned is left out with a warning.

    Args:
        captioner: of either kind.
        image: anything that :func:`magicap.images.reader.open_image` takes.
        proposer: what finds the boxes.
        decoding, seed: as of ``captioner.caption``.
        max_regions: how many boxes are captioned.

    Raises:
        BadImage: the picture cannot be read.
        BadSettings: ``max_regions`` is no number of boxes, or the decoding does not fit the models.
    """
    require_int("max_regions", max_regions)
    picture = open_image(image)
    whole = captioner.caption(picture, decoding, seed=seed)
    proposals = proposer.propose(picture, max_regions)
    captions = captioner.caption(
        [picture] * len(proposals), decoding, region=[proposal.box for proposal in proposals], seed=seed
    )
    for proposal, caption in zip(proposals, captions, strict=True):
        if caption.error is not None:
            box = ",".join(map(str, proposal.box))
            _log.warning("the region %s is left out: %s", box, caption.error)
    regions = [
        RegionCaption(proposal.box, caption, proposal.label)
        for proposal, caption in zip(proposals, captions, strict=True)
        if caption.error is None
    ]
    return RegionCaptions(picture, whole, without_near_copies(whole, regions))
