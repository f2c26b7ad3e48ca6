"""The prefix cache changes how much is computed, and no caption."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from repository import script

from magicap import BadSettings, BeamMagicSearch, Caption, Captioner, CaptionMemory, MagicSearch
from magicap.decoding.prefix_cache import CachedPrefix, PrefixCache

SETTINGS = MagicSearch(top_k=8, alpha=0.2, beta=3.0, max_new_tokens=8)


def ids(captions) -> list[list[int]]:
    return [[step.token_id for step in caption.steps] for caption in captions]


@pytest.fixture
def captioner() -> Captioner:
    return tiny.captioner(4)


@pytest.fixture
def expected() -> list[list[int]]:
    """Each of twelve pictures captioned alone, with nothing kept from any other."""
    captioner = tiny.captioner(4)
    captioner.cache.budget = 0
    return ids(captioner.caption(picture, SETTINGS) for picture in tiny.pictures(12))


def held(cache: PrefixCache) -> dict[int, torch.Tensor]:
    """All tensors that a cache keeps alive, each once."""
    prefixes: list[CachedPrefix] = [prefix for prefix, _ in cache._prefixes.values()]
    tensors = [each for prefix in prefixes for state in prefix.states for each in vars(state).values()]
    tensors += [each for prefix in prefixes for each in prefix.text.cache]
    tensors += [e for n in prefixes for e in (n.candidates, n.probabilities, n.repetition, n.vectors)]
    return {id(each): each for each in tensors if each is not None}


def test_pictures_at_the_same_prefix_are_computed_once(captioner):
    picture = tiny.pictures(1)[0]
    captioner.caption(picture, SETTINGS)
    alone = dict(vars(captioner.cache.stats))
    captioner.cache.clear()
    captioner.caption([picture] * 5, SETTINGS)
    together = vars(captioner.cache.stats)
    for name in ("language_tokens", "text_tokens", "prefixes_made"):
        assert together[name] == 2 * alone[name], name


def test_a_second_run_computes_nothing(captioner, expected):
    pictures = tiny.pictures(12)
    assert ids(captioner.caption(pictures, SETTINGS)) == expected
    before = dict(vars(captioner.cache.stats))
    assert ids(captioner.caption(pictures, SETTINGS, batch_size=5)) == expected
    after = vars(captioner.cache.stats)
    assert after["prefixes_found"] > before.pop("prefixes_found")
    assert {name: after[name] for name in before} == before
    assert 0.5 < captioner.cache.stats.hit_rate < 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_small_budget_is_kept_and_changes_no_caption(captioner, expected, batch_size):
    cache = captioner.cache
    captioner.caption(tiny.pictures(3), SETTINGS)
    cache.budget = cache.nbytes // 2
    for _ in range(2):
        assert ids(captioner.caption(tiny.pictures(12), SETTINGS, batch_size=batch_size)) == expected
        assert 0 < cache.nbytes <= cache.budget
    assert cache.stats.prefixes_evicted > 0


def test_without_a_budget_nothing_is_kept(expected):
    tiny_one = tiny.captioner(4)
    captioner = Captioner(tiny_one.language_model, tiny_one.scorer, SETTINGS, cache_bytes=0)
    assert ids(captioner.caption(tiny.pictures(12), batch_size=4)) == expected
    assert (len(captioner.cache), captioner.cache.nbytes) == (0, 0)


def test_it_knows_how_much_it_holds(captioner):
    captioner.caption(tiny.pictures(6), SETTINGS)
    tensors = held(captioner.cache)
    assert captioner.cache.nbytes == sum(each.nbytes for each in tensors.values())
    # No tensor is a view that keeps a whole batch alive.
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in tensors.values())
    captioner.cache.clear()
    assert (len(captioner.cache), captioner.cache.nbytes) == (0, 0)


def test_other_settings_share_no_candidates_but_may_share_the_trie(captioner):
    picture = tiny.pictures(1)[0]
    several = [
        SETTINGS,
        MagicSearch(3, 0.2, 3.0, 8),
        MagicSearch(8, 0.0, 0.5, 8),
        MagicSearch(8, 0.6, 0.0, 8),
    ]
    for settings in several * 2:
        assert ids([captioner.caption(picture, settings)]) == ids(
            [tiny.captioner(4).caption(picture, settings)]
        )


def test_threads_give_what_one_gives(captioner, expected):
    pictures = tiny.pictures(12)
    captioner.cache.budget = 200_000  # so that they evict each other's prefixes too

    def work(thread: int) -> list[list[int]]:
        return ids(captioner.caption(pictures, SETTINGS, batch_size=1 + thread))

    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(work, [0, 1, 2, 3] * 3))
    assert 0 <= captioner.cache.nbytes <= 200_000


def test_once_cleared_it_knows_the_weights_as_they_are(captioner):
    picture = tiny.pictures(1)[0]
    captioner.caption(picture, SETTINGS)
    other = tiny.captioner(5)
    captioner.language_model.model.load_state_dict(other.language_model.model.state_dict())
    captioner.scorer.model.load_state_dict(other.scorer.model.state_dict())
    captioner.cache.clear()
    assert captioner.caption(picture, SETTINGS) == other.caption(picture, SETTINGS)


def test_twelve_pictures_take_no_more_work_than_they_did(captioner):
    """A guard against slowness that counts work, not seconds: lower a number when less is needed."""
    captioner.caption(tiny.pictures(12), SETTINGS, batch_size=4)
    work = captioner.cache.stats
    assert work.text_tokens <= 913
    assert work.language_tokens <= 272
    assert work.prefixes_made <= 60
    assert work.prefixes_found >= 10


def test_the_default_decoding_takes_no_more_operations_than_its_beams_need():
    """As above, whatever the search is made of: operations as torch counts them."""
    counted = script("flops").counted
    one, pictures = tiny.with_soft_prompt(), tiny.pictures(2)
    model, scorer = one.language_model, one.scorer
    memory = CaptionMemory.from_texts(scorer, tiny.SENTENCES)
    settings = BeamMagicSearch(beam_size=4, max_new_tokens=8, soft_prompt=True, rerank_weight=4, rerank_top=3)
    captioner = Captioner(model, scorer, settings, memory)
    captions: list[Caption] = []
    taken = counted(lambda: captions.extend(captioner.caption(pictures)))[1]

    # Of each picture: the image tower (1.05 million operations); two projections of the soft prompt (14,336);
    # the start token, then four beams of seven tokens, for the eighth is not run, each at most as dear as one
    # of nine tokens that all see all nine (74,688); the text tower for the three captions that are re-ranked,
    # the chosen one among them (0.46 million for nine tokens). Nearest neighbours and small products: two
    # hundredths on top.
    images = counted(lambda: scorer.encode_images(pictures))[1]
    vector = torch.ones(len(pictures), scorer.width)
    prompts = counted(lambda: model.soft_prompt(vector, vector))[1]
    token = counted(lambda: model.model(torch.zeros(1, 9, dtype=torch.long)))[1] / 9
    tokens = len(pictures) * (1 + settings.beam_size * (settings.max_new_tokens - 1))
    reranked = [h.text for caption in captions for h in caption.hypotheses[: settings.rerank_top]]
    texts = counted(lambda: scorer.encode_texts(reranked))[1]
    assert taken <= 1.02 * (images + prompts + tokens * token + texts)


@pytest.mark.parametrize("budget", [-1, 1.5, "1 GB", True])
def test_a_budget_that_is_none_is_refused(captioner, budget):
    with pytest.raises(BadSettings, match=r"cache_bytes must be a whole number of at least 0, found"):
        Captioner(captioner.language_model, captioner.scorer, cache_bytes=budget)


def test_a_copy_of_a_captioner_begins_with_an_empty_trie(captioner, expected):
    captioner.caption(tiny.pictures(2), SETTINGS)
    other = copy.deepcopy(captioner)
    assert len(captioner.cache) > len(other.cache) == 0
    assert other.cache.scorer is other.scorer is not captioner.scorer
    assert ids(other.caption(tiny.pictures(12), SETTINGS)) == expected
