"""The captioner's public face: one picture, many, a stream of them; saving and loading; what is refused."""

from __future__ import annotations

import ast
import copy
import io
import json
import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel

from magicap import (
    BadImage,
    BadModel,
    BadSettings,
    Caption,
    Captioner,
    CaptionMemory,
    ImageTextScorer,
    LanguageModel,
    MagicSearch,
    ModelNotFound,
    NearestCaption,
    TopK,
)
from magicap.decoding.settings import DECODINGS
from magicap.settings_io import from_dict, to_dict


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny.captioner(0)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_every_kind_of_picture_gives_the_same_caption(captioner, tmp_path):
    array = tiny.pictures(1)[0]
    path = tmp_path / "a picture.png"
    path.write_bytes(png(array))
    expected = captioner.caption(array)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [
        str(path),
        path,
        png(array),
        io.BytesIO(png(array)),
        Image.fromarray(array),
        tensor,
        array / 255.0,
    ]
    for kind in kinds:
        assert captioner.caption(kind) == expected


def test_a_caption_is_a_string_that_knows_how_it_came_about(captioner):
    caption = captioner.caption(tiny.pictures(1)[0])
    assert isinstance(caption, str)
    assert f"{caption}" == caption == caption.text
    assert type(caption.text) is str
    assert json.loads(json.dumps(caption)) == caption
    assert -1 <= caption.score <= 1
    assert caption.error is None
    for twin in (copy.copy(caption), pickle.loads(pickle.dumps(caption))):
        assert (twin, twin.score, twin.steps) == (caption, caption.score, caption.steps)
    failed = captioner.caption([b""])[0]
    for twin in (copy.deepcopy(failed), pickle.loads(pickle.dumps(failed))):
        assert (twin.error.code, str(twin.error)) == (failed.error.code, str(failed.error))


def test_the_score_is_the_cosine_of_picture_and_caption(captioner):
    pictures = tiny.pictures(3)
    captions = captioner.caption(pictures)
    cosine = captioner.scorer.similarity(pictures, captions).diagonal().tolist()
    assert [caption.score for caption in captions] == pytest.approx(cosine, abs=1e-5)


def test_a_bad_picture_is_an_error_row_and_the_others_are_captioned(captioner):
    good = tiny.pictures(4)
    rows = [good[0], b"", good[1], "no/such/file.jpg", good[2], None, good[3]]
    expected = captioner.caption(good)
    for batch_size in (1, 2, 8):
        captions = captioner.caption(rows, batch_size=batch_size)
        assert [c for c in captions if c.error is None] == expected
        assert [c.error and c.error.code for c in captions] == [
            None,
            "empty",
            None,
            "missing",
            None,
            "type",
            None,
        ]
        assert captions[1] == ""
        assert math.isnan(captions[1].score)


def test_one_bad_picture_alone_is_raised(captioner):
    with pytest.raises(BadImage, match="no/such"):
        captioner.caption("no/such/file.jpg")


def test_nothing_in_nothing_out(captioner):
    assert captioner.caption([]) == []
    assert captioner.caption([b""])[0].error.code == "empty"
    assert list(captioner.caption(iter(()))) == []


def test_an_iterator_is_read_no_further_than_the_next_batch(captioner):
    read = []

    def source():
        for number, picture in enumerate(tiny.pictures(10)):
            read.append(number)
            yield picture

    captions = captioner.caption(source(), batch_size=3)
    assert read == []
    next(captions)
    assert len(read) == 6
    captions.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("magicap-reader")]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_source_that_breaks_loses_nothing_that_came_before(captioner, batch_size):
    pictures = tiny.pictures(5)

    def source():
        yield from pictures
        raise ConnectionError("the camera is gone")

    captions = []
    with pytest.raises(ConnectionError, match="the camera is gone"):
        captions.extend(captioner.caption(source(), batch_size=batch_size))
    assert captions == captioner.caption(pictures)


