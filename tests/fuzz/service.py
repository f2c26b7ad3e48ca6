"""Changed uploads against ``magicap serve``, and requests drawn from its OpenAPI: no 500, no hang, no growth.

``PYTHONPATH=tests python -m fuzz.service`` prints what was answered; 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import tiny
from fuzz.mutations import mutated
from pictures import samples
from served import base64_of, serving

from magicap import RetrievalIndex, load_captioner

SECONDS = 30.0
"""The service's time limit; an answer may take a second more."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)
BOUNDARY = b"fuzz-boundary"
CHAT = "/v1/chat/completions"
PATHS = ("/v1/caption", "/v1/captions/stream", "/v1/explain", "/v1/search", CHAT)


def memory(process: subprocess.Popen[bytes]) -> float:
    """Resident MiB of a service, without its readers."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def body(path: str, picture: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A request's type and body, changed in its picture, around it, or both."""
    form = draw.random() < 0.6 and path != CHAT
    changed = mutated(picture, draw) if draw.random() < 0.8 else picture
    if form:
        head = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        field = b'--%s\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n9\r\n' % BOUNDARY
        data = b"%s--%s\r\n%s%s\r\n--%s--\r\n" % (field, BOUNDARY, head, changed, BOUNDARY)
        kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    else:
        data, kind = json.dumps(_asked(path, base64_of(changed))).encode(), "application/json"
    return kind, mutated(data, draw) if draw.random() < 0.4 else data


def _asked(path: str, encoded: str) -> dict[str, object]:
    """The JSON object that asks for a picture."""
    if path != CHAT:
        return {"image": encoded}
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
    return {"messages": [{"role": "user", "content": [part]}]}


def upload(client: httpx2.Client, address: str, seed: int, number: int) -> tuple[str, str]:
    """Send one changed upload: its path with the status, and what is wrong with the answer, if that is."""
    draw = random.Random(f"{seed}/{number}")
    picture = draw.choice([*samples().values()])
    path = draw.choice(PATHS)
    kind, data = body(path, picture, draw)
    start = time.monotonic()
    try:
        answer = client.post(f"{address}{path}", content=data, headers={"Content-Type": kind})
    except httpx2.HTTPError as error:
        return f"{path} none", f"{number}: {path}: no answer ({error!r})"
    seconds, what = time.monotonic() - start, f"{path} {answer.status_code}"
    if answer.status_code >= 500 or seconds > SECONDS + 1:
        return what, f"{number}: {what} after {seconds:.1f} s: {answer.text[:200]}"
    if answer.status_code >= 400 and not re.fullmatch(r'\{"error":\{"code":.*\}\}', answer.text):
        return what, f"{number}: {what}: another form of error: {answer.text[:200]}"
    return what, ""


def uploads(address: str, seed: int, count: int) -> list[str]:
    """Send changed uploads, eight at a time; what was found."""
    with httpx2.Client(timeout=SECONDS + 30) as client, ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda number: upload(client, address, seed, number), range(count)))
    for what, times in sorted(Counter(what for what, _ in outcomes).items()):
        print(f"{what}: {times}")
    return [found for _, found in outcomes if found]


def drawn(address: str, seed: int, count: int, folder: str) -> list[str]:
    """Requests that schemathesis draws from the OpenAPI, so many an operation; what was found."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{address}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(count), "--seed", str(seed), "--workers", "2", "--continue-on-failure"]
    ended = subprocess.run(
        [*command, "--phases", "examples,fuzzing", "--no-color"],
        capture_output=True, text=True,
    )  # fmt: skip
    print(ended.stdout[-3000:])
    return [ended.stdout + ended.stderr[-2000:]] if ended.returncode else []


def main() -> int:
    """Print what was answered and found; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--uploads", type=int, default=2000)
    parser.add_argument("--drawn", type=int, default=1000, help="requests an operation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        captioner, index = Path(folder, "captioner"), Path(folder, "texts.magicap-index")
        save(captioner, index)
        with serving("--preset", str(captioner), "--index", str(index)) as (address, process):
            uploads(address, options.seed + 1, 50)
            sizes = [memory(process)]
            found = uploads(address, options.seed, options.uploads)
            sizes.append(memory(process))
            found += drawn(address, options.seed, options.drawn, folder)
            sizes.append(memory(process))
    print("MiB before, after the uploads, at the end:", *map(round, sizes))
    print(*found, sep="\n")
    return int(bool(found))


def save(captioner: Path, index: Path) -> None:
    """A tiny captioner, and an index of its scorer."""
    model = tiny.captioner(0, max_new_tokens=5)
    model.save_pretrained(captioner)
    texts = RetrievalIndex(load_captioner(captioner).scorer)
    texts.update_texts(tiny.SENTENCES)
    texts.save(index)


if __name__ == "__main__":
    raise SystemExit(main())
