"""Beams never wait for the device inside a step, and what counts that sees what would wait."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import tiny
import torch
from repository import script

from magicap import BeamMagicSearch, CaptionMemory, MagicSearch
from magicap.images.transform import prepare

launches = script("launches")

MASK, VALUES = torch.tensor([True, False, True]), torch.arange(3)


@pytest.fixture(scope="module")
def captioner():
    made = tiny.with_soft_prompt(0)
    made.memory = CaptionMemory.from_texts(made.scorer, tiny.SENTENCES)
    return made


@pytest.fixture(scope="module")
def pictures(captioner):
    return [prepare(pixels, captioner.transform) for pixels in tiny.pictures(5)]


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda: VALUES.sum().item(), {"item": 1}),
        (lambda: bool((VALUES > 1).any()), {"item": 1}),
        (lambda: 1 if VALUES.sum() > 1 else 0, {"item": 1}),
        (lambda: VALUES.tolist(), {"tolist": 1}),
        (lambda: VALUES.cpu().numpy(), {"cpu": 1}),
        (lambda: MASK.nonzero(), {"nonzero": 1}),
        (lambda: VALUES[MASK], {"mask as index": 1}),
        (lambda: VALUES.clone().__setitem__(MASK, VALUES[:2]), {"mask as index": 1}),
        (lambda: VALUES.masked_select(MASK), {"masked_select": 1}),
        (lambda: VALUES.repeat_interleave(VALUES), {"repeat_interleave": 1}),
        (lambda: VALUES.repeat_interleave(VALUES, output_size=3), {}),
        (lambda: VALUES.unique(), {"unique": 1}),
        (lambda: torch.tensor([1, 2]), {"tensor": 1}),
        (lambda: VALUES[[0, 2]], {"list as index": 1}),
        (lambda: VALUES[VALUES].where(MASK, 0).masked_fill(MASK, 1)[1:].sort().values, {}),
        (lambda: VALUES.repeat_interleave(2), {}),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_waits_is_seen(work, waits, inference):
    with torch.inference_mode(inference), launches.Operators() as operators:
        work()
    assert operators.waits == Counter(waits)


def test_launches_are_what_computes_and_composed_operators_what_they_are_made_of():
    x, layer = torch.rand(2, 3), torch.nn.Linear(3, 4)
    with torch.inference_mode(), launches.Operators() as operators:
        layer(x.T.T[:2].unflatten(1, (3, 1)).flatten(1)).reshape(4, 2).softmax(dim=0)
        torch.empty(3).expand(2, 3)
    assert operators.launches == {"aten.addmm": 1, "aten._softmax": 1}


@pytest.mark.parametrize("settings", [{}, {"soft_prompt": True}, {"ngram_weight": 0.0}])
def test_beams_never_wait_inside_a_step(captioner, pictures, settings):
    decoding = BeamMagicSearch(max_new_tokens=8, **settings)
    expected = captioner.caption(pictures, decoding)
    seen: list[Counter[str]] = []
    progress = captioner.caption_batch_with_progress(pictures, decoding, candidates=0)
    with launches.Operators() as operators:
        for _ in progress:
            seen.append(operators.waits.copy())
    steps = [after - before for before, after in pairwise(seen)]
    assert len(steps) > 3
    # whether all have ended and which columns are needed, between two steps; on a GPU at every fourth
    assert steps == [Counter({"tolist": 1})] * len(steps)
    assert captioner.caption(pictures, decoding) == expected


def test_counting_changes_no_caption_and_adds_up(captioner, pictures):
    for decoding in (BeamMagicSearch(max_new_tokens=8), MagicSearch(8, 0.2, 1.0, 8)):
        steps = launches.counted(captioner, pictures, decoding)
        assert sum(part[0] for part in steps.parts) == steps.operators.launches.total()
        assert sum(part[1] for part in steps.parts) == steps.operators.waits.total()
        median, least, most = steps.of_a_step(0)
        assert 0 < least <= median <= most
