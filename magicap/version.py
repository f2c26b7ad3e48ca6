"""The version of this package, in one place, and those of what it runs on."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0"

LIBRARIES = ("torch", "transformers", "open_clip_torch", "timm", "safetensors", "pillow", "numpy")
"""The libraries on which captions depend."""


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python and of the libraries; None for one that is not installed."""
    known: dict[str, str | None] = {"magicap": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            known[library] = version(library)
        except PackageNotFoundError:
            known[library] = None
    return known | {"platform": platform.platform()}
