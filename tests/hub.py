"""A stand-in for the model hub on loopback: serves folders as repositories over the hub's own protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c0ffee" + 34 * "0"


class _Handler(BaseHTTPRequestHandler):
    root: Path
    served: list[str]
    revisions: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/"):
            _, _, owner, name, *tree = path.split("/")
            if tree[:1] == ["revision"] and tree[1] not in ("main", COMMIT):
                return self._missing("RevisionNotFound")
            return self._describe(f"{owner}/{name}", tree=tree[:1] == ["tree"], below=tree[2:])
        repository, _, revision_and_file = path.partition("/resolve/")
        revision, _, name = revision_and_file.partition("/")
        self.revisions.append(revision)
        if revision not in ("main", COMMIT):
            return self._missing("RevisionNotFound")
        file = self.root / repository / name
        if not file.is_file():
            return self._missing("EntryNotFound" if (self.root / repository).is_dir() else "RepoNotFound")
        if with_body:
            self.served.append(f"{repository}/{file.name}")
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("ETag", f'"{hashlib.sha256(str(file).encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(file.read_bytes())

    def _describe(self, repository: str, *, tree: bool, below: list[str]) -> None:
        folder = self.root / repository
        if not folder.is_dir() or below:
            return self._missing("EntryNotFound" if below else "RepoNotFound")
        files = [
            {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in folder.iterdir()
        ]
        siblings = [{"rfilename": file["path"]} for file in files]
        body = json.dumps(files if tree else {"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def stand_in_hub(root: Path, revisions: list[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve ``root/owner/name/*``; gives the address for HF_ENDPOINT and the list of files fetched so far.

    Args:
        revisions: takes the revision of each request for a file.
    """
    revisions = [] if revisions is None else revisions
    handler = type("Handler", (_Handler,), {"root": root, "served": [], "revisions": revisions})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.served
    finally:
        server.shutdown()
        server.server_close()
