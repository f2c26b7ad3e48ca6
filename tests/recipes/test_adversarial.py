"""Adversarial training: captions written by the batch, their rewards, the objective, and its recipe."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from repository import recipe
from tiny import SENTENCES

from magicap import BadSettings, Captioner, CaptionMemory
from magicap.data import ImageFiles
from magicap.errors import BadImage
from magicap.training.discriminator import Discriminator
from magicap.training.image_vectors import image_vectors
from magicap.training.objectives.adversarial import AdversarialTuning, TermWeights
from magicap.training.objectives.soft_prompt import SoftPromptCrossEntropy, conditioned_logits
from magicap.training.rewards import ScorerReward
from magicap.training.rollouts import greedy, roll_out, sampling
from magicap.training.sentences import Sentences
from magicap.training.soft_prompts import conditioned_sentences
from magicap.training.unpaired import Unpaired, WatchedPictures, fit_in_deviations

TEXTS = [
    *SENTENCES,
    "A man runs.",
    "Two dogs play near a rock.",
    "A red dog climbs a wall.",
    "Children jump across the sea.",
]
NOTHING = TermWeights(image_weight=0, aggregate_weight=0, adversarial_weight=0, kl_weight=0, text_weight=0)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    """One whose language model has learned the sentences, so that its captions end."""
    conditioned = tiny.with_soft_prompt()
    model = conditioned.language_model.to_train()
    memory = CaptionMemory.from_texts(conditioned.scorer, TEXTS)
    sentences = conditioned_sentences(model, conditioned.scorer, memory, TEXTS, max_tokens=20)
    objective = SoftPromptCrossEntropy(model, memory).train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    torch.manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        objective(sentences.batch(range(len(TEXTS)))).backward()
        optimizer.step()
    language_model = model.to_caption(torch.float32)
    return Captioner(language_model, conditioned.scorer, conditioned.decoding, memory)


@pytest.fixture(scope="module")
def unpaired(captioner) -> Unpaired:
    images = captioner.scorer.encode_images(tiny.pictures(6))
    sentences = conditioned_sentences(
        captioner.language_model, captioner.scorer, captioner.memory, TEXTS, max_tokens=20
    )
    return Unpaired(images, images.roll(1, 0), sentences, per_image=3)


def objective_of(captioner: Captioner, weights: TermWeights, samples: int = 3) -> AdversarialTuning:
    torch.manual_seed(0)
    start = captioner.language_model.to_train()
    return AdversarialTuning(
        start.to_train(),
        start,
        captioner.memory,
        ScorerReward(captioner.scorer, weights.image_weight, weights.aggregate_weight, 0.1, 0.2),
        Discriminator(start, 1) if weights.adversarial_weight else None,
        weights,
        samples=samples,
        max_new_tokens=18,
    )


def first_batch(unpaired: Unpaired, size: int = 6) -> dict:
    return next(iter(unpaired.epoch(size, seed=0).batches()))


# ---- captions written by the batch ----


def test_greedy_captions_are_those_of_one_token_after_another(captioner):
    model, prompts = captioner.language_model, torch.randn(5, 32)
    written = roll_out(model, prompts, 12, greedy)
    for row, prompt in enumerate(prompts):
        ids = [model.start_id]
        while len(ids) < 13 and model.end_id not in ids[1:]:
            with torch.no_grad():
                tokens = torch.tensor([ids])
                logits = conditioned_logits(model.model, tokens, torch.ones_like(tokens), prompt[None])
            ids.append(int(logits[0, -1].argmax()))
        length = int(written.mask[row].sum())
        assert written.ids[row, :length].tolist() == ids
        assert written.ended[row] == (ids[-1] == model.end_id)
        assert written.texts(model)[row] == model.text(ids)


def test_a_pictures_samples_depend_on_its_own_seed_alone(captioner):
    model, prompts = captioner.language_model, torch.randn(3, 32)
    choose = sampling([7, 8, 9], 2, 9, prompts.device)
    together = roll_out(model, prompts.repeat_interleave(2, 0), 9, choose)
    alone = roll_out(model, prompts[1].repeat(2, 1), 9, sampling([8], 2, 9, prompts.device))
    width = alone.ids.shape[1]
    assert torch.equal(together.ids[2:4, :width] * alone.mask, alone.ids * alone.mask)
    assert torch.equal(together.mask[2:4, :width], alone.mask)
    assert len(set(together.texts(model))) > 3


def test_tokens_are_sampled_as_often_as_they_are_likely(captioner):
    model, prompt, samples = captioner.language_model, torch.randn(1, 32), 4000
    choose = sampling([1], samples, 1, prompt.device)
    written = roll_out(model, prompt.repeat(samples, 1), 1, choose)
    frequencies = torch.bincount(written.ids[:, 1], minlength=model.vocabulary_size) / samples
    start = torch.tensor([[model.start_id]])
    with torch.no_grad():
        logits = conditioned_logits(model.model, start, torch.ones_like(start), prompt)
    assert (frequencies - logits[0, 0].softmax(0)).abs().sum() < 0.2


# ---- rewards ----


def test_the_reward_is_two_weighted_cosines_in_their_deviations(captioner, unpaired):
    images, projected = unpaired.images[:2], unpaired.projected[:2] * 0.3  # of any length
    rewards = ScorerReward(captioner.scorer, 2.0, 3.0, 0.1, 0.5)(TEXTS[:2], images, projected)
    texts = captioner.scorer.encode_texts(TEXTS[:2])
    expected = [
        2 * float(text @ image) / 0.1 + 3 * float(text @ near) / 0.3 / 0.5
        for text, image, near in zip(texts, images, projected, strict=True)
    ]
    assert rewards.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_caption_that_was_cut_fits_nothing(captioner, unpaired):
    objective = objective_of(captioner, replace(NOTHING, image_weight=1.0))
    prompts = torch.randn(6, 32)
    written = roll_out(captioner.language_model, prompts, 2, greedy)
    rewards = objective.rewards(written, unpaired.images, unpaired.projected)
    assert not written.ended.all()
    assert not rewards[~written.ended].any()
    whole = replace(written, ended=torch.ones_like(written.ended))
    assert objective.rewards(whole, unpaired.images, unpaired.projected).all()


def test_fit_is_the_distance_of_own_captions_from_all_in_deviations():
    images, texts = torch.eye(2), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    cosines = torch.tensor([0.8, 0.6, 0.0, 1.0])
    expected = (0.9 - cosines.mean()) / cosines.std()
    assert fit_in_deviations(images, texts) == pytest.approx(float(expected))


# ---- the objective ----


def test_only_text_is_what_made_the_start(captioner, unpaired):
    objective, batch = objective_of(captioner, replace(NOTHING, text_weight=2.0)), first_batch(unpaired)
    torch.manual_seed(1)
    loss = objective(batch)
    torch.manual_seed(1)
    assert loss.item() == pytest.approx(2 * objective.text(batch).item())


def test_the_divergence_is_nothing_at_the_start_and_grows_from_there(captioner, unpaired):
    objective, batch = objective_of(captioner, replace(NOTHING, kl_weight=1.0)), first_batch(unpaired)
    assert objective(batch).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        objective.text.prompt.image_projection[0].weight.mul_(2)
    assert objective(batch).item() > 0.01


def test_the_discriminator_learns_from_its_own_loss_alone(captioner, unpaired):
    batch = first_batch(unpaired)
    without, beside = (
        objective_of(captioner, replace(NOTHING, image_weight=1.0, adversarial_weight=weight))
        for weight in (1e-9, 1.0)
    )
    for objective in (without, beside):
        objective(batch).backward()
    gradients = [[p.grad for p in objective.discriminator.parameters()] for objective in (without, beside)]
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True) if a is not None)
    language = [objective.text.prompt.image_projection[0].weight.grad for objective in (without, beside)]
    assert not torch.allclose(*language)  # its opinion is a reward


@pytest.mark.parametrize("name", ["image_weight", "aggregate_weight"])
def test_captions_come_nearer_to_their_pictures(name, captioner, unpaired):
    objective = objective_of(captioner, replace(NOTHING, **{name: 1.0}), samples=8)
    conditions = [vectors.repeat_interleave(8, 0) for vectors in (unpaired.images, unpaired.projected)]

    def reward() -> float:
        model = objective.language_model
        choose = sampling(list(range(100, 106)), 8, 18, torch.device("cpu"))
        written = roll_out(model, model.soft_prompt(*conditions).detach(), 18, choose)
        return objective.rewards(written, *conditions).mean().item()

    before = reward()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for epoch in range(15):
        for batch in unpaired.epoch(6, seed=epoch).batches():
            optimizer.zero_grad()
            objective(batch).backward()
            optimizer.step()
    assert reward() > before + 0.3


def test_a_discriminator_learns_to_tell_sentences_from_noise(captioner):
    torch.manual_seed(0)
    model = Discriminator(captioner.language_model, 1).eval()
    real = Sentences.of(captioner.language_model, TEXTS, 20).batch(range(len(TEXTS)))
    noise = torch.randint(5, 300, real["ids"].shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        wrong = model.log_probability(noise, real["mask"]) - model.log_probability(real["ids"], real["mask"])
        wrong.mean().backward()
        optimizer.step()
    assert model(real["ids"], real["mask"]).min() > model(noise, real["mask"]).max()
    longer = {name: torch.nn.functional.pad(real[name], (0, 3)) for name in ("ids", "mask")}
    assert torch.allclose(model(**longer), model(real["ids"], real["mask"]), atol=1e-5)
    with pytest.raises(BadSettings, match="--discriminator_layers must be at most 2, found 3"):
        Discriminator(captioner.language_model, 3)


# ---- data ----


def test_an_epoch_holds_every_picture_once_whoever_reads_it(unpaired):
    rows = {}
    for batch in unpaired.epoch(4, seed=3).batches():
        for number, seed in enumerate(batch["seeds"].tolist()):
            rows[seed] = batch["images"][number], batch["vectors"][3 * number : 3 * number + 3]
    assert len(rows) == 6
    for process in range(2):
        for batch in unpaired.epoch(4, seed=3).batches(0, process, 2):
            for number, seed in enumerate(batch["seeds"].tolist()):
                assert torch.equal(rows[seed][0], batch["images"][number])
                assert torch.equal(rows[seed][1], batch["vectors"][3 * number : 3 * number + 3])
    assert not rows.keys() & set(first_batch(unpaired)["seeds"].tolist())


def test_pictures_that_cannot_be_read_are_left_out_and_named(captioner, data, tmp_path):
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        member = tarfile.TarInfo("broken.jpg")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"no JPEG"))
    names = ["0.jpg", "broken.jpg", "1.jpg"]
    with ImageFiles([data / "images.tar", tmp_path / "more.tar"]) as images:
        with pytest.raises(BadImage):
            image_vectors(captioner.scorer, images, names, None)
        left_out = []
        vectors = image_vectors(
            captioner.scorer, images, names, None, lambda name, error: left_out.append(name)
        )
        whole = image_vectors(captioner.scorer, images, [names[0], names[2]], None)
    assert left_out == ["broken.jpg"]
    assert torch.allclose(vectors, whole, atol=1e-5)


def test_what_is_watched_is_said_in_figures(captioner, unpaired):
    watched = WatchedPictures(
        captioner.scorer,
        captioner.scorer,
        unpaired.images,
        unpaired.images,
        unpaired.projected,
        [[text, text.lower()] for text in TEXTS[:6]],
    )
    model = captioner.language_model
    figures = watched.evaluate(model, model, 8)
    assert figures["fit"] == figures["watched_fit"]
    assert 0 <= figures["different"] <= 1
    assert figures["bits_per_character"] > 0
    assert figures["words"] > 0


# ---- the recipe ----


@pytest.fixture(scope="module")
def settings(captioner, data, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("adversarial")
    captioner.save_pretrained(folder / "base")
    (folder / "text.txt").write_text("\n".join(TEXTS))
    return {
        "images": [str(data / "images.tar")],
        "text": [str(folder / "text.txt")],
        "validation": str(data / "captions.jsonl"),
        "validation_images": [str(data / "images.tar")],
        "base": str(folder / "base"),
        "watching_scorer": str(folder / "base" / "scorer"),
        "vectors": str(folder / "vectors"),
        "batch_size": 2,
        "samples": 2,
        "discriminator_layers": 1,
        "max_tokens": 20,
        "log_every": 1,
        "max_steps": 4,
        "cpu": True,
    }


def losses(out: Path) -> list[float]:
    rows = map(json.loads, (out / "training" / "log.jsonl").open())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    """A run of four steps."""
    train, out = recipe("train_adversarial"), tmp_path_factory.mktemp("whole")
    train.main(train.Config(**settings, out=str(out)))
    return out


def test_a_captioner_is_tuned_on_pictures_and_text_apart(whole):
    captioner = Captioner.from_pretrained(whole)
    assert captioner.decoding.soft_prompt
    assert captioner.memory is not None
    assert captioner.caption(np.zeros((30, 40, 3), np.uint8))
    rows = [json.loads(line) for line in (whole / "training" / "log.jsonl").open()]
    figures = next(row["validation"] for row in rows if "validation" in row)
    start = json.loads((whole / "training" / "start.json").read_text())
    assert set(figures) == set(start) >= {"score", "cider_d", "watched_fit", "bits_per_character"}
    assert "4 steps of\n2 pictures, seed 1; image_weight 1.0" in (whole / "README.md").read_text()


class Interrupted(Exception):
    pass


def test_a_run_that_was_killed_goes_on_as_if_it_never_had_been(settings, whole, tmp_path, monkeypatch):
    train = recipe("train_adversarial")
    forward, calls = AdversarialTuning.forward, iter(range(2))

    def killed(objective, batch):
        if next(calls, None) is None:
            raise Interrupted
        return forward(objective, batch)

    config = train.Config(**settings, out=str(tmp_path), checkpoint_minutes=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTuning, "forward", killed)
        with pytest.raises(Interrupted):
            train.main(config)
    assert len(losses(tmp_path)) == 2
    train.main(config)
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-6)
    train.main(config)  # what is done is not done again
    assert len(losses(tmp_path)) == 4
    with pytest.raises(BadSettings, match="choose another --out"):
        train.main(replace(config, kl_weight=3.0))


def test_the_recipe_refuses_what_it_cannot_learn_from(settings, tmp_path):
    train = recipe("train_adversarial")
    settings = settings | {"out": str(tmp_path)}
    with pytest.raises(BadSettings, match="nothing to learn from: give one of --image_weight, --aggregate"):
        train.Config(**settings | vars(NOTHING))
    with pytest.raises(BadSettings, match="nothing to learn from"):
        train.Config(**settings | vars(NOTHING) | {"kl_weight": 1.0})
    for name in ("discriminator_layers", "epochs", "validations_per_epoch"):
        with pytest.raises(BadSettings, match=f"--{name} must be a whole number of at least 1, found 0"):
            train.Config(**settings | {name: 0})
    for name in ("learning_rate", "prompt_rate", "discriminator_rate"):
        for rate in (0.0, float("nan"), float("inf")):
            with pytest.raises(BadSettings, match=f"--{name}"):
                train.Config(**settings | {name: rate})
    with pytest.raises(BadSettings, match="--kl_weight must be at least 0, found -1"):
        train.Config(**settings, kl_weight=-1)
    with pytest.raises(BadSettings, match="--samples must be a whole number of at least 2, found 1"):
        train.Config(**settings | {"samples": 1})
    without = tiny.captioner()
    without.save_pretrained(tmp_path / "without")
    with pytest.raises(BadSettings, match=r"found no memory; recipes/tune_prompted\.py makes one"):
        train.main(train.Config(**settings | {"base": str(tmp_path / "without")}))