def test_a_batch_that_memory_cannot_hold_is_captioned_in_halves(captioner, monkeypatch):
    pictures = tiny.pictures(7)
    expected = captioner.caption(pictures)
    sizes, encode = [], captioner.scorer.encode_pixels

    def small_memory(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pixels)

    monkeypatch.setattr(captioner.scorer, "encode_pixels", small_memory)
    assert captioner.caption(pictures, batch_size=7) == expected
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    monkeypatch.setattr(
        captioner.scorer, "encode_pixels", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("none"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        captioner.caption(pictures)


def test_a_saved_captioner_comes_back_the_same(captioner, tmp_path):
    captioner.save_pretrained(tmp_path / "it")
    again = Captioner.from_pretrained(tmp_path / "it")
    pictures = tiny.pictures(4)
    assert again.decoding == captioner.decoding
    assert again.caption(pictures) == captioner.caption(pictures)
    again.save_pretrained(tmp_path / "twice")
    names = sorted(p.relative_to(tmp_path / "it") for p in (tmp_path / "it").rglob("*"))
    assert names == sorted(p.relative_to(tmp_path / "twice") for p in (tmp_path / "twice").rglob("*"))
    assert not [name for name in names if name.suffix in (".bin", ".pt", ".pkl")]


def test_stored_in_half_the_bits_it_takes_half_the_room(captioner, tmp_path):
    captioner.save_pretrained(tmp_path / "whole")
    captioner.save_pretrained(tmp_path / "half", dtype="float16")

    for name in ("language_model/model.safetensors", "scorer/open_clip_model.safetensors"):
        assert (tmp_path / "half" / name).stat().st_size < 0.6 * (tmp_path / "whole" / name).stat().st_size
    half = Captioner.from_pretrained(tmp_path / "half")
    assert half.language_model.model.dtype == torch.float32
    assert len(half.caption(tiny.pictures(1)[0]).steps) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_fewer_bits_it_captions_much_the_same(captioner, tmp_path, dtype):
    captioner.save_pretrained(tmp_path / "it")
    low = Captioner.from_pretrained(tmp_path / "it", dtype=dtype)
    assert low.language_model.model.dtype == getattr(torch, dtype)
    pictures = tiny.pictures(4)
    close = torch.cosine_similarity(
        low.scorer.encode_images(pictures), captioner.scorer.encode_images(pictures)
    )
    assert close.min() > 0.99
    for caption, exact in zip(low.caption(pictures), captioner.caption(pictures), strict=True):
        assert caption.steps[0].model_confidence == pytest.approx(exact.steps[0].model_confidence, abs=0.2)


@pytest.mark.parametrize("name", ["nosuchpreset", "./no/such/folder"])
def test_an_unknown_preset_names_the_known_ones(name):
    with pytest.raises(ModelNotFound, match="embedded, unpaired, cnn-lstm, coco, flickr30k"):
        Captioner.from_pretrained(name)


def test_a_folder_that_is_no_captioner_says_what_is_missing(captioner, tmp_path):
    with pytest.raises(BadModel, match=r"magicap\.json"):
        Captioner.from_pretrained(tmp_path)
    captioner.save_pretrained(tmp_path)
    settings = tmp_path / "magicap.json"
    good = settings.read_text()
    for broken, message in [
        ("{", "settings"),
        ('{"format": 99, "decoding": {}}', "update magicap"),
        ('{"format": 3, "parts": []}', "of format 3, this version reads 1 and 2; update magicap"),
        ('{"format": [2]}', "update magicap"),
        ("[]", "settings"),
        ('{"format": 2, "decoding": {}, "parts": ["scorer"]}', "settings"),
        ('{"format": 2, "decoding": {}, "parts": {"scorer": {"path": "scorer"}}}', "settings"),
        ('{"format": 2, "decoding": {}, "parts": {"scorer": {"path": "../x", "fingerprint": ""}}}', "inside"),
        ('{"format": 2, "decoding": {}}', "names no part language_model"),
        ('{"format": 1, "decoding": ["magic"]}', "decoding as an object"),
        ('{"format": 1, "decoding": {"kind": ["magic"]}}', "kind"),
        ('{"format": 1, "decoding": {"kind": "magic", "top_k": "45"}}', "top_k"),
    ]:
        settings.write_text(broken)
        with pytest.raises((BadModel, BadSettings), match=message):
            Captioner.from_pretrained(tmp_path)
    settings.write_text(good.replace('"top_k"', '"top_kk"'))
    with pytest.raises(BadSettings, match="top_kk"):
        Captioner.from_pretrained(tmp_path)


def test_random_weights_are_refused(captioner, tmp_path):
    captioner.scorer.save_pretrained(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(BadModel, match="weights"):
        ImageTextScorer.from_pretrained(tmp_path)


def test_missing_weights_are_refused(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    weights = tmp_path / "language_model" / "model.safetensors"
    state = load_file(weights)
    del state["transformer.h.0.mlp.c_fc.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"lack transformer\.h\.0\.mlp\.c_fc"):
        Captioner.from_pretrained(tmp_path)


def test_a_model_that_does_not_work_as_gpt2_does_is_refused():
    tokenizer = tiny.word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer) + 2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        is_decoder=True,
    )
    with pytest.raises(BadModel, match="does not work as GPT-2 does"):
        LanguageModel(BertLMHeadModel(config), tokenizer)


def test_each_way_in_which_a_scorer_cannot_be_loaded_has_its_error():
    with pytest.raises(BadModel, match="nosuch"):
        ImageTextScorer.from_pretrained("ViT-B-32", "nosuch")
    with pytest.raises(BadModel, match="NoSuchModel"):
        ImageTextScorer.from_pretrained("NoSuchModel", "openai")
    with pytest.raises(ModelNotFound, match="hf download someone/nothing"):
        ImageTextScorer.from_pretrained("hf-hub:someone/nothing")
    with pytest.raises(ModelNotFound, match="does not exist"):
        ImageTextScorer.from_pretrained("local-dir:no/such/folder")


def test_truncated_weights_are_refused(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadModel):
            Captioner.from_pretrained(tmp_path)
        weights.write_bytes(whole)


@pytest.mark.parametrize("arguments", [{"dtype": "float8"}, {"dtype": torch.int16}])
def test_an_unknown_dtype_is_refused(captioner, tmp_path, arguments):
    captioner.save_pretrained(tmp_path)
    with pytest.raises(BadSettings, match="float32, bfloat16, float16"):
        Captioner.from_pretrained(tmp_path, **arguments)


def test_a_batch_size_of_nothing_is_refused(captioner):
    with pytest.raises(BadSettings, match="batch_size"):
        captioner.caption([], batch_size=0)


def test_a_memory_cannot_be_saved_as_settings(captioner, tmp_path):
    memory = CaptionMemory.from_texts(captioner.scorer, ["a dog", "a cat"])
    with pytest.raises(BadSettings, match="NearestCaption"):
        Captioner(captioner.language_model, captioner.scorer, NearestCaption(memory)).save_pretrained(
            tmp_path
        )
    assert not any(tmp_path.iterdir())


def test_the_nearest_caption_is_looked_for_in_all_of_the_memory(captioner):
    texts = [f"picture number {number} of a long memory" for number in range(300)]
    memory = CaptionMemory.from_texts(captioner.scorer, [*texts, texts[0]])
    assert len(memory) == 300
    pictures = tiny.pictures(5)
    cosine = captioner.scorer.similarity(pictures, texts)
    captions = captioner.caption(pictures, NearestCaption(memory))
    assert captions == [texts[best] for best in cosine.argmax(dim=1).tolist()]
    assert [caption.score for caption in captions] == pytest.approx(
        cosine.max(dim=1).values.tolist(), abs=1e-5
    )
    values, positions = memory.nearest(captioner.scorer.encode_images(pictures), 4)
    assert torch.equal(positions, cosine.sort(dim=1, descending=True, stable=True).indices[:, :4])
    assert values.shape == (5, 4)


def test_an_empty_memory_is_refused(captioner):
    with pytest.raises(BadSettings, match="memory"):
        CaptionMemory.from_texts(captioner.scorer, [])


def test_a_memory_of_another_scorer_is_refused(captioner):
    memory = CaptionMemory(["a dog"], torch.eye(1, 7))
    with pytest.raises(BadSettings, match="width 7"):
        captioner.caption(tiny.pictures(1), NearestCaption(memory))


def test_two_threads_get_what_one_gets(captioner):
    pictures = tiny.pictures(6)
    expected = captioner.caption(pictures)
    results: dict[int, list[Caption]] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: captioner.caption(pictures)}))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == expected


