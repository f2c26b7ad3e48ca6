"""Words in the picture: drawn signs are read, steer captions, are said at their end; and the commands."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
from command import magicap
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from magicap import (
    BadImage,
    BadSettings,
    BeamMagicSearch,
    Captioner,
    CaptionMemory,
    MagicSearch,
    MissingPackage,
    OcrSettings,
    TextLine,
    caption_with_text,
    read_text,
)
from magicap.captioners.provenance import decoding_text
from magicap.cli import main
from magicap.decoding.settings import DECODINGS
from magicap.ocr.saying import joined_lines, say_text, words_to_prefer
from magicap.settings_io import from_dict, to_dict

pytest.importorskip("rapidocr", reason="the extra ocr is not installed")

MEMORY = [
    "A dog runs across the grass.",
    "A dog runs on a beach.",
    "A stop sign.",
    "Stop the dog.",
    "A man in a red shirt.",
    "A man in a red car.",
]
BOX = (60, 40, 240, 100)


def sign(text: str = "STOP AHEAD", size: tuple[int, int] = (256, 224), scale: int = 1) -> Image.Image:
    """A red sign in front of grass."""
    picture = Image.new("RGB", (size[0] * scale, size[1] * scale), (120, 150, 90))
    pen = ImageDraw.Draw(picture)
    box = [scale * side for side in BOX]
    pen.rectangle(box, fill=(190, 0, 0))
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    pen.text(middle, text, fill="white", font=ImageFont.load_default(26 * scale), anchor="mm")
    return picture


def line(text: str, left: float, top: float, width: float = 100, height: float = 20) -> TextLine:
    right, bottom = left + width, top + height
    return TextLine(text, ((left, top), (right, top), (right, bottom), (left, bottom)), 0.99)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    made = tiny.captioner(0)
    memory = CaptionMemory.from_texts(made.scorer, MEMORY)
    search = BeamMagicSearch(top_k=6, beam_size=3, num_finished=4, max_new_tokens=20, prefer_weight=30.0)
    return Captioner(made.language_model, made.scorer, search, memory)


@pytest.fixture(scope="module")
def stop_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("ocr") / "stop.png"
    sign().save(path)
    return str(path)


# ---- reading ----


def test_a_sign_is_read_where_it_stands_and_quietly(capfd):
    (line,) = read_text(sign())
    assert line.text == "STOP AHEAD"
    assert line.confidence > 0.9
    left, top, right, bottom = line.bounds
    assert BOX[0] < left < right < BOX[2]
    assert BOX[1] < top < bottom < BOX[3]
    assert read_text(sign()) == [line]
    assert capfd.readouterr() == ("", "")


def test_boxes_are_in_pixels_of_a_large_picture_turned_upright():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    sign(scale=4).rotate(90, expand=True).save(file, "JPEG", exif=exif, quality=90)
    (line,) = read_text(file.getvalue(), OcrSettings(max_side=640))
    assert line.text == "STOP AHEAD"
    assert np.all(np.array(line.bounds) > 4 * np.array([*BOX[:2], *BOX[:2]]))
    assert np.all(np.array(line.bounds) < 4 * np.array([*BOX[2:], *BOX[2:]]))


def test_what_is_short_or_unsure_is_left_out():
    picture = sign("STOP A")
    assert [line.text for line in read_text(picture)] == ["STOP A"]
    assert read_text(picture, OcrSettings(min_characters=6)) == []
    assert read_text(picture, OcrSettings(min_confidence=1.0)) == []


@pytest.mark.parametrize("size", [(1, 1), (64, 48)])
def test_a_picture_without_text_has_no_lines(size):
    assert read_text(Image.new("RGB", size, (120, 130, 140))) == []


def test_settings_out_of_range_are_refused():
    for wrong in ({"min_confidence": 1.5}, {"min_characters": 0}, {"max_side": 10}, {"max_side": 10**5}):
        with pytest.raises(BadSettings, match=next(iter(wrong))):
            OcrSettings(**wrong)


# ---- saying ----


@pytest.mark.parametrize(
    ("caption", "lines", "expected"),
    [
        ("A dog.", [], "A dog."),
        ("A dog.", [line("OPEN", 0, 0)], 'A dog, with text that says "OPEN".'),
        ("A dog by a sign.", [line("OPEN", 0, 0)], 'A dog by a sign that says "OPEN".'),
        ("An open door", [line("OPEN", 0, 0)], "An open door"),
        ("A dog", [line("STOP", 0, 0), line("AHEAD", 10, 25)], 'A dog, with text that says "STOP AHEAD".'),
        ("A dog", [line("BAR", 0, 0), line("GYM", 300, 0)], 'A dog, with text that says "BAR" and "GYM".'),
        ("A dog", [line("BAR", 0, 0), line("GYM", 0, 200)], 'A dog, with text that says "BAR" and "GYM".'),
        ("A bar.", [line("BAR", 0, 0), line("GYM", 0, 200)], 'A bar, with text that says "GYM".'),
        ("A dog", [line('a "b"', 0, 0)], "A dog, with text that says \"a 'b'\"."),
    ],
)
def test_a_caption_ends_with_what_it_does_not_say(caption, lines, expected):
    assert say_text(caption, lines) == expected


def test_long_texts_are_cut():
    lines = [line(f"word{number} " * 30, 0, 100 * number) for number in range(9)]
    assert len(joined_lines(lines)) == 9
    assert len(say_text("A dog.", lines)) < 300


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aZ09 .,:;!?()[]'\"`$%&@#*/-_+=<>|½é中…’“"), min_size=1, max_size=15))
def test_whatever_was_read_can_be_preferred_and_said(text):
    words = words_to_prefer([line(text, 0, 0)])
    assert BeamMagicSearch(prefer=words).prefer == words
    assert say_text("A dog.", [line(text, 0, 0)])


# ---- captions ----


def test_words_that_were_read_steer_and_are_said(captioner):
    plain = captioner.caption(sign())
    assert "stop" not in plain.lower()
    steered = caption_with_text(captioner, sign())
    assert "stop" in steered.lower()
    assert [line.text for line in steered.text_lines] == ["STOP AHEAD"]
    appended = caption_with_text(captioner, sign(), append=True)
    assert appended.startswith(steered.rstrip("."))
    assert appended.endswith('"STOP AHEAD".')
    assert (appended.score, appended.hypotheses) == (steered.score, steered.hypotheses)


def test_pictures_without_text_have_their_captions(captioner, tmp_path):
    blank = Image.new("RGB", (64, 48), (120, 130, 140))
    blank.save(tmp_path / "a.png")
    pictures = [str(tmp_path / "a.png"), str(tmp_path / "none.png"), sign()]
    captions = caption_with_text(captioner, pictures)
    assert captions[0] == captioner.caption(pictures[0])
    assert captions[0].hypotheses == captioner.caption(pictures[0]).hypotheses
    assert (captions[0].text_lines, captions[1].error.code) == ((), "missing")
    assert "stop" in captions[2].lower()
    assert list(caption_with_text(captioner, iter(pictures), batch_size=2)) == captions
    with pytest.raises(BadImage, match=r"none\.png"):
        caption_with_text(captioner, pictures[1])


def test_other_searches_can_only_append(captioner):
    with pytest.raises(BadSettings, match="BeamMagicSearch"):
        caption_with_text(captioner, sign(), MagicSearch())
    caption = caption_with_text(captioner, sign(), MagicSearch(max_new_tokens=4), append=True)
    assert caption.endswith('"STOP AHEAD".')
    assert len(caption.steps) == 4 or caption.finished


def test_preferred_words_are_written_only_where_there_are_any():
    assert "prefer" not in decoding_text(BeamMagicSearch())
    search = replace(BeamMagicSearch(), prefer=("stop",), prefer_weight=3.0)
    written = to_dict(search, DECODINGS)
    assert (written["prefer"], written["prefer_weight"]) == (("stop",), 3.0)
    assert from_dict(json.loads(json.dumps(written)), DECODINGS) == search
    for wrong in ({"prefer": ("two words",)}, {"prefer": "stop"}, {"prefer_weight": -1.0}):
        with pytest.raises(BadSettings, match="prefer"):
            BeamMagicSearch(**wrong)


# ---- commands ----


def test_the_command_prints_a_line_a_picture(stop_file, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert main(["ocr", stop_file, str(tmp_path), str(tmp_path / "none.png")]) == 2
    out, err = capsys.readouterr()
    rows = {row["image"]: row for row in map(json.loads, out.splitlines())}
    assert [line["text"] for line in rows[stop_file]["lines"]] == ["STOP AHEAD"]
    assert np.array(rows[stop_file]["lines"][0]["box"]).shape == (4, 2)
    assert rows[str(tmp_path / "bad.png")]["error"] == "text"
    assert rows[str(tmp_path / "none.png")]["error"] == "missing"
    assert len(err.splitlines()) == 2
    assert main(["ocr", stop_file, "--min-confidence", "2"]) == 2
    assert "min_confidence" in capsys.readouterr().err


@pytest.mark.slow
def test_a_long_picture_is_read_within_the_memory_of_a_command(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 30_000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "long.png", compress_level=1)
    ended = magicap("ocr", tmp_path / "long.png")
    assert ended.code == 0, ended
    assert json.loads(ended.out) == {"image": str(tmp_path / "long.png"), "lines": []}


def test_captions_of_the_command_end_with_the_text(preset, stop_file, capsys):
    assert main(["caption", stop_file, "--preset", preset, "--ocr", "append", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["caption"].endswith('"STOP AHEAD".')
    assert [line["text"] for line in row["text_lines"]] == ["STOP AHEAD"]


@pytest.mark.parametrize("options", [["--out", "x.jsonl"], ["--mark-unsure"], ["--explain", "x.png"]])
def test_what_does_not_go_with_text_is_refused(stop_file, capsys, options):
    assert main(["caption", stop_file, "--ocr", "steer", *options]) == 2
    assert "--ocr" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_without_the_extra_the_fix_is_named(stop_file, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=r"magicap\[ocr\]"):
        read_text(stop_file)
    for command in (["ocr", stop_file], ["caption", stop_file, "--ocr", "steer"]):
        assert main(command) == 2
        assert "pip install 'magicap[ocr]'" in capsys.readouterr().err
