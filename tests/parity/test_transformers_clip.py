"""A CLIPModel of transformers as a scorer: its vectors are those of transformers itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tiny
import torch
import torch.nn.functional as F
from clip_folder import tiny_clip, write_clip
from hub import stand_in_hub
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from magicap import BadModel, Captioner, ImageTextScorer

TEXTS = [*tiny.SENTENCES, "", "two  dogs,\nrunning!", "a dog " * 60, "café 狗"]


def _pictures(side: int) -> list[Image.Image]:
    """Random pictures, one of them no square."""
    first, second = tiny.pictures(2)
    return [Image.fromarray(first).resize((side, side)), Image.fromarray(second).resize((2 * side, side))]


@torch.inference_mode()
def _assert_same_vectors(scorer: ImageTextScorer, model: CLIPModel, folder) -> None:
    """Hold vectors of pictures and texts against transformers' own, of its own preprocessing."""
    pictures = _pictures(model.config.vision_config.image_size)
    pixels = CLIPImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt")
    expected = F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
    assert (scorer.encode_images(pictures) - expected).abs().max() <= 1e-5
    assert (expected[0] - expected[1]).abs().max() > 0.05
    words = CLIPTokenizer.from_pretrained(folder)(
        TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    expected = F.normalize(model.get_text_features(**words).pooler_output, dim=-1)
    assert scorer.text_tower is not None
    assert (scorer.encode_texts(TEXTS) - expected).abs().max() <= 1e-5
    assert (expected[0] - expected[1]).abs().max() > 0.05
    assert scorer.logit_scale == pytest.approx(float(model.logit_scale.exp()))


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        pytest.param({}, {"eos_token_id": 2}, id="as OpenAI's"),
        pytest.param(
            {"hidden_act": "gelu"},
            {"hidden_act": "gelu", "eos_token_id": 49407},
            id="gelu, the end token by its id",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"layer_norm_eps": 1e-3}, {"layer_norm_eps": 1e-4}, id="other epsilons", marks=pytest.mark.slow
        ),
    ],
)
def test_vectors_are_those_of_transformers(vision, text, tmp_path):
    model = tiny_clip(vision=vision, text=text)
    folder = write_clip(model, tmp_path / "clip")
    scorer = ImageTextScorer.from_pretrained(folder)
    _assert_same_vectors(scorer, model, folder)
    scorer.save_pretrained(tmp_path / "saved")
    again = ImageTextScorer.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == scorer.fingerprint
    _assert_same_vectors(again, model, folder)


def test_weights_may_be_a_pickle_without_code_and_pictures_squashed(tmp_path):
    model = tiny_clip()
    folder = write_clip(model, tmp_path, size={"height": 32, "width": 32}, do_center_crop=False, resample=2)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    scorer = ImageTextScorer.from_pretrained(folder)
    assert (scorer.transform.mode, scorer.transform.interpolation) == ("squash", "bilinear")
    _assert_same_vectors(scorer, model, folder)


def test_a_picture_is_captioned_with_it(tmp_path):
    write_clip(tiny_clip(), tmp_path / "clip")
    tiny.captioner().language_model.save_pretrained(tmp_path / "words")
    captioner = Captioner.from_parts(tmp_path / "words", tmp_path / "clip", memory=0)
    picture = tiny.pictures(1)[0]
    caption = captioner.caption(picture)
    assert caption.error is None
    assert caption.score == pytest.approx(captioner.scorer.similarity([picture], [caption]).item(), abs=1e-4)


@pytest.mark.slow
def test_a_repository_is_fetched_by_its_name(tmp_path):
    folder = write_clip(tiny_clip(), tmp_path / "hub" / "openai" / "tiny-clip")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSF"))}
    program = (
        "from magicap import ImageTextScorer\n"
        "print(ImageTextScorer.from_pretrained('openai/tiny-clip').fingerprint)"
    )
    with stand_in_hub(tmp_path / "hub") as (address, served):
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
    assert done.stdout.strip() == ImageTextScorer.from_pretrained(folder).fingerprint, done.stderr
    assert "openai/tiny-clip/model.safetensors" in served


@pytest.mark.parametrize(
    ("model", "preprocessing", "said"),
    [
        ({"vision": {"hidden_act": "gelu"}}, {}, "found gelu in the image tower and quick_gelu"),
        ({}, {"crop_size": 24}, "square of 32 pixels"),
        ({}, {"resample": 0}, "bicubic or bilinear"),
    ],
)
def test_what_open_clip_cannot_compute_is_refused(model, preprocessing, said, tmp_path):
    folder = write_clip(tiny_clip(**model), tmp_path, **preprocessing)
    with pytest.raises(BadModel, match=said):
        ImageTextScorer.from_pretrained(folder)


def test_another_kind_of_model_is_refused_by_its_name(tmp_path):
    tiny.captioner().language_model.save_pretrained(tmp_path)
    with pytest.raises(BadModel, match=r"expected a CLIPModel.*'gpt2'"):
        ImageTextScorer.from_pretrained(tmp_path)


@pytest.mark.slow
def test_vectors_of_the_shape_of_vit_b_32_are_those_of_transformers(tmp_path):
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    folder = write_clip(model, tmp_path)
    _assert_same_vectors(ImageTextScorer.from_pretrained(folder), model, folder)