def test_a_tokenizer_without_the_published_tokens_gets_them(caplog):
    model = tiny.language_model(tiny.word_tokenizer())
    assert "untrained" in caplog.text
    assert model.model.get_input_embeddings().weight.shape[0] == len(model.tokenizer)
    ids = [model.start_id, *model.tokenizer("A café, naïve — ☃").input_ids, model.pad_id, model.end_id]
    assert model.text(ids) == "A café, naïve — ☃"


def test_a_language_model_without_an_end_is_refused():
    tokenizer = tiny.word_tokenizer()
    model = tiny.language_model(tokenizer).model
    tokenizer.eos_token = None
    tokenizer.get_vocab = lambda: {"<-start_of_text->": 1, "<-pad->": 2}
    with pytest.raises(BadModel, match="end token"):
        LanguageModel(model, tokenizer)


def test_importing_magicap_loads_no_torch():
    program = (
        "import sys, magicap; from magicap import MagicSearch, Hypothesis, BadImage; import magicap.cli; "
        "assert 'caption' in dir(magicap); "
        "heavy = {'torch', 'transformers', 'open_clip', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_that_do_not_exist_are_attribute_errors():
    import magicap

    with pytest.raises(AttributeError, match="nosuch"):
        magicap.nosuch  # noqa: B018
    assert callable(magicap.caption)


def test_every_public_name_of_the_stub_is_there():
    """``__init__.pyi`` is the one list: what type checkers read is what can be imported."""
    import magicap

    stub = ast.parse(Path(magicap.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    names = [alias for statement in imports for alias in statement.names]
    assert all(alias.asname == alias.name for alias in names)  # or it is not public to a type checker
    assert sorted(alias.name for alias in names) == magicap.__all__
    assert {"Captioner", "DecodingContext", "Hypothesis", "caption"} <= {*magicap.__all__} <= {*dir(magicap)}
    for name in magicap.__all__:
        assert getattr(magicap, name).__name__ == name
    assert magicap.__version__


def test_settings_survive_as_json():
    for decoding in (MagicSearch(3, 0.5, 1.5, 7), TopK(9, 0.7, 5)):
        assert from_dict(json.loads(json.dumps(to_dict(decoding, DECODINGS))), DECODINGS) == decoding
    with pytest.raises(BadSettings, match="magic, beam-magic, contrastive"):
        from_dict({"kind": "beam"}, DECODINGS)
