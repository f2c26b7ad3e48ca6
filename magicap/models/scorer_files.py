"""A scorer read by its name: by open_clip, by transformers and converted, or by neither where it is plain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from magicap.errors import BadSettings
from magicap.models.class_vector import CLASS_VECTOR_FILE, attach_class_vector, load_class_vector
from magicap.models.finite import require_finite
from magicap.models.hugging_face_text import SHAPE_FILE, with_local_shape
from magicap.models.loading import explain_loading_errors, import_open_clip
from magicap.models.pinned import LOCAL_DIR, REPOSITORY, at_commit, hub_file
from magicap.models.plain_clip import plain_config, read_config, read_plain_clip
from magicap.models.plain_reader import PlainReader
from magicap.models.plain_tokenizer import PlainTokenizer
from magicap.models.transformers_clip import read_transformers_clip

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"

_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "pure_bf16", torch.float16: "pure_fp16"}


class ScorerParts(NamedTuple):
    """What an :class:`ImageTextScorer` is made of."""

    model: nn.Module
    tokenizer: Any
    preprocess: Callable[[Image], Tensor] | None
    config: dict[str, Any]


def read_scorer(
    name: str | Path,
    tag: str | None,
    device: str | torch.device,
    dtype: torch.dtype,
    revision: str | None,
) -> ScorerParts:
    """The parts of a scorer with finite weights; arguments and errors as of ``from_pretrained``."""
    if tag is not None:
        return by_open_clip(name, tag, device, dtype, revision)
    source = str(name).removeprefix(LOCAL_DIR)
    if _is_of_transformers(source, revision):
        return _by_transformers(source, device, dtype, revision)
    plain = None
    if revision is None and dtype == torch.float32:
        plain = _read_plain(Path(source), device)
    return plain or by_open_clip(name, tag, device, dtype, revision)


def _is_of_transformers(source: str, revision: str | None) -> bool:
    """Whether a scorer is a folder of transformers' layout, or may be such a repository, OWNER/NAME."""
    folder = Path(source)
    if folder.is_dir():  # whose revision open_clip's way refuses
        return revision is None and (folder / SHAPE_FILE).is_file() and not (folder / CONFIG_FILE).is_file()
    return REPOSITORY.fullmatch(source) is not None


def _by_transformers(
    source: str, device: str | torch.device, dtype: torch.dtype, revision: str | None
) -> ScorerParts:
    """A ``CLIPModel`` of transformers, converted."""
    model, tokenizer, config = read_transformers_clip(source, device, dtype, revision)
    require_finite(model, f"scorer {source!r}")
    return ScorerParts(model, tokenizer, None, config)


def _read_plain(folder: Path, device: str | torch.device) -> ScorerParts | None:
    """A plain scorer from a folder, without open_clip; None where that has to load it, or to refuse it."""
    if not folder.is_dir():
        return None
    with explain_loading_errors("scorer", str(folder)):
        config = read_config(folder / CONFIG_FILE)
        model = read_plain_clip(config, folder / WEIGHTS_FILE)
        tokenizer = None if model is None else PlainTokenizer.read(folder)
        if model is None or tokenizer is None or tokenizer.pad_token_id is None:
            return None
    if (file := folder / CLASS_VECTOR_FILE).is_file():
        attach_class_vector(model, load_class_vector(file))
    require_finite(model, f"scorer {str(folder)!r}")
    reader = PlainReader(tokenizer, model.shape.context_length)
    return ScorerParts(model.to(device), reader, None, plain_config(config))


def by_open_clip(
    name: str | Path,
    tag: str | None,
    device: str | torch.device,
    dtype: torch.dtype,
    revision: str | None,
) -> ScorerParts:
    """What open_clip reads.

    Raises:
        ModelNotFound, BadModel: nothing there, or nothing that can be used.
        BadSettings: a name of open_clip without a tag.
    """
    from PIL.Image import new as new_image

    open_clip = import_open_clip()
    name = f"{LOCAL_DIR}{name}" if Path(name).is_dir() else str(name)
    trained = (open_clip.get_pretrained_cfg(name, tag) or {}) if tag else {}
    if tag is None and (tags := open_clip.list_pretrained_tags_by_model(name)):
        raise BadSettings(
            f"the scorer {name!r}: expected a tag that says which weights, found none; name a tag: "
            f"{name}:{tags[0]}"
        )
    title = name.removeprefix(LOCAL_DIR) if tag is None else f"{name} ({tag})"
    weights: dict[str, Any] = {"pretrained": tag}
    with explain_loading_errors("scorer", title, hub_file(name, trained)[0]):
        if revision is not None:
            name, weights = at_commit(name, trained, revision)
        folder = Path(name.removeprefix(LOCAL_DIR)) if name.startswith(LOCAL_DIR) else None
        if folder is not None and (folder / SHAPE_FILE).is_file():
            text = open_clip.get_model_config(name)["text_cfg"]
            weights["text_cfg"] = with_local_shape(text, folder)
        model, preprocess = open_clip.create_model_from_pretrained(
            name,
            precision=_PRECISIONS[dtype],
            device=device,
            # The weights of OpenAI fit no other activation, and open_clip only warns of it.
            force_quick_gelu=bool(trained.get("quick_gelu", False)),
            **weights,
        )
        config = {
            "model_cfg": open_clip.get_model_config(name),
            "preprocess_cfg": model.visual.preprocess_cfg,
        }
        if trained.get("quick_gelu"):
            config["model_cfg"]["quick_gelu"] = True
        tokenizer = open_clip.get_tokenizer(name)
        preprocess(new_image("RGB", (8, 8)))  # what a damaged configuration says of it may be no numbers
    if folder is not None and (file := folder / CLASS_VECTOR_FILE).is_file():
        attach_class_vector(model, load_class_vector(file))
    require_finite(model, f"scorer {title!r}")
    return ScorerParts(model, tokenizer, preprocess, config)
