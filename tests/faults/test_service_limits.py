"""What a service refuses, and how: one form of error, no content, no path, and the slot free again."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import Held, base64_of, png, served, until

from magicap.errors import BadImage, BadSettings
from magicap.results import Caption
from magicap.service.batching import Job
from magicap.service.limits import ServiceLimits
from magicap.service.presets import ServedPresets

FORM = [("image", ("private name.png", png()))]


def refused(answer: Any, status: int, code: str) -> str:
    """That an answer is the one form of error; its message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"code", "message", "type", "param", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "private" not in answer.text
    return str(error["message"])


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ({"preset": "private"}, 422, "preset"),
        ({"decoding": "private"}, 422, "settings"),
        ({"top_k": "private"}, 422, "fields"),
        ({"top_k": "100000"}, 422, "fields"),
        ({"alpha": "2"}, 422, "settings"),
        ({"alpha": "nan"}, 422, "settings"),
        ({"include": "dog"}, 422, "settings"),
        ({"n": "2"}, 422, "settings"),
        ({"colour": "red"}, 422, "fields"),
        ({"seed": "-1"}, 422, "fields"),
        ({"decoding": "beam-magic", "beam_size": "50", "image_weight": "1"}, 422, "settings"),
    ],
)
def test_wrong_fields(preset: str, data: dict[str, str], status: int, code: str) -> None:
    with served([preset]) as (_, client):
        for path in ("/v1/caption", "/v1/captions/stream", "/v1/explain"):
            refused(client.post(path, files=FORM, data=data), status, code)


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 422, "json"),
        (b"[" * 100_000, "application/json", 422, "json"),
        (b"[]", "application/json", 422, "json"),
        (b"{}", "application/json", 422, "images"),
        (b'{"image": 3}', "application/json", 422, "base64"),
        (b'{"image": "private!"}', "application/json", 422, "base64"),
        (b'{"images": "private"}', "application/json", 422, "images"),
        (b'{"image": ""}', "application/json", 422, "empty"),
        (b"private", "text/plain", 415, "body_type"),
        (b"private", "", 415, "body_type"),
        (b"private", "multipart/form-data", 400, "body"),
        (b"private", "multipart/form-data; boundary=x", 400, "body"),
    ],
)
def test_wrong_bodies(preset: str, body: bytes, kind: str, status: int, code: str) -> None:
    with served([preset]) as (_, client):
        refused(client.post("/v1/caption", content=body, headers={"Content-Type": kind}), status, code)


def test_pictures_that_cannot_be_read(preset: str) -> None:
    with served([preset]) as (_, client):

        def caption(data: bytes) -> Any:
            return client.post("/v1/caption", files={"image": ("private.png", data)})

        message = refused(caption(b"private <html>"), 415, "text")
        assert message.startswith("expected a picture, found text")
        refused(caption(png()[:100]), 422, "damaged")
        refused(caption(b"\x00\x01private\xff" * 9), 415, "format")
        refused(caption(png(size=(200, 1))), 422, "aspect")
        refused(client.post("/v1/captions/stream", files={"image": ("x", b"private")}), 415, "text")


def test_large_bodies_and_many_pictures(preset: str) -> None:
    with served([preset], ServiceLimits(body_bytes=20_000, images=2)) as (_, client):
        message = refused(client.post("/v1/caption", files={"image": ("x", b"x" * 30_000)}), 413, "body")
        assert "20000" in message
        chunks = (b"x" * 1000 for _ in range(100))  # without a Content-Length
        kind = {"Content-Type": "application/json"}
        refused(client.post("/v1/caption", content=chunks, headers=kind), 413, "body")
        three = [("image", ("x", png(size=(8, 8))))] * 3
        refused(client.post("/v1/caption", files=three), 422, "images")
        assert client.post("/v1/caption", files=three[:2]).status_code == 200
    with served([preset], ServiceLimits(received_bytes=1000)) as (_, client):
        refused(client.post("/v1/caption", files={"image": ("x", b"x" * 3000)}), 429, "busy")


