"""``magicap doctor``: whether this machine has what magicap needs, a line a question, with the fix."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

from magicap.captioners.checksums import PACKAGE, damaged_files
from magicap.commands.options import add_options, options_of, with_options
from magicap.commands.output import print_json, print_line
from magicap.commands.shared import SOME_FAILED
from magicap.version import __version__

OK, NOTE, WRONG = "ok", "note", "wrong"
GIB = 1 << 30

MEMORY_GIB = 1.5
"""What the embedded captioner needs."""

DISK_GIB = 1.0
"""What results and temporary files may need, each."""

HUB_SECONDS = 4.0
"""How long the hub's answer is waited for."""

_JAVA_SECONDS = 20.0
_ONLINE = ("0", "OFF", "NO", "FALSE", "")


@dataclass(frozen=True)
class Options:
    """What ``magicap doctor`` is to do."""

    json: bool = False
    """Print a JSON object."""


@dataclass(frozen=True)
class Finding:
    """The answer to one question."""

    name: str
    status: str
    """``ok``; ``note``: only some features want it; ``wrong``."""

    detail: str
    fix: str | None = None
    """What to do; None where nothing needs to be done."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "doctor",
        help="check what this machine has",
        description="Check versions, GPU, Java, hub, caches, the weights that ship, disk and memory: a line\n"
        "each, with the fix where something is amiss. Exit code 2 if anything is wrong; what only some\n"
        "features want (Java, the hub) is noted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    parser.set_defaults(run=with_options(run, Options))


def run(options: Options) -> int:
    """Ask everything, then print the answers."""
    findings = [finding_of(name, question) for name, question in QUESTIONS.items()]
    is_well = all(finding.status != WRONG for finding in findings)
    if options.json:
        print_json({"ok": is_well, "checks": [asdict(finding) for finding in findings]}, indent=2)
    else:
        for finding in findings:
            fix = f"; {finding.fix}" if finding.fix else ""
            print_line(f"{finding.status:<6}{finding.name}: {finding.detail}{fix}")
    return 0 if is_well else SOME_FAILED


Answer = tuple[str, str, str | None]


def finding_of(name: str, question: Callable[[], Answer]) -> Finding:
    """The answer to a question; an error that it raises is a finding too."""
    try:
        return Finding(name, *question())
    except Exception as error:  # a broken installation can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, WRONG, reason, "install magicap anew: pip install --force-reinstall magicap")


def _versions() -> Answer:
    from packaging.requirements import Requirement

    versions = {"python": platform.python_version(), "magicap": __version__}
    unmet = []
    for requirement in map(Requirement, metadata.requires("magicap") or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                versions[requirement.name] = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                versions[requirement.name] = "missing"
            if not requirement.specifier.contains(versions[requirement.name].replace("missing", "0"), True):
                unmet.append(f"'{requirement}'")
    detail = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (WRONG, detail, f"pip install {' '.join(unmet)}") if unmet else (OK, detail, None)


def _torchvision() -> Answer:
    versions = " and ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision"))
    fix = "install the two together: pip install --force-reinstall torch torchvision"
    try:
        importlib.import_module("torchvision.ops").nms  # noqa: B018 - which a mismatch leaves out
    except Exception as error:  # what a mismatch raises depends on the platform
        reason = " ".join(str(error).split()) or type(error).__name__
        return WRONG, f"{versions} do not fit ({reason})", fix
    return OK, f"{versions} fit", None


def _devices() -> Answer:
    import torch

    cores = f"{os.cpu_count()} processor cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} ({gpu.total_memory / GIB:.0f} GiB)" for gpu in gpus)
        return OK, f"{names}; {cores}", None
    if torch.backends.mps.is_available():
        return OK, f"mps, if asked for; {cores}", None
    if shutil.which("nvidia-smi") is None:
        return OK, f"no GPU; {cores}", None
    built = f"a torch for CUDA {torch.version.cuda}" if torch.version.cuda else "a torch for processors alone"
    fix = "update the driver, or install the torch that suits it (pytorch.org, Get started)"
    return NOTE, f"there is an NVIDIA driver, but {built} sees no GPU; {cores}", fix


def _java() -> Answer:
    java = shutil.which("java")
    if java is None:
        return NOTE, "none", "for METEOR and SPICE install a Java runtime, such as default-jre"
    done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=_JAVA_SECONDS)
    version = " ".join((done.stderr or done.stdout).split("\n")[0].split())
    if done.returncode:
        return NOTE, f"{java} does not start: {version}", "install it anew; METEOR and SPICE need it"
    return OK, version, None


def _hub() -> Answer:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() not in _ONLINE:
            return OK, f"not asked, as {name} is set; presets of the hub come from the cache alone", None
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    reasons: list[str] = []
    # a thread, since a name server knows no time limit
    asking = Thread(target=ask_hub, args=(endpoint, reasons), daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    reason = reasons[0] if reasons else f"no answer in {HUB_SECONDS:.0f} s"
    if reason:
        fix = "only presets of the hub need it; behind a proxy set HTTPS_PROXY, offline HF_HUB_OFFLINE=1"
        return NOTE, f"{endpoint} cannot be reached ({reason})", fix
    return OK, f"{endpoint} answers", None


def ask_hub(endpoint: str, reasons: list[str]) -> None:
    """Append to ``reasons`` why the hub gives no answer, or an empty text where it gives one."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=HUB_SECONDS):
            reasons.append("")
    except HTTPError:
        reasons.append("")  # an answer too
    except (OSError, ValueError) as error:
        reasons.append(str(error) or type(error).__name__)


def _cache() -> Answer:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    if not os.access(_existing(cache), os.W_OK):
        return NOTE, f"{cache} cannot be written", "to fetch presets set HF_HOME to a folder open to you"
    return OK, f"{cache}{'' if cache.exists() else ' (not there yet)'}", None


def _weights() -> Answer:
    if wrong := damaged_files():
        detail = ", ".join(f"{name} is {how}" for name, how in sorted(wrong.items()))
        fix = f"install the package anew: pip install --force-reinstall --no-deps magicap (now {PACKAGE})"
        return WRONG, detail, fix
    return OK, "all that ship are whole", None


def _disk() -> Answer:
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "cache": Path(HF_HUB_CACHE)}
    free = {name: shutil.disk_usage(_existing(path)).free / GIB for name, path in places.items()}
    detail = ", ".join(f"{name} {gib:.1f} GiB free" for name, gib in free.items())
    if min(free.values()) < DISK_GIB:
        return WRONG, detail, f"make room: at least {DISK_GIB:g} GiB each"
    return OK, detail, None


def _memory() -> Answer:
    gib = available_memory()
    if gib is None:
        return OK, "this system does not say", None
    if gib < MEMORY_GIB:
        return WRONG, f"{gib:.1f} GiB available", f"end other programs: {MEMORY_GIB:g} GiB are needed"
    return OK, f"{gib:.1f} GiB available", None


def available_memory() -> float | None:
    """GiB that a new program can have, the limit of a container included; None where it is not known."""
    if not sys.platform.startswith("linux"):
        return None
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    sizes = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
    available = sizes["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        available = min(available, int(limit) - int((group / "memory.current").read_text()))
    return available / GIB


def _existing(path: Path) -> Path:
    """A path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


QUESTIONS: dict[str, Callable[[], Answer]] = {
    "versions": _versions,
    "torchvision": _torchvision,
    "devices": _devices,
    "java": _java,
    "hub": _hub,
    "cache": _cache,
    "weights": _weights,
    "disk": _disk,
    "memory": _memory,
}
