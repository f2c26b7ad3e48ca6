"""The supervised captioner behind its public face, and its vocabulary."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import magicap
from magicap import BadImage, BadModel, BadSettings, BeamSearch, Captioner, Greedy, ModelNotFound, Sampling
from magicap.captioners.supervised import SupervisedCaptioner
from magicap.models.fingerprint import fingerprint
from magicap.supervised.decoder import DecoderConfig
from magicap.supervised.network import DECODERS, CaptionNetwork
from magicap.supervised.vocabulary import (
    END,
    PAD,
    SPECIALS,
    START,
    UNKNOWN,
    Vocabulary,
    caption_words,
)

KINDS = sorted(DECODERS)
FIRST_NAMES = {
    "none": ["picture", "words", "cell", "output"],
    "soft": (
        "annotate initial words place query energy selector cell told_by_state told_by_context output".split()
    ),
    "transformer": ["positions", "annotate", "words", "blocks", "norm", "output"],
}
FIRST_NAMES["hard"] = ["baseline", *FIRST_NAMES["soft"]]
FIRST_BLOCK_NAMES = ["norms", "own", "own_out", "query", "look", "look_out", "think"]


def lively(kind: str = "soft", seed: int = 0) -> SupervisedCaptioner:
    """A tiny captioner whose captions of different pictures differ."""
    captioner = tiny.supervised(kind, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in captioner.network.decoder.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn_like(parameter) * 2 / parameter.shape[-1] ** 0.5)
        encoder, decoder = captioner.network.encoder, captioner.network.decoder
        grid = encoder(torch.stack([encoder.pixels(picture) for picture in tiny.pictures(8)])).flatten(0, 1)
        reads = decoder.image_projection if kind == "none" else decoder.project[0]
        reads.weight.div_(grid.std(dim=0).mean())
        reads.bias.copy_(-reads.weight @ grid.mean(dim=0))
    return captioner


def ids(caption) -> list[int]:
    return [step.token_id for step in caption.steps]


# ---- captioning ----


@pytest.mark.parametrize("kind", KINDS)
def test_batches_lists_and_streams_give_each_picture_what_it_gets_alone(kind):
    captioner, pictures = lively(kind), tiny.pictures(7)
    alone = [captioner.caption(picture) for picture in pictures]
    assert len(set(alone)) > 1
    for batch_size in (1, 3, 8):
        together = captioner.caption(pictures, batch_size=batch_size)
        assert [ids(caption) for caption in together] == [ids(caption) for caption in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
    stream = captioner.caption(iter(pictures), batch_size=2)
    assert isinstance(stream, Iterator)
    assert list(stream) == alone
    assert captioner.caption([]) == []
    with pytest.raises(BadSettings, match="batch_size must be a whole number of at least 1, found 0"):
        captioner.caption(pictures, batch_size=0)


def test_a_stream_reads_no_further_than_the_next_batch():
    read = []
    stream = lively().caption((read.append(1) or picture for picture in tiny.pictures(6)), batch_size=2)
    assert not read
    next(stream)
    assert len(read) == 4


def test_bad_pictures_become_rows_with_errors_and_the_rest_go_on():
    captioner, (one, two, three) = lively(), tiny.pictures(3)
    broken = b"<html>404</html>"
    for batch_size in (1, 2, 8):
        found = captioner.caption([broken, one, two, broken, broken, three], batch_size=batch_size)
        assert [not caption.steps for caption in found] == [True, False, False, True, True, False]
        assert (found[0], found[0].steps) == ("", ())
        assert isinstance(found[0].error, BadImage)
        assert [found[1], found[2], found[5]] == captioner.caption([one, two, three])
    with pytest.raises(BadImage):
        captioner.caption(broken)


def test_samples_follow_from_seed_and_place():
    captioner, pictures = lively(), tiny.pictures(5)
    decoding = Sampling(captions=2, temperature=1.5, max_new_tokens=6)
    together = captioner.caption(pictures, decoding, seed=7, batch_size=2)
    assert together == [
        captioner.caption(picture, decoding, seed=7 + i) for i, picture in enumerate(pictures)
    ]
    mixed = captioner.caption([pictures[0], b"broken", *pictures[2:]], decoding, seed=7, batch_size=3)
    assert [mixed[0], *mixed[2:]] == [together[0], *together[2:]]
    assert captioner.caption(pictures, decoding, seed=99) != together


@pytest.mark.parametrize("kind", KINDS)
def test_steps_tell_the_caption_and_its_score(kind):
    captioner = lively(kind, 1)
    for decoding in (None, Sampling(3, max_new_tokens=6), BeamSearch(3, 1.0, 2)):
        for caption in captioner.caption(tiny.pictures(5), decoding):
            assert caption.text == caption.steps[-1].text
            assert "".join(step.token for step in caption.steps) == caption
            assert caption.text == captioner.network.vocabulary.text(ids(caption))
            log_p = [np.log(step.model_confidence) for step in caption.steps]
            assert caption.score == pytest.approx(np.mean(log_p), abs=1e-4)
            assert all(step.score == step.model_confidence for step in caption.steps)
            assert [step.last for step in caption.steps] == [step.token_id == END for step in caption.steps]
            assert caption.finished == (ids(caption)[-1] == END)
            assert caption.text.endswith(".") == (caption.finished and len(caption.steps) > 1)


def test_decodings_of_the_other_kind_are_refused():
    with pytest.raises(BadSettings, match="expected BeamSearch or Sampling, found Greedy"):
        lively().caption(tiny.pictures(1)[0], Greedy())
    with pytest.raises(BadSettings):
        tiny.captioner().caption(tiny.pictures(1)[0], BeamSearch())


def test_captions_longer_than_a_transformer_can_write_are_refused_and_lstms_write_them():
    picture, longer = tiny.pictures(1)[0], BeamSearch(2, 1.0, 20)
    for kind in KINDS:
        captioner = lively(kind)
        with torch.no_grad():
            captioner.network.decoder.output.bias[END] = -1e9
        if kind == "transformer":
            with pytest.raises(BadSettings, match="max_new_tokens must be at most 7"):
                captioner.caption(picture, longer)
        else:
            assert len(captioner.caption(picture, longer).steps) == 20


# ---- on disk ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_captioner_captions_as_before(kind, tmp_path):
    captioner, pictures = lively(kind), tiny.pictures(4)
    captioner.decoding = BeamSearch(3, 0.5, 5)
    captioner.save_pretrained(tmp_path)
    found = SupervisedCaptioner.from_pretrained(tmp_path, device="cpu")
    assert found.decoding == captioner.decoding
    assert found.fingerprint == captioner.fingerprint
    expected = captioner.caption(pictures)
    assert found.caption(pictures) == expected
    assert [each.steps for each in found.caption(pictures)] == [each.steps for each in expected]
    assert found.network.vocabulary.entries == captioner.network.vocabulary.entries
    assert found.network.encoder.config == captioner.network.encoder.config
    assert not found.network.training


def test_half_precision_on_disk_takes_half_the_room_and_says_the_same(tmp_path):
    captioner, pictures = lively("hard"), tiny.pictures(4)
    captioner.decoding = Sampling(2, 0.5, max_new_tokens=6)
    captioner.save_pretrained(tmp_path / "whole")
    captioner.save_pretrained(tmp_path / "half", dtype="float16")
    whole, half = ((tmp_path / name / "network.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    found = SupervisedCaptioner.from_pretrained(tmp_path / "half", device="cpu")
    assert found.network.decoder.words.weight.dtype == torch.float32
    assert found.caption(pictures) == captioner.caption(pictures)
    assert found.fingerprint != captioner.fingerprint  # the weights are not the same
    computed = SupervisedCaptioner.from_pretrained(tmp_path / "half", device="cpu", dtype="bfloat16")
    assert next(computed.network.parameters()).dtype == torch.bfloat16
    assert all(caption.steps for caption in computed.caption(pictures))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_keep_the_names_they_were_first_saved_under(kind, tmp_path):
    """Attributes have been renamed since; files, fingerprints and the order of weights have not changed."""
    network = tiny.supervised(kind).network
    decoder = [name.removeprefix("decoder.") for name in network.state_dict() if name.startswith("decoder.")]
    assert list(dict.fromkeys(name.split(".")[0] for name in decoder)) == FIRST_NAMES[kind]
    if kind == "transformer":
        block = [name.removeprefix("blocks.0.") for name in decoder if name.startswith("blocks.0.")]
        assert list(dict.fromkeys(name.split(".")[0] for name in block)) == FIRST_BLOCK_NAMES
    network.save_pretrained(tmp_path)
    with safe_open(tmp_path / "network.safetensors", "pt") as file:
        assert set(file.keys()) == set(network.state_dict())
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    copied.load_state_dict(network.state_dict())
    assert fingerprint(copied) == fingerprint(network)
    assert list(copied.state_dict()) == list(network.state_dict())
    weights = dict(network.state_dict())
    weights["decoder.nosuch.weight"] = weights.pop("decoder.output.weight")
    with pytest.raises(
        RuntimeError, match=r"Missing key.*output\.weight[\s\S]*Unexpected key.*nosuch\.weight"
    ):
        copied.load_state_dict(weights)


def test_the_shipped_weights_load_under_the_fingerprint_they_had():
    assert SupervisedCaptioner.from_pretrained(device="cpu").fingerprint == "36c5fe248178"


def test_the_fingerprint_changes_with_any_weight():
    captioner, other = lively(), lively()
    with torch.no_grad():
        other.network.encoder.network.conv_stem.weight[0, 0, 0, 0] += 1e-3
    assert captioner.fingerprint == lively().fingerprint != other.fingerprint


def test_either_kind_is_loaded_by_its_name(preset, supervised, tmp_path):
    assert isinstance(magicap.load_captioner(preset), Captioner)
    found = magicap.load_captioner(supervised, device="cpu", dtype="bfloat16")
    assert isinstance(found, SupervisedCaptioner)
    assert next(found.network.parameters()).dtype == torch.bfloat16
    picture = tiny.pictures(1)[0]
    expected = SupervisedCaptioner.from_pretrained(supervised).caption(picture)
    assert magicap.caption(picture, preset=supervised) == expected
    assert magicap.caption([picture, b"broken"], Path(supervised)) == [expected, ""]
    with pytest.raises(ModelNotFound, match="nosuch"):
        magicap.load_captioner(tmp_path / "nosuch")


def test_a_folder_of_an_older_version_is_zero_shot(preset, tmp_path):
    settings_file = Path(preset) / "magicap.json"
    older = json.loads(settings_file.read_text())
    assert older.pop("kind") == "zero-shot"
    for file in Path(preset).iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "magicap.json").unlink()
    (tmp_path / "magicap.json").write_text(json.dumps(older))
    picture = tiny.pictures(1)[0]
    found = magicap.load_captioner(tmp_path)
    assert isinstance(found, Captioner)
    assert found.caption(picture) == Captioner.from_pretrained(preset).caption(picture)


def test_the_other_kinds_loader_is_named(preset, supervised):
    with pytest.raises(BadModel, match=r"which is supervised; load it with SupervisedCaptioner\.from_pretr"):
        Captioner.from_pretrained(supervised)
    with pytest.raises(BadModel, match=r"which is zero-shot; load it with Captioner\.from_pretrained"):
        SupervisedCaptioner.from_pretrained(preset)


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("magicap.json", None, BadModel),
        ("magicap.json", "{", BadModel),
        ("magicap.json", '{"format": 3, "kind": "supervised", "decoding": {}}', BadModel),
        (
            "magicap.json",
            '{"format": 1, "kind": "supervised", "decoding": {"kind": "greedy"}}',
            BadSettings,
        ),
        ("network.json", None, BadModel),
        ("network.json", "{}", BadModel),
        ("network.json", '{"encoder": {"nosuch": 1}, "decoder": {}}', BadModel),
        ("network.safetensors", None, BadModel),
        ("network.safetensors", "damaged", BadModel),
        ("vocabulary.txt", None, BadModel),
        ("vocabulary.txt", "a\ndog\n", BadModel),
        ("vocabulary.txt", "".join(f"{word}\n" for word in [*SPECIALS, "dog"]), BadModel),
    ],
)
def test_damaged_folders_are_told(tmp_path, file, content, error):
    tiny.supervised().save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(error):
        SupervisedCaptioner.from_pretrained(tmp_path)


def test_decoders_of_no_known_kind_are_refused():
    network = tiny.supervised().network
    with pytest.raises(BadSettings, match=r"none, soft, hard, transformer, found 'gru'"):
        CaptionNetwork(network.encoder.config, DecoderConfig("gru"), network.vocabulary)


# ---- vocabulary ----

TEXTS = ["A dog runs.", "A dog, a cat!", "the cat's DOG"]


def test_words_are_counted_as_cider_counts_them():
    assert Vocabulary.of(TEXTS, 1).entries == [*SPECIALS, "a", "dog", "cat", "'s", "runs", "the"]
    assert Vocabulary.of(TEXTS, 2).entries == [*SPECIALS, "a", "dog", "cat"]
    assert len(Vocabulary.of(TEXTS, 3)) == 6
    with pytest.raises(BadSettings, match="no word stands 4 times or more"):
        Vocabulary.of(TEXTS, 4)
    for empty in ([], [""], ["..."]):
        with pytest.raises(BadSettings, match="no word stands"):
            Vocabulary.of(empty, 1)


def test_numbers_to_words_and_back():
    vocabulary = Vocabulary.of(TEXTS, 1)
    numbers = vocabulary.ids(caption_words("A bird, a dog"))
    assert numbers == [4, UNKNOWN, 4, 5]
    assert vocabulary.words([START, *numbers, END, PAD]) == ["a", "a", "dog"]
    cat = vocabulary.ids(caption_words("the cat's dog runs"))
    assert vocabulary.text([*cat, END]) == "The cat's dog runs."
    assert vocabulary.text(cat) == "The cat's dog runs"
    assert vocabulary.text([END]) == vocabulary.text([]) == ""


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6))
@settings(max_examples=30)
def test_what_is_saved_is_loaded(tmp_path_factory, texts):
    try:
        vocabulary = Vocabulary.of(texts, 1)
    except BadSettings:
        return
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.txt"
    vocabulary.save(path)
    assert Vocabulary.load(path).entries == vocabulary.entries
    for text in texts:
        words = caption_words(text)
        assert vocabulary.words(vocabulary.ids(words)) == words


@pytest.mark.parametrize("content", ["", "a\nb\n", "\n".join([*SPECIALS, "a", "a", ""]), b"\xff\xfe\n"])
def test_what_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadModel, match="vocabulary"):
        Vocabulary.load(path)
    with pytest.raises(BadModel, match="nosuch"):
        Vocabulary.load(tmp_path / "nosuch")


def test_batches_are_padded():
    vocabulary = Vocabulary.of(TEXTS, 1)
    batch = vocabulary.batch(["a dog", "the cat", "a dog a cat runs", ""], [0, 0, 1, 2], max_words=4)
    assert batch.tolist() == [
        [[START, 4, 5, END, PAD], [START, 9, 6, END, PAD]],
        [[START, 4, 5, 4, 6], [PAD] * 5],
        [[START, END, PAD, PAD, PAD], [PAD] * 5],
    ]
    assert vocabulary.batch(["a dog"], [0], max_words=2).tolist() == [[[START, 4, 5, END]]]