def test_a_token_is_asked_for(preset: str) -> None:
    with served([preset], token="sécret") as (_, client):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = client.post("/v1/caption", files=FORM, headers=headers)
            refused(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
            refused(client.get("/metrics", headers=headers), 401, "token")
        right = {"Authorization": b"Bearer s\xc3\xa9cret"}
        assert client.post("/v1/caption", files=FORM, headers=right).status_code == 200
        for path in ("/", "/page/style.css", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200


def test_other_sites_may_not_ask(preset: str) -> None:
    other = {"Origin": "https://example.org"}
    with served([preset]) as (_, client):
        answer = client.post("/v1/caption", files=FORM, headers=other)
        refused(answer, 403, "origin")
        assert "access-control-allow-origin" not in answer.headers
        own = {"Origin": "http://testserver"}
        assert client.post("/v1/caption", files=FORM, headers=own).status_code == 200
    with served([preset], origins=["https://example.org"], token="x") as (_, client):
        asks = {**other, "Access-Control-Request-Method": "POST"}
        allowed = client.options("/v1/caption", headers=asks)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        answer = client.post("/v1/caption", files=FORM, headers={**other, "Authorization": "Bearer x"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"


def test_other_names_of_a_loopback_address_are_refused(preset: str) -> None:
    with served([preset], hosts=["localhost", "[::1]"]) as (_, client):
        refused(client.get("/v1/presets", headers={"Host": "evil.example:8000"}), 403, "host")
        for host in ("localhost", "localhost:8000", "[::1]:8000", "LOCALHOST"):
            assert client.get("/v1/presets", headers={"Host": host}).status_code == 200


def test_odd_headers_are_no_faults_of_ours(preset: str) -> None:
    with served([preset]) as (_, client):
        refused(client.post("/v1/caption", files=FORM, headers={"Origin": "http://[::1"}), 403, "origin")
        body = b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n\xff\r\n--x--\r\n'
        for charset in ("undefined", "utf-8"):
            kind = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
            assert client.post("/v1/caption", content=body, headers=kind).status_code in (400, 422)
        assert client.head("/healthz").status_code == client.head("/readyz").status_code == 200
        assert client.get("/healthz/", follow_redirects=False).status_code == 404


def test_json_of_many_values_is_not_made(preset: str) -> None:
    bomb = b'{"images": [' + b"[]," * 200_000 + b"[]]}"
    with served([preset]) as (_, client):
        for path in ("/v1/caption", "/v1/chat/completions"):
            answer = client.post(path, content=bomb, headers={"Content-Type": "application/json"})
            assert "values" in refused(answer, 422, "json")


def test_a_full_queue_says_when_to_come_again(preset: str) -> None:
    held = Held()
    with served([preset], ServiceLimits(queue=2, images=2)) as (service, client):
        service.queue.submit([Job(held)])
        until(lambda: len(held.batches) == 1)
        service.queue.submit([Job(held, seed=1), Job(held, seed=2)])
        answer = client.post("/v1/caption", files=FORM)
        refused(answer, 429, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        held.go.set()
        until(lambda: len(service.queue) == 0)
        assert client.post("/v1/caption", files=FORM).status_code == 200
        assert len(service.queue) == 0


def test_a_queue_holds_the_pictures_of_a_request() -> None:
    with pytest.raises(BadSettings, match="queue must hold the 16 pictures"):
        ServiceLimits(queue=15)


def test_presets_of_one_name_are_refused(preset: str) -> None:
    with pytest.raises(BadSettings, match="different names"):
        ServedPresets([preset, f"/elsewhere/{Path(preset).name}"])


def test_pictures_that_are_being_read_have_places_and_are_withdrawn(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        reading.set()
        assert go.wait(20)
        raise BadImage("damaged", "cut short")

    monkeypatch.setattr("magicap.runs.answers.prepare", slow)
    limits = ServiceLimits(queue=3, images=3, timeout=0.5)
    with served([preset], limits) as (service, client), ThreadPoolExecutor(2) as threads:
        three = [("image", ("x", png(size=(8, 8))))] * 3
        first = threads.submit(lambda: client.post("/v1/caption", files=three))
        assert reading.wait(20)
        refused(client.post("/v1/caption", files=FORM), 429, "busy")
        refused(first.result(), 504, "timeout")
        assert len(service.queue) == 0
        go.set()
        monkeypatch.undo()
        until(lambda: client.post("/v1/caption", files=FORM).status_code == 200)


def test_what_takes_too_long_is_given_up(preset: str) -> None:
    held = Held()
    with served([preset], ServiceLimits(timeout=0.3)) as (service, client):
        service.queue.submit([Job(held)])
        until(lambda: len(held.batches) == 1)
        refused(client.post("/v1/caption", files=FORM), 504, "timeout")
        refused(client.post("/v1/explain", files=FORM), 504, "timeout")
        told = client.post("/v1/captions/stream", files=FORM).text
        assert '"code":"timeout"' in told
        assert len(service.queue) == 0
        held.go.set()
        until(lambda: client.post("/v1/caption", files=FORM).status_code == 200)


def test_a_service_that_is_stopped_finishes_what_it_began(preset: str) -> None:
    held = Held()
    with served([preset]) as (service, client), ThreadPoolExecutor(1) as threads:
        service.queue.submit([Job(held)])
        until(lambda: len(held.batches) == 1)
        begun = threads.submit(lambda: client.post("/v1/caption", files=FORM))
        until(lambda: len(service.queue) == 1)
        service.is_stopping = True
        refused(client.post("/v1/caption", files=FORM), 503, "stopping")
        refused(client.get("/readyz"), 503, "stopping")
        assert client.get("/healthz").status_code == 200
        held.go.set()
        assert begun.result().status_code == 200


def test_a_fault_of_ours_is_not_told(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    with served([preset]) as (service, client):

        def fails(*_: Any, **__: Any) -> list[Caption]:
            raise RuntimeError("private detail")

        service.presets.get().caption_batch_with_progress = fails  # type: ignore[method-assign]
        refused(client.post("/v1/caption", files=FORM), 500, "internal")
    assert "private detail" in caplog.text


def test_requests_have_ids_and_logs_no_content(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "magicap.service")
    with served([preset]) as (_, client):
        mine = client.post("/v1/caption?q=private", files=FORM, headers={"X-Request-ID": "a-1.b"})
        assert mine.headers["x-request-id"] == mine.json()["request_id"] == "a-1.b"
        odd = client.get("/private/path", headers={"X-Request-ID": "a b\tc"})
        assert odd.status_code == 404
        assert len(odd.headers["x-request-id"]) == 32
        assert 'path="other",status="404"' in client.get("/metrics").text
    assert "a-1.b POST /v1/caption 200" in caplog.text
    assert "private" not in caplog.text
    assert base64_of(png())[:20] not in caplog.text


def test_clients_at_once_get_their_own_answers(preset: str) -> None:
    with served([preset]) as (service, client), ThreadPoolExecutor(16) as threads:

        def ask(seed: int) -> str:
            files = {"image": ("x", png(seed))}
            return str(client.post("/v1/caption", files=files).json()["results"][0]["caption"])

        alone = [ask(seed) for seed in range(12)]
        held = Held()
        service.queue.submit([Job(held)])
        together = [threads.submit(ask, seed) for seed in range(12)]
        until(lambda: len(service.queue) == 12)
        held.go.set()
        assert [one.result() for one in together] == alone
        assert json.loads(json.dumps(alone)) == alone


def test_a_client_that_leaves_frees_its_slot(preset: str) -> None:
    import asyncio

    held = Held()
    with served([preset]) as (service, client):
        service.queue.submit([Job(held)])
        until(lambda: len(held.batches) == 1)

        async def leave(path: str) -> None:
            """A request whose client leaves once it waits."""
            body = json.dumps({"image": base64_of(png())}).encode()
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive() -> dict[str, Any]:
                for message in messages:
                    return message
                while len(service.queue) == 0:
                    await asyncio.sleep(0.01)
                return {"type": "http.disconnect"}

            async def send(_: Any) -> None:
                pass

            headers = [(b"content-type", b"application/json")]
            scope = {
                "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
                "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                "headers": headers, "root_path": "", "scheme": "http", "server": ("testserver", 80),
            }  # fmt: skip
            await client.app(scope, receive, send)

        for path in ("/v1/caption", "/v1/captions/stream", "/v1/explain"):
            asyncio.run(asyncio.wait_for(leave(path), 20))
            assert len(service.queue) == 0
        held.go.set()
