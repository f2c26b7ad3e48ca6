"""The service's answers: those of the captioner itself, whatever the form of the request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import tiny
from served import base64_of, events, png, served
from starlette.testclient import TestClient

from magicap import BeamMagicSearch, CaptionMemory, RetrievalIndex, load_captioner
from magicap.captioners.decodings import SEARCH_SETTINGS
from magicap.service.index import ServedIndex
from magicap.service.limits import MOST


@pytest.fixture(scope="module")
def client(preset: str, supervised: str) -> Iterator[TestClient]:
    with served([preset, supervised]) as (_, client):
        yield client


@pytest.fixture(scope="module")
def name(client: TestClient) -> tuple[str, str]:
    """The names of the two captioners, the supervised one last."""
    first, second = (one["name"] for one in client.get("/v1/presets").json()["presets"])
    return first, second


def forms(count: int = 1) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", ("private name.png", png(seed))) for seed in range(count)]


def test_a_form_is_captioned_as_by_the_captioner(client: TestClient, preset: str) -> None:
    answer = client.post("/v1/caption", files=forms()).json()
    expected = load_captioner(preset).caption(png())
    assert answer["results"][0]["caption"] == expected.text
    assert answer["results"][0]["score"] == pytest.approx(expected.score, abs=1e-3)
    assert answer["results"][0]["error"] is None
    assert answer["decoding"]["kind"] == "magic"


def test_json_and_several_pictures_answer_in_order(client: TestClient) -> None:
    pictures = [base64_of(png(seed)) for seed in range(3)]
    sent = [*pictures[:2], f"data:image/png;base64,{pictures[2]}"]
    together = client.post("/v1/caption", json={"images": sent})
    by_form = client.post("/v1/caption", files=forms(3))
    alone = [client.post("/v1/caption", json={"image": one}).json()["results"][0] for one in pictures]
    assert [one["caption"] for one in together.json()["results"]] == [one["caption"] for one in alone]
    assert [one["caption"] for one in by_form.json()["results"]] == [one["caption"] for one in alone]


def test_a_bad_picture_among_several_is_an_error_row(client: TestClient) -> None:
    files = [*forms(), ("image", ("x.png", png()[:60])), ("image", ("y.png", b"<html>gone</html>"))]
    answer = client.post("/v1/caption", files=files)
    assert answer.status_code == 200
    codes = [row["error"] and row["error"]["code"] for row in answer.json()["results"]]
    assert codes == [None, "damaged", "text"]
    assert answer.json()["results"][1]["caption"] is None


def test_settings_reach_the_search(client: TestClient, preset: str) -> None:
    sent = {"decoding": "beam-magic", "n": 3, "beam_size": 4, "max_new_tokens": 5, "exclude": "dog,cat"}
    answer = client.post("/v1/caption", files=forms(), data=sent).json()
    search = BeamMagicSearch(beam_size=4, max_new_tokens=5, exclude=("dog", "cat"))
    expected = load_captioner(preset).caption(png(), search)
    assert answer["results"][0]["captions"] == [one.text for one in expected.hypotheses[:3]]
    assert answer["decoding"]["exclude"] == ["dog", "cat"]


def test_a_seed_belongs_to_its_picture(client: TestClient, preset: str) -> None:
    sent = {"decoding": "nucleus", "seed": 5}
    together = client.post("/v1/caption", files=forms(2), data=sent).json()["results"]
    second = client.post("/v1/caption", files=forms(2)[1:], data={**sent, "seed": 6}).json()["results"]
    assert together[1]["caption"] == second[0]["caption"]


def test_a_stream_tells_the_steps_of_magic_search(client: TestClient, preset: str) -> None:
    answer = client.post("/v1/captions/stream", files=forms(), data={"candidates": 3})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    captioner = load_captioner(preset)
    steps = list(captioner.stream(png()))
    assert [event for event, _ in told] == ["start", *["token"] * len(steps), "caption"]
    tokens = [data for event, data in told if event == "token"]
    assert [token["text"] for token in tokens] == [step.text for step in steps]
    assert [len(token["candidates"]) for token in tokens] == [3] * len(steps)
    terms = "model_confidence", "degeneration_penalty", "image_score"
    for token, step in zip(tokens, steps, strict=True):
        assert token["candidates"][0]["token"] == token["token"] == step.token
        assert sum(token[term] for term in terms) == pytest.approx(token["score"], abs=1e-3)
        assert token["score"] == pytest.approx(step.score, abs=1e-3)
    assert told[-1][1]["caption"] == captioner.caption(png()).text


def test_a_stream_tells_what_the_beam_holds(client: TestClient) -> None:
    sent = {"decoding": "beam-magic", "beam_size": 3}
    told = events(client.post("/v1/captions/stream", files=forms(), data=sent).text)
    beams = [data for event, data in told if event == "hypotheses"]
    assert [beam["position"] for beam in beams] == list(range(len(beams)))
    for beam in beams:
        scores = [one["score"] for one in beam["hypotheses"]]
        assert 0 < len(scores) <= 5
        assert scores == sorted(scores, reverse=True)
    assert told[-1][0] == "caption"
    assert told[-1][1]["hypotheses"]


def test_a_supervised_captioner_streams_its_caption_and_shows_its_attention(
    client: TestClient, name: tuple[str, str]
) -> None:
    sent = {"preset": name[1]}
    told = events(client.post("/v1/captions/stream", files=forms(), data=sent).text)
    assert [event for event, _ in told] == ["start", "caption"]
    shown = client.post("/v1/explain", files=forms(), data=sent).json()
    assert shown["kind"] == "attention"
    assert shown["caption"]["caption"] == told[-1][1]["caption"]
    for heat in shown["attention"]["maps"]:
        assert sum(map(sum, heat)) == pytest.approx(1, abs=1e-2)
    assert len(shown["attention"]["maps"]) == len(shown["attention"]["words"])


def test_an_explanation_has_what_a_stream_tells(client: TestClient) -> None:
    told = events(client.post("/v1/captions/stream", files=forms()).text)
    shown = client.post("/v1/explain", files=forms()).json()
    assert shown["tokens"] == [data for event, data in told if event == "token"]
    assert shown["caption"] == told[-1][1]


def test_presets_name_no_path(client: TestClient, preset: str, supervised: str) -> None:
    answer = client.get("/v1/presets")
    assert preset not in answer.text
    assert supervised not in answer.text
    first, second = answer.json()["presets"]
    assert (first["kind"], first["default"], second["kind"]) == ("zero-shot", True, "supervised")
    assert "beam-magic" in first["decodings"]


def chat(url: str, **more: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": parts}], "max_tokens": 50, **more}


def test_openai_programs_are_answered(client: TestClient, preset: str) -> None:
    address = f"data:image/png;base64,{base64_of(png())}"
    answer = client.post("/v1/chat/completions", json=chat(address)).json()
    text = load_captioner(preset).caption(png()).text
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "stop"
    streamed = client.post("/v1/chat/completions", json=chat(address, stream=True)).text
    assert streamed.rstrip().endswith("data: [DONE]")
    chunks = [json.loads(line[6:]) for line in streamed.split("\n\n") if line.startswith("data: {")]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [text, None]
    assert [one["object"] for one in client.get("/v1/models").json()["data"]] == ["model", "model"]


@pytest.mark.parametrize("url", ["http://localhost/a.png", "file:///etc/passwd", "https://example.org/x.jpg"])
def test_no_address_is_fetched(client: TestClient, url: str) -> None:
    refused = client.post("/v1/chat/completions", json=chat(url))
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "url")
    refused = client.post("/v1/caption", json={"image": url})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "url")


def test_an_index_is_searched(preset: str, tmp_path: Any) -> None:
    captioner = load_captioner(preset)
    index = RetrievalIndex(captioner.scorer)
    index.update_texts(tiny.SENTENCES)
    place = tmp_path / "texts.magicap-index"
    index.save(place)
    with served([preset], index=ServedIndex.load(str(place), captioner.scorer)) as (_, client):
        found = client.post("/v1/search", json={"text": tiny.SENTENCES[1], "top": 2}).json()["matches"]
        assert [one["rank"] for one in found] == [1, 2]
        assert found[0]["text"] == tiny.SENTENCES[1]
        by_picture = client.post("/v1/search", files=forms(), data={"top": 4}).json()["matches"]
        expected = index.search_images([png()], 4)[0]
        assert [one["text"] for one in by_picture] == [match.item.text for match in expected]
        assert client.post("/v1/search", json={}).status_code == 422
    with served([preset]) as (_, client):
        assert client.post("/v1/search", json={"text": "a dog"}).status_code == 404


def test_words_are_found_in_the_picture(tmp_path: Any) -> None:
    from magicap.models.fine_grained.scorer import FineGrainedScorer

    captioner = tiny.captioner(max_new_tokens=4)
    FineGrainedScorer(captioner.scorer).save_pretrained(tmp_path / "fine")
    captioner.save_pretrained(tmp_path / "captioner", fine_grained=tmp_path / "fine")
    with served([str(tmp_path / "captioner")]) as (_, client):
        told = events(client.post("/v1/captions/stream", files=forms(), data={"alignment": "true"}).text)
    event, aligned = told[-1]
    assert event == "alignment"
    assert "".join(aligned["words"]) == told[-2][1]["caption"].lower().replace(" ", "")
    assert len(aligned["maps"]) == len(aligned["words"])
    assert aligned["seen"] == pytest.approx([0.125, 0, 0.875, 1], abs=0.01)  # the middle of 40 by 30 pixels


def test_a_memory_serves_include(preset: str, tmp_path: Any) -> None:
    captioner = tiny.captioner(max_new_tokens=5)
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, tiny.SENTENCES)
    captioner.decoding = BeamMagicSearch(max_new_tokens=20, neighbours=4)
    captioner.save_pretrained(tmp_path / "captioner")
    with served([str(tmp_path / "captioner")]) as (_, client):
        answer = client.post("/v1/caption", files=forms(), data={"include": "dog"}).json()
        assert "dog" in answer["results"][0]["caption"]
        refused = client.post("/v1/caption", files=forms(), data={"include": "zebra"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "settings")


def test_the_api_describes_every_setting_and_bound(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/v1/caption", "/v1/captions/stream", "/v1/explain"):
        body = document["paths"][path]["post"]["requestBody"]["content"]
        for kind in ("multipart/form-data", "application/json"):
            described = body[kind]["schema"]["properties"]
            assert set(SEARCH_SETTINGS) <= set(described)
            assert all(described[name]["description"] for name in SEARCH_SETTINGS)
    for name, most in MOST.items():
        assert {"maximum": most, "type": "integer"} in described[name]["anyOf"]
    assert set(MOST) <= {one.name for one in fields(BeamMagicSearch)}


def test_the_page_needs_nothing_else(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert client.get("/page/style.css").status_code == 200
    assert client.get("/page/../app.py").status_code == 404
