"""Write the model cards of the captioners that ship: README.md in each of their folders.

    python recipes/model_card.py

A card is its template (recipes/cards/) with what can be looked up filled in: sizes and settings from the
folder itself, the steps that make it from recipes/configs, and measured figures from docs/figures.json. Where
a folder holds other weights, or decodes otherwise, than what was measured, its card says so.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

from chain import STEPS, about, config_file, with_inputs
from cli import run
from shipped import PACKAGE, SHIPPED

from magicap.captioners.folder import SETTINGS_FILE
from magicap.captioners.presets import PRESETS
from magicap.decoding.settings import DECODINGS
from magicap.errors import BadModel, BadSettings
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.settings_io import from_dict, to_dict
from magicap.supervised.settings import SUPERVISED_DECODINGS

ROOT = Path(__file__).parents[1]
TEMPLATES = Path(__file__).parent / "cards"
FIGURES = ROOT / "docs" / "figures.json"
CARD = "README.md"
ALL_DECODINGS = DECODINGS | SUPERVISED_DECODINGS


@dataclass(frozen=True)
class Config:
    only: list[str] = field(default_factory=list)
    """Folders of the package whose cards to write: embedded, unpaired, baseline. Default: all."""

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(SHIPPED):
            raise BadSettings(f"--only takes some of {', '.join(SHIPPED)}, found {min(unknown)!r}")


def main(config: Config) -> None:
    for name in config.only or SHIPPED:
        write_card(name, PACKAGE / name)


def write_card(name: str, folder: Path) -> None:
    """Write the card of a captioner into its folder.

    Args:
        name: key of ``SHIPPED``.
    """
    (folder / CARD).write_text(card(name, folder), encoding="utf-8")


def card(name: str, folder: Path) -> str:
    """The card of a captioner that lies in a folder.

    ``{{...}}`` in the template becomes what one of these gives: ``parameters PATH``, which a PREFIX of names
    may follow, ``size PATH``, ``dtype PATH``, ``captions PATH``, ``words PATH``, ``decoding``, ``steps``,
    ``figures``, ``value NAME``.

    Raises:
        BadModel: the template asks for something that is not there.
    """
    measured = json.loads(FIGURES.read_text(encoding="utf-8"))[name]
    figures = {figure["name"]: figure for figure in measured["figures"]}
    looked_up: Mapping[str, Callable[..., str]] = {
        "parameters": lambda path, prefix="": parameters(folder / path, prefix),
        "size": lambda path: size(folder / path),
        "dtype": lambda path: dtype(folder / path),
        "captions": lambda path: f"{captions(folder / path):,}",
        "words": lambda path: f"{words(folder / path):,}",
        "decoding": lambda: short(decoding(name, folder)),
        "steps": lambda: steps(SHIPPED[name].step),
        "figures": lambda: figures_table(measured, name, folder),
        "value": lambda figure: str(figures[figure]["value"]),
    }

    def fill(match: re.Match[str]) -> str:
        key, *arguments = match[1].split()
        try:
            return looked_up[key](*arguments)
        except (KeyError, TypeError, OSError) as error:
            raise BadModel(f"{name}.md asks for {match[0]}, which is not there: {error!r}") from error

    template = (TEMPLATES / f"{name}.md").read_text(encoding="utf-8")
    return re.sub(r"\{\{([^{}]+)\}\}", fill, template)


def tensors(file: Path) -> dict[str, Any]:
    """Name to dtype and shape of the tensors of a safetensors file, whose numbers are not read."""
    with open(file, "rb") as content:
        header = json.loads(content.read(*struct.unpack("<Q", content.read(8))))
    return {name: value for name, value in header.items() if name != "__metadata__"}


def parameters(file: Path, prefix: str = "") -> str:
    """How many parameters there are whose names begin so, in millions; a batch norm's statistics are none."""
    count = sum(
        prod(value["shape"])
        for name, value in tensors(file).items()
        if name.startswith(prefix) and not re.search(r"running_(mean|var)$|num_batches_tracked$", name)
    )
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e6:.2f} M"


def dtype(file: Path) -> str:
    """The precision of a file's weights."""
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
    return " and ".join(sorted({names[v["dtype"]] for v in tensors(file).values() if v["dtype"] in names}))


def size(path: Path) -> str:
    """The size of a file, or of all files of a folder, in megabytes of a million bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if not files:
        raise FileNotFoundError(path)
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def captions(folder: Path) -> int:
    """How many captions a memory holds."""
    return len(CaptionMemory.from_pretrained(folder))


def words(file: Path) -> int:
    """How many words a vocabulary has, without its special entries such as ``<start>``."""
    entries = file.read_text(encoding="utf-8").splitlines()
    return sum(not (entry.startswith("<") and entry.endswith(">")) for entry in entries)


def decoding(name: str, folder: Path) -> Any:
    """The settings that a captioner decodes with: its folder's, or its preset's."""
    if not (folder / SETTINGS_FILE).is_file():
        return PRESETS[SHIPPED[name].preset].decoding
    values = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    return from_dict(values["decoding"], ALL_DECODINGS)


def short(settings: Any) -> str:
    """Settings as one would write them, those at their default left out."""
    changed = [
        f"{known.name}={getattr(settings, known.name)!r}"
        for known in fields(settings)
        if getattr(settings, known.name) != known.default
    ]
    return f"{type(settings).__name__}({', '.join(changed)})"


def steps(last: str) -> str:
    """A table of a step and all that it is made from."""
    rows = [
        f"| `{step}` | `{STEPS[step].recipe}.py` | {about(step).rstrip('.')} |" for step in with_inputs(last)
    ]
    files = f"`{config_file('*').relative_to(ROOT).as_posix()}`"
    return "\n".join([f"| step: {files} | recipe | makes |", "|---|---|---|", *rows])


def figures_table(measured: Mapping[str, Any], name: str, folder: Path) -> str:
    """What was measured, of what, and by which command."""
    rows = ["| measured | system | on | n | value |", "|---|---|---|--:|--:|"]
    for figure in measured["figures"]:
        value = f"{figure['value']}{figure.get('unit', '')}"
        if interval := figure.get("interval"):
            value += f" ({interval[0]} to {interval[1]})"
        rows.append(
            f"| {figure['what']} | {figure['system']} | {figure['split']} | {figure['n']:,} | {value} |"
        )
    commands = dict.fromkeys(figure["command"] for figure in measured["figures"] if figure["command"])
    listed = "\n".join(commands)
    parts = [note(measured, name, folder), "\n".join(rows), f"```bash\n{listed}\n```"]
    return "\n\n".join(part for part in parts if part)


def note(measured: Mapping[str, Any], name: str, folder: Path) -> str:
    """How the captioner of a folder differs from the one that was measured; empty where it does not."""
    if weights_digest(folder) != measured["weights"]:
        return "**Not measured yet**: the weights in this folder are others than those of the figures below."
    now = to_dict(decoding(name, folder), ALL_DECODINGS)
    changed = [
        f"`{key}` was {before!r} and is {now.get(key)!r} now"
        for key, before in measured["decoding"].items()
        if now.get(key) != before
    ]
    return f"**Measured with another decoding**: {'; '.join(changed)}." if changed else ""


def weights_digest(folder: Path) -> str:
    """Twelve digits of all safetensors files below a folder."""
    digest = blake2b(digest_size=6)
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    run(main, Config)
