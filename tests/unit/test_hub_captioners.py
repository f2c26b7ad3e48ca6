"""A captioner pushed to the hub and fetched from it, by a fresh process against a stand-in on loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from hub import COMMITS, stand_in_hub
from repository import ROOT

from magicap import BadModel, BadSettings
from magicap.captioners import repositories
from magicap.captioners.checksums import CHECKSUMS, write_checksums

PUSH = """
import sys
from magicap import Captioner, HubCard, MagicapError
first, second = (Captioner.from_pretrained(folder) for folder in sys.argv[1:])
card = HubCard("Two colours.", license="apache-2.0", base_models=["someone/model"], datasets=["someone/text"])
print(first.push_to_hub("me/tiny", card))
print(second.push_to_hub("me/tiny", message="another"))
try:
    first.push_to_hub("me/tiny", token="a-token-that-may-read")
except MagicapError as error:
    print(error)
"""

PULL = """
import sys
from magicap import MagicapError, load_captioner
try:
    captioner = load_captioner("me/tiny", revision=sys.argv[2] or None)
    print(captioner.fingerprint, ascii(str(captioner.caption(sys.argv[1]))), sep="|")
except MagicapError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_what_is_pulled_is_what_was_pushed(tmp_path):
    captioners = [tiny.captioner(seed, max_new_tokens=6) for seed in (0, 1)]
    folders = [str(tmp_path / name) for name in ("first", "second")]
    for captioner, folder in zip(captioners, folders, strict=True):
        captioner.save_pretrained(folder, dtype="float16")
    stored = [type(captioners[0]).from_pretrained(folder) for folder in folders]
    picture = str(ROOT / "docs" / "sample.jpg")
    root = tmp_path / "hub"
    root.mkdir()
    with stand_in_hub(root) as (address, served):

        def run(program: str, *arguments: str, token: str = "") -> list[str]:
            environment = {
                **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))},
                "HF_HOME": str(tmp_path / "home"),
                "HF_ENDPOINT": address,
                "HF_TOKEN": token,
                "HF_HUB_DISABLE_TELEMETRY": "1",
            }
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        *commits, refused = run(PUSH, *folders, token="a-token-that-may-write")
        assert "there is no token, or it may not write there" in refused
        card = (root / "me" / "tiny" / "README.md").read_text()
        first_card = (root / COMMITS / commits[0] / "me" / "tiny" / "README.md").read_text()
        for line in ("license: apache-2.0", "library_name: magicap", "pipeline_tag: image-to-text"):
            assert line in first_card.splitlines()
        assert "Two colours." in first_card
        assert card == first_card  # the second was pushed without one
        assert 'load_captioner("me/tiny")' in card

        expected = [f"{c.fingerprint}|{str(c.caption(picture))!a}" for c in stored]
        assert run(PULL, picture, "") == [expected[1]]
        assert run(PULL, picture, commits[0]) == [expected[0]]
        before = len(served)
        assert run(PULL, picture, commits[0]) == [expected[0]]
        assert len(served) == before  # nothing is fetched twice

        (snapshot,) = (tmp_path / "home").rglob(commits[0])  # the folder; no file is named so
        blob = (snapshot / "language_model" / "model.safetensors").resolve()
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
        (refused,) = run(PULL, picture, commits[0])
        shutil.rmtree(re.search(r"remove (\S+) and load it anew", refused).group(1))
        assert run(PULL, picture, commits[0]) == [expected[0]]

        weights = root / COMMITS / commits[1] / "me" / "tiny" / "language_model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        (refused,) = run(PULL, picture, commits[1])
        damaged = "BadModel language_model/model.safetensors of the captioner 'me/tiny' is damaged"
        assert refused.startswith(damaged)
        (unknown,) = run(PULL, picture, "no-such-branch")
        expected_error = "ModelNotFound the captioner 'me/tiny' has no revision 'no-such-branch'"
        assert unknown.startswith(expected_error)
        assert "hf download" not in unknown


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A repository's folder in the hub's cache, with weights and their checksums."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_checksums(tmp_path, ["model.safetensors"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    repositories.fetched.cache_clear()
    yield tmp_path
    repositories.fetched.cache_clear()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"no checksum", "lines as sha256sum writes them"),
        (b"\xff\xfe", "no UTF-8 text"),
        (64 * b"0" + b"  ../../../etc/hostname", "files below its folder"),
        (64 * b"0" + b"  /etc/hostname", "files below its folder"),
    ],
)
def test_a_malformed_list_of_checksums_is_refused(snapshot, line, expected):
    (snapshot / CHECKSUMS).write_bytes(line + b"\n")
    with pytest.raises(BadModel, match=rf"{re.escape(str(snapshot / CHECKSUMS))}.*{expected}"):
        repositories.fetched("me/tiny")


def test_weights_that_are_not_listed_are_refused(snapshot):
    (snapshot / "memory").mkdir()
    (snapshot / "memory" / "captions.gz").write_bytes(b"captions")
    with pytest.raises(BadModel, match=r"memory/captions.gz of the captioner 'me/tiny' is not in its"):
        repositories.fetched("me/tiny")


def test_a_repository_without_checksums_loads(snapshot):
    (snapshot / CHECKSUMS).unlink()
    assert repositories.fetched("me/tiny") == Path(snapshot)


def test_a_card_is_no_text():
    with pytest.raises(BadSettings, match="expected a HubCard"):
        tiny.captioner().push_to_hub("me/tiny", "card")
