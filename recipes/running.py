"""Jobs in order, each in a process of its own; those that are done are not done again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from chain import STEPS, arguments, config_of, digest_of, out_of, recipe
from cli import INTERRUPTED, run

from magicap.errors import BadModel, BadSettings

RECORD = "step.json"
"""File in a job's folder that says that it is done, and by which options."""

VARIABLES = ("MAGICAP_DATA", "MAGICAP_COCO_MANY")


@dataclass(frozen=True)
class Job:
    """What runs in a process of its own, and what says that it is done."""

    name: str

    command: str
    """What runs, in words."""

    work: Callable[[], object]
    """Runs in the process; it says itself what goes wrong, and ends the process with a code."""

    folder: Path
    """What it writes to."""

    makes: tuple[str, ...]
    """What it must have written, relative to its folder, once it is done."""

    options: str
    """Digest of its options, and of those of what it is made from."""

    options_in: str
    """Where its options stand, in words."""


def run_steps(steps: Sequence[str], overrides: Mapping[str, Sequence[str]]) -> None:
    """Run steps of the chain in the order given; the process ends with the code of the first that fails.

    Args:
        overrides: step to options that win over its file's.

    Raises:
        BadSettings: an option cannot be used, a variable is not set, or a folder was made by other options;
            found before any step runs.
        BadModel: a step did not write what it should.
    """
    require_variables()
    for step in steps:
        config_of(step, overrides.get(step, ()))
    run_jobs([job_of(step, overrides) for step in steps])


def job_of(step: str, overrides: Mapping[str, Sequence[str]]) -> Job:
    """A step of the chain as a job; arguments as of :func:`run_steps`."""
    module = recipe(step)
    return Job(
        step,
        f"{STEPS[step].recipe}.py --config {step}.yaml",
        partial(run, module.main, module.Config, arguments(step, overrides.get(step, ()))),
        out_of(step),
        STEPS[step].makes,
        digest_of(step, overrides),
        f"{step}.yaml",
    )


def run_jobs(jobs: Sequence[Job]) -> None:
    """Run jobs in the order given; the process ends with the code of the first that fails.

    Raises:
        BadSettings: a folder was made by other options; found before any job runs.
        BadModel: a job did not write what it should.
    """
    done = {job.name: is_done(job) for job in jobs}
    for job in jobs:
        if done[job.name]:
            note(f"{job.name}: done before")
            continue
        note(f"{job.name}: {job.command}")
        started = time.monotonic()
        run_job(job)
        require_made(job.name, job.folder, job.makes)
        seconds = round(time.monotonic() - started, 1)
        record = {"step": job.name, "options": job.options, "seconds": seconds}
        (job.folder / RECORD).write_text(
            json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        note(f"{job.name}: done in {seconds} s")


def require_variables() -> None:
    """Refuse to begin without the variables that the YAML files read.

    Raises:
        BadSettings: one is not set.
    """
    for name in VARIABLES:
        if not os.environ.get(name):
            raise BadSettings(
                f"expected {name} to be set, found nothing: the configs read pictures and text below it "
                "(CONTRIBUTING.md says which); --dry_run needs neither"
            )


def is_done(job: Job) -> bool:
    """Whether a job is done.

    Raises:
        BadSettings: it was done by other options.
        BadModel: what it made is not there any more.
    """
    file = job.folder / RECORD
    if not file.is_file():
        return False
    recorded = json.loads(file.read_text(encoding="utf-8"))["options"]
    if recorded != job.options:
        raise BadSettings(
            f"{file.parent}: expected it to be made with the options of {job.options_in}, and of what it is "
            "made from, as they are now; found others. Remove the folder to make it anew, or go back to those"
        )
    require_made(job.name, job.folder, job.makes)
    return True


def require_made(name: str, folder: Path, makes: Sequence[str]) -> None:
    """Refuse to go on where a job has not written what it should.

    Raises:
        BadModel: something is missing.
    """
    for made in makes:
        if not (folder / made).exists():
            raise BadModel(f"{name}: expected {folder / made}, found none; remove the folder, run again")


def run_job(job: Job) -> None:
    """Run a job in a process of its own.

    It says itself what goes wrong, so this process then ends without a word, with the same code.
    """
    code = in_child(job.work)
    if code < 0:
        ended_by = signal.Signals(-code).name
        note(f"{job.name} was ended by {ended_by}; the same command goes on from where it was")
    if code:
        sys.exit(128 - code if code < 0 else code)


def in_child(function: Callable[..., object], *arguments: Any) -> int:
    """Call a function in a forked process: its own memory, seed and device, but no imports to repeat.

    This process must not have computed with torch: the threads that it then has are missing after a fork.

    Returns:
        The exit code; minus the number of the signal, if one ended it.
    """
    sys.stdout.flush()
    child = get_context("fork").Process(target=function, args=arguments)
    child.start()
    asked: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        asked.append(128 + number)
        child.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    while child.is_alive():
        try:
            child.join()
        except KeyboardInterrupt:  # it got the signal too, and writes its checkpoint
            asked.append(INTERRUPTED)
    signal.signal(signal.SIGTERM, before)
    code = child.exitcode or 0
    return code or (asked[0] if asked else 0)


def note(line: str) -> None:
    """A line about the chain itself, on stderr."""
    print(f"== {line}", file=sys.stderr, flush=True)


def folder_of(step: str, inner: str = "") -> Path:
    """A folder that a step has written.

    Raises:
        BadModel: it has not.
    """
    require_made(step, out_of(step), STEPS[step].makes)
    return out_of(step) / inner
