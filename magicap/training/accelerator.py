"""Device, precision, processes and tracker of a run, by accelerate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from magicap.errors import BadSettings, MissingPackage
from magicap.extras import require
from magicap.training.options import RunOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


def start_accelerator(options: RunOptions, folder: Path | None) -> Accelerator:
    """The device, the precision, the processes and the tracker of a run.

    Raises:
        BadSettings: a precision that the device does not have, or no such tracker.
        MissingPackage: the tracker's package is not installed.
    """
    accelerate = require("accelerate")
    # It warns of weights that a language model uses twice, at every checkpoint.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    if options.log_with is not None:
        _require_tracker(options.log_with)
    try:
        accelerator: Accelerator = accelerate.Accelerator(
            cpu=options.cpu,
            mixed_precision=options.mixed_precision,
            log_with=options.log_with if folder is not None else None,
            project_dir=folder,
        )
    except ValueError as error:  # fp16 without a GPU
        raise BadSettings(f"--mixed_precision {options.mixed_precision}: {error}") from error
    if accelerator.log_with:
        accelerator.init_trackers("magicap")
    return accelerator


def _require_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise BadSettings(f"--log_with is one of {', '.join(LOGGER_TYPE_TO_CLASS)}, found {name!r}")
    if name not in get_available_trackers():
        raise MissingPackage(f"--log_with {name}: its package is not installed; pip install {name}")
