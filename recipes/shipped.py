"""The captioners that ship: their folders in the package, what these hold, and which step makes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from magicap.captioners.folder import SETTINGS_FILE
from magicap.captioners.sources import CONFIDENCE_FILE, FINE_GRAINED, LANGUAGE_MODEL, MEMORY, SCORER
from magicap.supervised.network import CONFIG_FILE, VOCABULARY_FILE, WEIGHTS_FILE

PACKAGE = Path(__file__).parents[1] / "magicap"


@dataclass(frozen=True)
class Shipped:
    """What a folder of the package is made of."""

    step: str
    """The step whose folder it comes from."""

    inner: str
    """Folder inside the step's."""

    files: tuple[str, ...]
    """Files and folders that it holds, the model card left out."""

    preset: str
    """Name of the preset that reads it."""


SHIPPED = {
    "embedded": Shipped(
        "confidence",
        "",
        (LANGUAGE_MODEL, SCORER, MEMORY, FINE_GRAINED, CONFIDENCE_FILE, SETTINGS_FILE),
        "embedded",
    ),
    "unpaired": Shipped("unpaired", "", (SCORER, MEMORY), "unpaired"),
    "baseline": Shipped(
        "cnn_lstm_longer", "best", (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE, SETTINGS_FILE), "cnn-lstm"
    ),
}
"""Folder of the package to what it holds."""
