"""Device, precision, processes and tracker of a run, by accelerate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from magicap.errors import BadSettings, MissingPackage
from magicap.extras import require
from magicap.training.options import LoopConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def start_accelerator(
    config: LoopConfig, folder: Path | None, *, may_leave_out_weights: bool = False
) -> Accelerator:
    """The device, the precision, the processes and the tracker of a run.

    Args:
        config: whose plain values the tracker gets too.
        folder: of the run; None: no tracker.
        may_leave_out_weights: see :class:`magicap.training.objectives.base.Objective`.

    Raises:
        BadSettings: a precision that the device does not have, or no such tracker.
        MissingPackage: the tracker's package is not installed.
    """
    accelerate, options = require("accelerate"), config.run
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
            kwargs_handlers=[
                accelerate.DistributedDataParallelKwargs(find_unused_parameters=may_leave_out_weights)
            ],
        )
    except ValueError as error:  # fp16 without a GPU
        raise BadSettings(f"--mixed_precision {options.mixed_precision}: {error}") from error
    if folder is not None and accelerator.log_with:
        settings = {
            name: value for name, value in vars(config).items() if isinstance(value, (int, float, str))
        }
        accelerator.init_trackers(folder.name, config=settings)
    return accelerator


def _require_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    if name not in LOGGER_TYPE_TO_CLASS:
        raise BadSettings(f"--log_with is one of {', '.join(LOGGER_TYPE_TO_CLASS)}, found {name!r}")
    if name in LoggerType and name not in get_available_trackers():
        raise MissingPackage(f"--log_with {name}: its package is not installed; pip install {name}")
