"""Steps of the chain, each in a process of its own; those that are done are not done again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from chain import STEPS, arguments, config_of, digest_of, out_of, recipe
from cli import INTERRUPTED, run

from magicap.errors import BadModel, BadSettings

RECORD = "step.json"
"""File in a step's folder that says that it is done, and by which options."""

VARIABLES = ("MAGICAP_DATA", "MAGICAP_COCO_MANY")


def run_steps(steps: Sequence[str], overrides: Mapping[str, Sequence[str]]) -> None:
    """Run steps in the order given; the process ends with the code of the first that fails.

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
    digests = {step: digest_of(step, overrides) for step in steps}
    done = {step: is_done(step, digests[step]) for step in steps}
    for step in steps:
        if done[step]:
            note(f"{step}: done before")
            continue
        note(f"{step}: {STEPS[step].recipe}.py --config {step}.yaml")
        started = time.monotonic()
        run_recipe(step, overrides.get(step, ()))
        require_made(step)
        seconds = round(time.monotonic() - started, 1)
        record = {"step": step, "options": digests[step], "seconds": seconds}
        (out_of(step) / RECORD).write_text(
            json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        note(f"{step}: done in {seconds} s")


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


def is_done(step: str, options: str) -> bool:
    """Whether a step is done.

    Args:
        options: digest of the options that it is to have been done with.

    Raises:
        BadSettings: it was done with others.
    """
    file = out_of(step) / RECORD
    if not file.is_file():
        return False
    recorded = json.loads(file.read_text(encoding="utf-8"))["options"]
    if recorded != options:
        raise BadSettings(
            f"{file.parent}: expected it to be made with the options of {step}.yaml, and of what it is made "
            "from, as they are now; found others. Remove the folder to make it anew, or leave the step out "
            "with --only"
        )
    require_made(step)
    return True


def require_made(step: str) -> None:
    """Refuse to go on where a step has not written what it should.

    Raises:
        BadModel: something is missing.
    """
    for name in STEPS[step].makes:
        if not (out_of(step) / name).exists():
            raise BadModel(
                f"{step}: expected {out_of(step) / name}, found none; remove the folder, run again"
            )


def run_recipe(step: str, more: Sequence[str]) -> None:
    """Run the recipe of a step in a process of its own.

    It says itself what goes wrong, so this process then ends without a word, with the same code.

    Args:
        more: options that win over those of the step's file.
    """
    module = recipe(step)
    code = in_child(run, module.main, module.Config, arguments(step, more))
    if code < 0:
        note(
            f"{step} was ended by {signal.Signals(-code).name}; the same command goes on from its checkpoint"
        )
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
    require_made(step)
    return out_of(step) / inner
