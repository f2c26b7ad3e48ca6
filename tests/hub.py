"""A stand-in for the model hub on loopback: folders as repositories, over the hub's own protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c0ffee" + 34 * "0"
COMMITS = ".commits"
"""Folder of the root with what was pushed, a folder a commit."""


class _Handler(BaseHTTPRequestHandler):
    root: Path
    served: list[str]
    revisions: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_POST(self) -> None:
        """What pushing asks for: a repository is made, files come in whole with the commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer a-token-that-may-write":
            return self._send(401, {"error": "Invalid credentials"})
        path = self.path.split("?")[0].strip("/")
        if path == "api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, [wanted.get("organization"), wanted["name"]]))
            (self.root / name).mkdir(parents=True, exist_ok=True)
            return self._send(200, {"url": f"{self._address}/{name}", "id": name})
        if path.endswith("validate-yaml"):
            return self._send(200, {"errors": [], "warnings": []})
        _, _, owner, name, what, *_ = path.split("/")
        if what == "preupload":
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self._send(200, {"files": [file | how for file in json.loads(body)["files"]]})
        if what == "branch":
            return self._send(200, {})
        return self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])

    def log_message(self, *_: object) -> None:
        pass

    def _commit(self, repository: str, operations: list[dict]) -> None:
        folder = self.root / repository
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                file = folder / value["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(value["content"]))
            elif operation["key"] == "deletedFile":
                (folder / value["path"]).unlink()
        commit = hashlib.sha1(str(len(list((self.root / COMMITS).glob("*")))).encode()).hexdigest()
        shutil.copytree(folder, self.root / COMMITS / commit / repository)
        self._send(
            200,
            {
                "commitUrl": f"{self._address}/{repository}/commit/{commit}",
                "commitOid": commit,
                "hookOutput": "",
            },
        )

    @property
    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _folder(self, repository: str, revision: str) -> Path | None:
        """What a revision of a repository holds; None: there is no such revision."""
        if revision in ("main", COMMIT):
            return self.root / repository
        folder = self.root / COMMITS / revision / repository
        return folder if folder.is_dir() else None

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/"):
            _, _, owner, name, *tree = path.split("/")
            revision = tree[1] if tree[:1] in (["revision"], ["tree"]) else "main"
            if (folder := self._folder(f"{owner}/{name}", revision)) is None:
                return self._missing("RevisionNotFound")
            return self._describe(f"{owner}/{name}", folder, tree=tree[:1] == ["tree"], below=tree[2:])
        repository, _, revision_and_file = path.partition("/resolve/")
        revision, _, name = revision_and_file.partition("/")
        self.revisions.append(revision)
        if (folder := self._folder(repository, revision)) is None:
            return self._missing("RevisionNotFound")
        file = folder / name
        if not file.is_file():
            return self._missing("EntryNotFound" if folder.is_dir() else "RepoNotFound")
        if with_body:
            self.served.append(f"{repository}/{file.name}")
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("ETag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT if revision == "main" else revision)
        self.end_headers()
        if with_body:
            self.wfile.write(file.read_bytes())

    def _describe(self, repository: str, folder: Path, *, tree: bool, below: list[str]) -> None:
        if not folder.is_dir() or below:
            return self._missing("EntryNotFound" if below else "RepoNotFound")
        names = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
        files = [
            {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0"}
            for name in names
        ]
        commit = folder.relative_to(self.root).parts[1] if COMMITS in folder.parts else COMMIT
        siblings = [{"rfilename": name} for name in names]
        self._send(200, files if tree else {"id": repository, "sha": commit, "siblings": siblings})

    def _send(self, code: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
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

    What is pushed, with the token ``a-token-that-may-write``, is served too, the newest and by its commit.

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
