"""How many pictures are searched together."""

import pytest
import tiny
import torch

from magicap import BadSettings, BeamMagicSearch, Captioner, CaptionMemory
from magicap.captioners.batching import FIRST_ON_GPU, MOST_ON_GPU, ON_CPU, BatchSize, GpuMemory
from magicap.generators import Returning
from magicap.images.transform import prepare

GPU = torch.device("cuda")


def reports(*memories):
    """A GPU that is measured once before the first batch, and has this memory after the batches."""
    states = iter([GpuMemory(0, 0), *memories])
    return lambda device: next(states)


def test_a_fixed_size_is_kept_and_no_memory_is_measured():
    size = BatchSize(GPU, 5, reports())
    size.measured(5)
    assert size.now == 5


def test_a_processor_takes_one_size():
    size = BatchSize(torch.device("cpu"))
    size.measured(ON_CPU)
    assert size.now == ON_CPU


def test_a_gpu_takes_what_half_of_its_memory_holds_doubling_on_the_way():
    size = BatchSize(GPU, measure=reports(*[GpuMemory(1000, 80), GpuMemory(1000, 160), GpuMemory(1000, 320)]))
    seen = []
    for _ in range(3):
        seen.append(size.now)
        size.measured(size.now)
    assert (seen, size.now) == ([FIRST_ON_GPU, 16, 32], 50)


@pytest.mark.parametrize(("memory", "expected"), [(GpuMemory(10, 800), 1), (GpuMemory(10**12, 0), 16)])
def test_it_is_at_least_one_and_at_most_twice_the_last(memory, expected):
    size = BatchSize(GPU, measure=reports(memory))
    size.measured(FIRST_ON_GPU)
    assert size.now == expected


def test_it_ends_somewhere():
    size = BatchSize(GPU, measure=lambda device: GpuMemory(10**15, 1))
    for _ in range(20):
        size.measured(size.now)
    assert size.now == MOST_ON_GPU


def test_no_size_given_captions_as_any_does():
    captioner, pictures = tiny.captioner(), tiny.pictures(ON_CPU + 3)
    assert captioner.caption(pictures) == captioner.caption(pictures, batch_size=1)


@pytest.fixture
def threads():
    """Sets how many threads torch has, for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_sub_batches_caption_as_the_batch_does(threads):
    memory_free, pictures = tiny.captioner(), tiny.pictures(11)
    memory = CaptionMemory.from_texts(memory_free.scorer, tiny.SENTENCES)
    search = BeamMagicSearch(top_k=6, beam_size=3, num_finished=4, neighbours=5)
    captioner = Captioner(memory_free.language_model, memory_free.scorer, search, memory)
    prepared = [prepare(picture, captioner.transform) for picture in pictures]
    threads(1)
    alone = captioner.caption(pictures)
    threads(2)
    together = captioner.caption(pictures)
    assert together == alone
    assert torch.get_num_threads() == 2
    progress = Returning(captioner.caption_batch_with_progress(prepared, candidates=2))
    rows = [{row for row, _ in competing} for competing in progress]
    assert progress.value == alone
    assert rows[0] == set(range(11))
    assert torch.get_num_threads() == 2


def test_what_a_sub_batch_raises_is_raised(threads):
    threads(2)
    captioner = tiny.captioner()
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, tiny.SENTENCES)
    with pytest.raises(BadSettings, match="none of"):
        captioner.caption(tiny.pictures(9), BeamMagicSearch(include=("zebra",)))
    assert torch.get_num_threads() == 2
