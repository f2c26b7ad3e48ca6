"""Inputs that are too large or too odd to lie in a repository: broken captioners, holes, pipes, odd names.

:data:`MAKERS` write folders of them; :func:`damage_index` makes damaged copies of a whole index.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

from magicap.captioners.presets import EMBEDDED

GB = 1 << 30
PICTURES = ("beach.jpg", "market.jpg", "bridge.jpg")
ODD_NAMES = (
    b"new\nline.jpg",
    b"tab\tname.jpg",
    b"cr\rback.jpg",
    b"esc\x1b[31mred\x1b[2J.jpg",
    b"osc\x1b]0;title\x07.jpg",
    b"bell\x07.jpg",
    "c1\u009b31m.jpg".encode(),
    "ls\u2028sep.jpg".encode(),
    "rlo\u202egpj.exe.jpg".encode(),
    b"bad\xff\xe9.jpg",
    b"bad\xfe\xe9.jpg",
    b"-dash.jpg",
    b" space .jpg",
    b'quote".jpg',
)
MANY, EMPTY_ONES = 900, (64, 300)
Tensors = dict[str, np.ndarray]


def damage_index(whole: Path) -> None:
    """Beside an index of the sentences "A dog runs." and "A cat sleeps.", write damaged copies of it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(whole, whole.parent / f"{name}.magicap-index"))

    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000_000, np.int32)), pa.array(["a dog runs"]))
    _replace_items(copy("rows"), text.cast(pa.string()))
    with open(copy("padded") / "index.json", "ab") as file:
        file.write(b" " * (GB // 16))
    header = json.loads((whole / "index.json").read_text())
    rewrite(copy("nan") / header["vectors"], lambda file: file.update(vectors=file["vectors"] * np.nan))
    rewrite(copy("zero") / header["vectors"], lambda file: file.update(vectors=file["vectors"] * 0))
    rewrite(copy("swapped") / header["vectors"], lambda file: file.update(vectors=file["vectors"][::-1]))
    (copy("other") / "index.json").write_text(json.dumps({**header, "scorer": "0123456789ab"}))


def scene(number: int = 0) -> Image.Image:
    """Sky, grass, a red ball to the left, a post to the right; from number 1 on a yellow sail too."""
    width, height = 96, 64
    image = Image.new("RGB", (width, height), (110, 170, 235 - 9 * number % 200))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, height * 6 // 10, width, height], fill=(60, 140, 50))
    draw.ellipse([8, 16, 40, 48], fill=(220, 30, 30))
    draw.rectangle([72, 8, 80, height * 6 // 10], fill=(120, 80, 40))
    if number:
        draw.polygon([(48, 8), (64, 32), (38, 32)], fill=(240, 220, 40))
    return image


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 60} if kind == "JPEG" else {}))
    return buffer.getvalue()


def captioner(folder: Path, *own: str) -> Path:
    """A captioner's folder: links to the embedded one; the files named are copies that may be changed."""
    shutil.copytree(EMBEDDED, folder, copy_function=lambda a, b: os.symlink(os.path.realpath(a), b))
    for name in own:
        real = os.path.realpath(folder / name)
        (folder / name).unlink()
        shutil.copy(real, folder / name)
    return folder


def _numbers(out: Path) -> None:
    out.mkdir(parents=True)
    vectors = "memory/vectors.safetensors"

    def permuted(tensors: Tensors) -> None:
        tensors["axes"] = tensors["axes"][:, np.random.default_rng(0).permutation(tensors["axes"].shape[1])]

    def swapped(tensors: Tensors) -> None:
        tensors["nibbles"] = tensors["nibbles"][::-1]

    changes: dict[str, Callable[[Tensors], Any]] = {
        "memory_nan": lambda tensors: tensors.update(axes=tensors["axes"] * np.nan),
        "memory_zero": lambda tensors: tensors.update(axes=tensors["axes"] * 0),
        "memory_other_scorer": permuted,
        "memory_swapped": swapped,
        "memory_one_short": lambda tensors: tensors.update(nibbles=tensors["nibbles"][:-1]),
    }
    for name, change in changes.items():
        rewrite(captioner(out / name, vectors) / vectors, change)
    counts = captioner(out / "memory_counts_zero", "memory/ngrams.safetensors") / "memory/ngrams.safetensors"
    rewrite(counts, lambda tensors: tensors.update(counts=tensors["counts"] * 0))
    shutil.rmtree(captioner(out / "memory_lost") / "memory")
    (captioner(out / "prompt_lost") / "language_model/soft_prompt.safetensors").unlink()
    _spoil(out / "scorer_nan", "scorer/open_clip_model.safetensors", "visual")
    _spoil(out / "language_model_nan", "language_model/model.safetensors", "wte")
    _spoil(out / "prompt_nan", "language_model/soft_prompt.safetensors", "memory.0.bias")
    for name, field in (("nan", "NaN"), ("negative", "-5.0"), ("comma", "1,0")):
        _java(out / f"java_{name}", field)


def _limits(out: Path) -> None:
    out.mkdir(parents=True)
    os.mkfifo(out / "fifo.jsonl")
    os.mkfifo(out / "fifo.jpg")
    bomb = captioner(out / "gz_bomb", "memory/captions.gz") / "memory/captions.gz"
    bomb.write_bytes(_bomb(b'["a dog runs"', b" " * (1 << 24), 128, b"]"))
    _tars(out, encoded(scene()))
    with open(out / "hole.jsonl", "wb") as file:
        file.truncate(6 * GB)
    png = encoded(scene(), "PNG")
    (out / "chunks.png").write_bytes(png[:33] + _chunk(b"abCd") * 8_000_000 + png[33:])
    (out / "comments.pgm").write_bytes(b"P2 3 2 255\n" + b"# c\n" * 25_000_000 + b"1 2 3 4 5 6\n")
    settings = captioner(out / "settings_fifo") / "magicap.json"
    settings.unlink()
    os.mkfifo(settings)
    settings = captioner(out / "settings_deep") / "magicap.json"
    settings.unlink()
    settings.write_text("[" * 100_000)


def _bomb(head: bytes, unit: bytes, times: int, tail: bytes) -> bytes:
    """Gzip of a head, many times the same, and a tail; the same is packed but once."""

    def packed(content: bytes, flush: int) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(content) + packer.flush(flush)

    check = zlib.crc32(head)
    for _ in range(times):
        check = zlib.crc32(unit, check)
    check, size = zlib.crc32(tail, check), len(head) + times * len(unit) + len(tail)
    body = (
        packed(head, zlib.Z_FULL_FLUSH)
        + times * packed(unit, zlib.Z_FULL_FLUSH)
        + packed(tail, zlib.Z_FINISH)
    )
    return gzip.compress(b"")[:10] + body + struct.pack("<II", check, size % (1 << 32))


def _tars(out: Path, jpeg: bytes) -> None:
    """Tar files and a folder whose last picture is said to have, or has, 6 GiB."""
    two = b"".join(_member(name, len(jpeg), jpeg) for name in PICTURES[:2])
    (out / "ok.tar").write_bytes(two + _member(PICTURES[2], len(jpeg), jpeg) + bytes(1024))
    (out / "cut.tar").write_bytes(two + _member(PICTURES[2], 6 * GB, jpeg) + bytes(1024))
    with open(out / "hole.tar", "wb") as file:
        file.write(two + _member(PICTURES[2], 6 * GB, jpeg))
        file.truncate(len(two) + 512 + 6 * GB)
        file.seek(0, os.SEEK_END)
        file.write(bytes(1024))
    (out / "large").mkdir()
    for name in PICTURES:
        (out / "large" / name).write_bytes(jpeg)
    os.truncate(out / "large" / PICTURES[2], 6 * GB)


def _streams(out: Path) -> None:
    for folder in ("odd", "odd_broken", "many"):
        (out / folder).mkdir(parents=True)
    jpeg = encoded(scene())
    for name in ODD_NAMES:
        Path(os.fsdecode(bytes(out / "odd") + b"/" + name)).write_bytes(jpeg)
        Path(os.fsdecode(bytes(out / "odd_broken") + b"/" + name)).write_bytes(b"")
    for number in range(MANY):
        content = b"" if number in EMPTY_ONES else encoded(scene(number))
        (out / "many" / f"{number:04}.jpg").write_bytes(content)


def _links(out: Path) -> None:
    (out / "ring/inner").mkdir(parents=True)
    (out / "ring/a.jpg").write_bytes(encoded(scene()))
    os.symlink("loop.jpg", out / "loop.jpg")
    os.symlink("..", out / "ring/inner/up")
    os.symlink("gone.jpg", out / "ring/dangling.jpg")


def rewrite(path: Path, change: Callable[[Tensors], Any]) -> None:
    """Write a file of tensors anew, changed."""
    tensors = load_file(path)
    change(tensors)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _spoil(folder: Path, file: str, key: str) -> None:
    """A captioner with a NaN in the first of a file's tensors that has such a name."""

    def change(tensors: Tensors) -> None:
        name = next(name for name in sorted(tensors) if key in name)
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[0] = np.nan

    rewrite(captioner(folder, file) / file, change)


def _java(folder: Path, field: str) -> None:
    """A 'java' for the front of PATH that answers every line with 23 such fields."""
    folder.mkdir(parents=True)
    answer = " ".join([field] * 23)
    (folder / "java").write_text(f"#!/bin/sh\nwhile read line; do echo '{answer}'; done\n")
    (folder / "java").chmod(0o755)


def _member(name: str, size: int, body: bytes = b"") -> bytes:
    header = tarfile.TarInfo(name)
    header.size = size
    return header.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def _chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _replace_items(index: Path, text: pa.Array) -> None:
    """Put other sentences into an index, whose index.json still counts the ones before."""
    header = json.loads((index / "index.json").read_text())
    none = np.zeros(len(text), np.int64)
    columns = {
        "path": pa.nulls(len(text), pa.string()),
        "path_bytes": pa.nulls(len(text), pa.binary()),
        "size": none,
        "mtime_ns": none,
        "text": text,
    }
    pq.write_table(pa.table(columns), index / header["items"], compression="zstd")


MAKERS: dict[str, Callable[[Path], None]] = {
    "numbers": _numbers,
    "limits": _limits,
    "streams": _streams,
    "links": _links,
}
"""Name of a kind of inputs to what writes them into a new folder of that name."""
