"""What all tests share: the data folder, skips with reasons, hypothesis profiles, the data test count."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# Offline unless asked otherwise: read by huggingface_hub when it is imported, hence before any test module.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", os.environ["HF_HUB_OFFLINE"])

# No deadline: the first example of a test pays for imports and model loading.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

NEEDS_DATA = ("needs", "data")  # a property that reports carry, also those of pytest-xdist's workers


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder MAGICAP_DATA names. A test that asks for it is marked `data`, and skipped without it."""
    if reason := MISSING["data"]():
        pytest.skip(reason)
    return Path(os.environ["MAGICAP_DATA"])


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny captioner with random weights."""
    import tiny  # torch with it, so only where a test asks for a captioner

    folder = tmp_path_factory.mktemp("captioner")
    tiny.captioner(0, max_new_tokens=5).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny supervised captioner with random weights."""
    import tiny

    folder = tmp_path_factory.mktemp("supervised")
    tiny.supervised().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of odd inputs that lie in the repository."""
    return Path(__file__).parent / "cases"


@pytest.fixture(scope="session")
def made_cases(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """From a name of ``cases.make.MAKERS`` to its folder, made once for all processes that run tests."""
    from cases.make import MAKERS

    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def made(name: str) -> Path:
        folder = shared / "cases" / name
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                MAKERS[name](new := shared / "cases.new" / name)
                folder.parent.mkdir(exist_ok=True)
                new.rename(folder)
        return folder

    return made


def _no_data() -> str | None:
    folder = os.environ.get("MAGICAP_DATA")
    if not folder:
        return "data: MAGICAP_DATA is not set"
    if not Path(folder).is_dir():
        return f"data: MAGICAP_DATA={folder} is not a folder"
    return None


@functools.cache
def _no_gpu() -> str | None:
    import torch  # seconds to import, so only where a test is marked gpu

    return None if torch.cuda.is_available() else "gpu: torch sees no CUDA device"


def _no_java() -> str | None:
    return None if shutil.which("java") else "java: not on the PATH"


def _no_network() -> str | None:
    offline = os.environ["HF_HUB_OFFLINE"].upper() in {"1", "ON", "YES", "TRUE"}
    return "network: HF_HUB_OFFLINE is on; set it to 0 to run this" if offline else None


# marker -> why its tests cannot run here, or None; looked up only if a test has the marker
MISSING = {"data": _no_data, "gpu": _no_gpu, "java": _no_java, "network": _no_network}


@pytest.hookimpl(tryfirst=True)  # before -m deselects, so that `-m data` finds the tests marked here
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


def pytest_collection_finish(session: pytest.Session) -> None:
    """After deselection: skip what cannot run, and note which tests need data."""
    for item in session.items:
        if item.get_closest_marker("data"):
            item.user_properties.append(NEEDS_DATA)
        for marker, missing in MISSING.items():
            if item.get_closest_marker(marker) and (reason := missing()):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that CI reads: without it, data tests that are all skipped would look like success."""

    def count(*outcomes: str) -> int:
        reports = (report for outcome in outcomes for report in terminalreporter.stats.get(outcome, ()))
        return len({report.nodeid for report in reports if NEEDS_DATA in map(tuple, report.user_properties)})

    ran, skipped = count("passed", "failed", "xfailed", "xpassed"), count("skipped")
    terminalreporter.write_line(f"data tests: {ran} ran, {skipped} skipped")
