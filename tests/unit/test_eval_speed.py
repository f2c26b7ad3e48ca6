"""eval/speed.py and what lies beside it: how speeds are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from repository import script
from transformers import BlipConfig, GPT2Config, ViTConfig

from magicap import BeamMagicSearch, Captioner, CaptionMemory, MagicSearch
from magicap.errors import BadSettings

MAGIC = MagicSearch(8, 0.2, 1.0, 8)

CHECKOUT = '''"""Stands for a checkout: all that a worker asks of the package."""

import json


class Captioner:
    fingerprint = {fingerprint!r}

    def __init__(self):
        self.{cache} = self
        self.cleared = 0

    @classmethod
    def from_pretrained(cls, device):
        return cls()

    def clear(self):
        self.cleared += 1

    def caption(self, pictures, batch_size=None):
        print("this is no answer")
        if isinstance(pictures, bytes):
            return "one of " + pictures.decode()
        return ["{word} of " + picture.decode() + {end!r} for picture in pictures]
'''


def checkout(folder: Path, **differing: str) -> Path:
    (folder / "magicap").mkdir(parents=True)
    text = CHECKOUT.format(
        **{"fingerprint": "abc", "cache": "cache", "word": "some", "end": ".", **differing}
    )
    (folder / "magicap" / "__init__.py").write_text(text)
    return folder


def test_two_checkouts_caption_the_same_pictures_in_turn(tmp_path, capsys):
    roots = {
        "ours": checkout(tmp_path / "a"),
        "theirs": checkout(tmp_path / "b", cache="trie", word="some few"),
    }
    checkouts = script("speed_checkouts")
    found = checkouts.compare_checkouts(roots, [b"one", b"two"], [1, 2], rounds=3, threads=1)
    assert {side for side, _ in found} == {"ours", "theirs"}
    assert found["ours", 1].captions == found["theirs", 1].captions == ["one of one", "one of two"]
    assert found["theirs", 2].captions == ["some few of one.", "some few of two."]
    assert all(len(each.seconds.wall) == len(each.seconds.cpu) == 3 for each in found.values())
    assert all(1e7 < each.peak_bytes < 1e10 for each in found.values())
    checkouts.print_checkouts(found)
    out = capsys.readouterr().out
    assert "2 of 2 (100.0%)" in out
    assert "0 of 2 (0.0%)" in out
    assert "theirs: peak resident memory" in out
    assert "different models" not in out


def test_what_is_no_checkout_is_refused(tmp_path):
    checkouts = script("speed_checkouts")
    with pytest.raises(BadSettings, match="expected a checkout"):
        checkouts.Checkout(tmp_path, tmp_path, 1)


@pytest.mark.slow
def test_checkouts_of_other_weights_are_told_apart(tmp_path, capsys):
    roots = {"ours": checkout(tmp_path / "a"), "theirs": checkout(tmp_path / "b", fingerprint="def")}
    script("speed_checkouts").compare_checkouts(roots, [b"one"], [1], rounds=1, threads=1)
    assert "different models or memories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loads", "quiet", "slept"), [([0.1], True, 0), ([0.9, 0.5, 0.2], True, 2), ([0.9] * 9, False, 3)]
)
def test_a_machine_that_is_not_quiet_is_waited_for_and_named(loads, quiet, slept, monkeypatch, capsys):
    protocol = script("speed_protocol")
    clock = [0.0]
    load = iter([loads[0], *loads])
    monkeypatch.setattr(protocol.os, "getloadavg", lambda: (next(load), 1.0, 1.0))
    monkeypatch.setattr(protocol.time, "monotonic", lambda: clock[0])
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(protocol.time, "sleep", sleep)
    assert protocol.require_quiet(12.0) is quiet
    out = capsys.readouterr().out
    assert out.startswith(f"load average {loads[0]:.2f} 1.00 1.00")
    assert ("NOT QUIET" in out) is not quiet
    assert len(pauses) == slept


def test_systems_take_turns_and_who_was_first_is_last_next():
    order: list[str] = []
    protocol = script("speed_protocol")
    protocol.in_turns({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"


def test_seconds_are_medians_of_rounds():
    seconds = script("speed_protocol").Seconds()
    for wall in (4.0, 8.0, 6.0):
        seconds.add(wall, 2 * wall, 2)
    assert (seconds.median, seconds.median_cpu) == (3.0, 6.0)
    assert seconds.spread == pytest.approx(2 / 3)


def remembering(seed: int = 0) -> Captioner:
    """A tiny captioner with a memory and a soft prompt, which can do what the embedded one does."""
    one = tiny.with_soft_prompt(seed)
    memory = CaptionMemory.from_texts(one.scorer, tiny.SENTENCES)
    decoding = BeamMagicSearch(8, beam_size=3, soft_prompt=True, rerank_weight=1.0, max_new_tokens=6)
    return Captioner(one.language_model, one.scorer, decoding, memory)


@pytest.fixture
def album(tmp_path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(tiny.pictures(3)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("to_context", [False, True])
@pytest.mark.parametrize("custom_text", [False, True])
def test_the_published_loop_writes_what_magic_search_writes(custom_text, to_context):
    published, shapes, ended = script("speed_published"), script("speed_shapes"), 0
    for seed in range(4):
        captioner = tiny.captioner(seed, custom_text=custom_text)
        models, end_id = (captioner.language_model, captioner.scorer), captioner.language_model.end_id
        shapes.never_end(captioner.language_model.model, end_id)
        head = captioner.language_model.model.get_output_embeddings()
        head.bias.data[end_id] = 4.0  # so that some captions end early
        for picture in tiny.pictures(2, seed):
            ids = [step.token_id for step in captioner.caption(picture, MAGIC).steps]
            pixels = captioner.scorer.pixels(picture)
            loop = published.published_magic_search(*models, pixels, MAGIC, to_context=to_context)
            assert len(loop) == 8  # also where the end token was chosen before
            assert published.up_to_end(loop, end_id) == published.up_to_end(ids, end_id)
            ended += len(ids) < 8
    assert ended


def test_padding_to_the_longest_text_changes_no_vector():
    scorer = tiny.scorer()
    texts = ["", "a", "Two children play on a beach, near the sea."]
    encode_padded = script("speed_published").encode_padded
    vectors = [encode_padded(scorer, texts, to_context=way) for way in (False, True)]
    torch.testing.assert_close(*vectors)
    torch.testing.assert_close(vectors[0], scorer.encode_texts(texts))


def test_rivals_write_as_many_tokens_as_they_are_told():
    rivals = script("speed_rivals")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    side = {"image_size": 32, "patch_size": 16}
    special = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2}
    text = {**size, **special, "sep_token_id": 3, "encoder_hidden_size": 16}
    blip_config = BlipConfig(text_config=text, vision_config={**size, **side})
    decoder = GPT2Config(n_embd=16, n_layer=1, n_head=2, **special)
    systems = [
        rivals.blip(5, blip_config),
        rivals.vit_gpt2(5, ViTConfig(**size, **side), decoder),
        rivals.clipcap(5, tiny.captioner(), 1),
        rivals.clipcap(5, tiny.captioner(), 5),
    ]
    for transform, generate in systems:
        assert transform.size == (32, 32)
        with torch.inference_mode():
            assert generate(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 5)


def test_random_weights_never_end_a_caption_and_are_as_confident_as_trained_ones():
    shapes = script("speed_shapes")
    tokenizer = tiny.word_tokenizer()
    language_model, scorer = tiny.language_model(tokenizer), tiny.scorer()
    shapes.never_end(language_model.model, language_model.end_id)
    shapes.make_confident(language_model, scorer, 8)
    probabilities = language_model.probabilities(language_model.start().last)[0]
    assert probabilities.max() >= shapes.CONFIDENCE
    assert probabilities[language_model.end_id] == 0
    captions = Captioner(language_model, scorer).caption(tiny.pictures(4), MAGIC)
    assert [len(caption.steps) for caption in captions] == [8] * 4


def test_a_random_memory_holds_the_embedded_captions_with_other_vectors():
    captioner = script("speed_shapes").with_random_memory(tiny.with_soft_prompt(), 50, 7)
    assert len(captioner.memory) == 50
    assert captioner.decoding.max_new_tokens == 7
    assert isinstance(captioner.decoding, BeamMagicSearch)


@pytest.mark.slow
def test_systems_are_measured_in_turn(album):
    systems, captioner = script("speed_systems"), remembering()
    names = ["beam-magic", "greedy", "magic", "published", "clipcap"]
    made = systems.systems_of(names, captioner, MAGIC, 4)
    pictures = [path.read_bytes() for path in sorted(album.iterdir())]
    measurements = systems.measure(made, captioner, pictures, [1, 2], 2)
    batched = [name for name in names if name != "published"]  # which captions one picture at a time
    assert list(measurements) == [*((name, 1) for name in names), *((name, 2) for name in batched)]
    assert all(len(one.seconds.wall) == 2 and one.operations > 0 for one in measurements.values())
    assert all(len(one.ids) == 3 for one in measurements.values())
    assert systems.require_same_captions(measurements, captioner.language_model.end_id)
    systems.require_lengths(measurements, ["clipcap"], 4)
    with pytest.raises(SystemExit, match="other lengths"):
        systems.require_lengths(measurements, ["clipcap"], 5)
    measurements["published", 1].ids[0] = [1, 2, 3]
    with pytest.raises(SystemExit, match="other captions"):
        systems.require_same_captions(measurements, captioner.language_model.end_id)


@pytest.mark.slow
def test_the_script_prints_a_table_for_each_size_of_batches(album, tmp_path, capsys):
    speed = script("speed")
    remembering().save_pretrained(tmp_path / "captioner")
    options = {"images": [str(album)], "shape": str(tmp_path / "captioner"), "rounds": 1, "batch_size": 2}
    speed.main(speed.Config(**options, top_k=8, magic_tokens=5, threads=torch.get_num_threads()))
    out = capsys.readouterr().out
    assert out.startswith("3 pictures, 1 rounds")
    assert "load average" in out
    assert "one picture at a time" in out
    assert "2 pictures together" in out
    assert out.count("beam magic search") == 2
    assert out.count("as published") == 1
    assert "the published loop writes the captions of magic search" in out
    for more in ({"baseline": "published"}, {"systems": ["magic"]}, {"systems": ["beam-magic", "zebra"]}):
        with pytest.raises(BadSettings):
            speed.main(speed.Config(**options, **more))
