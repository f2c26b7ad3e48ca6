"""Soft prompts: exact in every search, kept on disk, learned from text alone."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
import torch.nn.functional as F
from reference import reference_steps

from magicap import (
    BadModel,
    BadSettings,
    BeamMagicSearch,
    Captioner,
    CaptionMemory,
    LanguageModel,
    MagicSearch,
)
from magicap.adaptation.adapt import AdaptationSettings, adapt
from magicap.decoding.conditioning import project_onto_memory
from magicap.decoding.context import DecodingContext
from magicap.decoding.prefix_cache import PrefixCache
from magicap.decoding.searches import stream_steps
from magicap.decoding.settings import DECODINGS
from magicap.models.soft_prompt import PROMPT_FILE, SoftPrompt
from magicap.retrieval.modality_gap import ModalityGap
from magicap.settings_io import from_dict, to_dict
from magicap.training.loop import fit
from magicap.training.objectives.soft_prompt import SoftPromptCrossEntropy
from magicap.training.options import LoopConfig, RunOptions
from magicap.training.soft_prompts import conditioned_sentences

CAPTIONS = [
    f"A {who} {does}." for who in ("dog", "man", "child") for does in ("runs", "climbs", "plays", "is red")
]
MAGIC = MagicSearch(top_k=8, alpha=0.2, beta=1.0, max_new_tokens=8, soft_prompt=True)


def ids(caption) -> list[int]:
    return [step.token_id for step in caption.steps]


@pytest.fixture
def captioner() -> Captioner:
    plain = tiny.with_soft_prompt(2)
    memory = CaptionMemory.from_texts(plain.scorer, CAPTIONS)
    return Captioner(plain.language_model, plain.scorer, MAGIC, memory)


def soft_prompts(captioner: Captioner, vectors: torch.Tensor, memory: CaptionMemory | None) -> torch.Tensor:
    return DecodingContext(captioner.cache, vectors, memory=memory).soft_prompts()


def by_reference(captioner: Captioner, picture, memory: CaptionMemory | None, settings=MAGIC) -> list[int]:
    (prompt,) = soft_prompts(captioner, captioner.scorer.encode_images([picture]), memory)
    return [token for token, *_ in reference_steps(captioner, picture, settings, prompt)]


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_conditioned_magic_search_equals_the_reference(captioner, beta, remembers):
    settings = MagicSearch(top_k=8, alpha=0.2, beta=beta, max_new_tokens=8, soft_prompt=True)
    if not remembers:
        captioner.memory = None
    pictures = tiny.pictures(5)
    expected = [by_reference(captioner, picture, captioner.memory, settings) for picture in pictures]
    assert [ids(captioner.caption(picture, settings)) for picture in pictures] == expected
    assert [ids(caption) for caption in captioner.caption(pictures, settings)] == expected
    explained = captioner.explain(pictures[0], settings)
    assert ids(explained.caption) == expected[0]


def test_captions_depend_on_the_soft_prompt(captioner):
    unconditioned = MagicSearch(top_k=8, alpha=0.2, beta=0.0, max_new_tokens=8)
    conditioned = MagicSearch(top_k=8, alpha=0.2, beta=0.0, max_new_tokens=8, soft_prompt=True)
    pictures = tiny.pictures(6)
    assert len({*captioner.caption(pictures, unconditioned)}) == 1
    assert len({*captioner.caption(pictures, conditioned)}) > 1


def test_prefixes_of_one_picture_alone_are_not_kept(captioner):
    picture = tiny.pictures(1)[0]
    first = captioner.caption(picture)
    assert (len(captioner.cache), captioner.cache.nbytes) == (0, 0)
    made = captioner.cache.stats.prefixes_made
    assert captioner.caption([picture, picture]) == [first, first]
    assert captioner.cache.stats.prefixes_made == 2 * made  # side by side both are computed once


def test_it_is_saved_and_a_model_without_it_leaves_none_behind(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    again = Captioner.from_pretrained(tmp_path)
    assert again.decoding == MAGIC
    pictures = tiny.pictures(3)
    vectors = captioner.scorer.encode_images(pictures)
    own, read = (soft_prompts(each, vectors, captioner.memory) for each in (captioner, again))
    assert torch.equal(own, read)
    assert again.fingerprint != tiny.captioner(2).fingerprint  # or kept captions would be taken for its own
    half = tmp_path / "half"
    captioner.save_pretrained(half, dtype="float16")
    loaded = Captioner.from_pretrained(half, dtype="bfloat16")
    assert len(loaded.caption(pictures)) == 3
    tiny.captioner(2).save_pretrained(tmp_path)
    assert Captioner.from_pretrained(tmp_path).language_model.soft_prompt is None


def test_a_damaged_prompt_is_named(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    path = tmp_path / "language_model" / PROMPT_FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadModel, match=r"soft_prompt.* holds no soft prompt"):
        Captioner.from_pretrained(tmp_path)


@pytest.mark.parametrize("search", [MAGIC, BeamMagicSearch(soft_prompt=True)])
def test_a_model_without_a_soft_prompt_says_how_to_train_one(search):
    with pytest.raises(BadSettings, match="tune_prompted"):
        tiny.captioner(0).caption(tiny.pictures(1)[0], search)


def test_a_prompt_of_another_width_is_refused(captioner):
    with pytest.raises(BadSettings, match="vectors of width 24"):
        soft_prompts(captioner, torch.zeros(1, 8), None)
    narrow = CaptionMemory(["A dog."], torch.ones(1, 1))
    with pytest.raises(BadSettings, match="two scorers"):
        SoftPromptCrossEntropy(captioner.language_model, narrow)
    plain = tiny.captioner(2).language_model
    with pytest.raises(BadModel, match="soft prompt of width 32"):
        LanguageModel(plain.model, plain.tokenizer, SoftPrompt(24, 16))


def test_the_setting_is_true_or_false_and_survives_json():
    for kind in (MagicSearch, BeamMagicSearch):
        search = kind(soft_prompt=True)
        assert from_dict(json.loads(json.dumps(to_dict(search, DECODINGS))), DECODINGS) == search
        former = to_dict(search, DECODINGS)
        former["prompted"] = former.pop("soft_prompt")
        assert from_dict(former, DECODINGS) == search
        with pytest.raises(BadSettings, match="soft_prompt must be True or False"):
            kind(soft_prompt="yes")


def test_the_projection_is_the_weighted_mean_of_the_nearest(captioner):
    memory = captioner.memory
    queries = captioner.scorer.encode_images(tiny.pictures(3))
    own = torch.tensor([-1, 4, 0])
    found = project_onto_memory(memory, queries, own)
    for query, place, vector in zip(queries, own.tolist(), found, strict=True):
        cosines = memory.vectors @ query
        weights = torch.exp((cosines - cosines.max()) / cosines.std(correction=0))
        if place >= 0:
            weights[place] = 0
        assert torch.allclose(vector, (weights / weights.sum()) @ memory.vectors, atol=1e-5)


def test_noise_varies_as_captions_do():
    dice = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 0.5, *[0.05] * 14])
    vectors = F.normalize(torch.randn(3000, 16, generator=dice) * spread, dim=1)
    gap = ModalityGap(CaptionMemory([str(number) for number in range(3000)], vectors))
    still = vectors[:1].expand(3000, 16)
    near, far = (gap.add_noise(still, length, dice) for length in (0.3, 1.0))
    assert torch.allclose(far.norm(dim=1), torch.ones(3000), atol=1e-5)
    assert (far - still).std(dim=0)[2:].max() < 0.3 * (far - still).std(dim=0)[1]
    assert 0.5 < (far * still).sum(dim=1).mean() < (near * still).sum(dim=1).mean() < 0.99


def test_it_learns_from_text_alone(captioner):
    """Twelve captions are learned by noised vectors; conditioned on the vectors it writes each again."""
    torch.manual_seed(0)
    learner = tiny.captioner(2).language_model
    lesson = SoftPromptCrossEntropy(learner, captioner.memory, noise=(0.0, 0.2))
    sentences = conditioned_sentences(
        captioner.language_model, captioner.scorer, captioner.memory, CAPTIONS, 20
    )
    assert sentences.memory_positions.tolist() == list(range(12))
    optimizer = torch.optim.AdamW(lesson.parameters(), lr=3e-3)
    lesson.train()
    for epoch in range(150):
        for batch in sentences.epoch(12, shuffle=epoch).batches():
            optimizer.zero_grad()
            lesson(batch).backward()
            optimizer.step()
    lesson.eval().requires_grad_(False)
    greedy = MagicSearch(top_k=1, alpha=0.0, beta=0.0, max_new_tokens=12, soft_prompt=True)
    vectors = captioner.scorer.encode_texts(CAPTIONS)
    context = DecodingContext(PrefixCache(learner, captioner.scorer), vectors)
    batches = stream_steps(context, greedy)
    written = {row: step.text.strip() for batch in batches for row, step in batch}
    assert sum(written[row] == text for row, text in enumerate(CAPTIONS)) >= 8  # one by chance


def test_a_conditioned_captioner_is_so_in_its_new_domain(captioner):
    domain = [f"A {a} runs over {b}." for a in ("dog", "man", "child") for b in "abcdefghi"]
    settings = AdaptationSettings(epochs=1, learning_rate=3e-3, batch_size=8, max_tokens=20, samples=0)
    before = captioner.language_model.soft_prompt.image_projection[0].weight.clone()
    pictures = tiny.pictures(4)
    adapted, _ = adapt(captioner.parts, domain, pictures, settings=settings)
    assert not torch.equal(before, adapted.language_model.soft_prompt.image_projection[0].weight)
    assert torch.equal(before, captioner.language_model.soft_prompt.image_projection[0].weight)
    assert adapted.decoding.soft_prompt
    again = Captioner(adapted.language_model, adapted.scorer, adapted.decoding, adapted.memory)
    assert again.caption(pictures[0])


def test_a_killed_run_learns_what_one_that_was_not_learns(captioner, tmp_path):
    """The noise goes on as if nothing had happened."""
    sentences = conditioned_sentences(
        captioner.language_model, captioner.scorer, captioner.memory, CAPTIONS, 20
    )

    def train(folder, stops):
        for steps in stops:
            torch.manual_seed(len(stops))  # a new process begins with other dice
            lesson = SoftPromptCrossEntropy(
                tiny.with_soft_prompt(2).language_model.to_train(), captioner.memory
            )
            if not (folder / "checkpoint").exists():
                torch.manual_seed(1)
            fit(
                lesson,
                [{"params": list(lesson.parameters()), "lr": 1e-3, "weight_decay": 0.0}],
                epoch=lambda epoch: sentences.epoch(4, shuffle=epoch),
                validate=lambda model: {"score": 0.0},
                save_best=lambda model: None,
                folder=folder,
                config=LoopConfig(epochs=2, max_steps=steps, warmup_share=0.0, run=RunOptions(cpu=True)),
            )
        return lesson.state_dict()

    straight = train(tmp_path / "straight", [5])
    killed = train(tmp_path / "killed", [2, 5])
    assert all(torch.equal(killed[name], each) for name, each in straight.items())
