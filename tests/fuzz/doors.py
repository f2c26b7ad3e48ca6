"""What is fuzzed: ways in which files come in, each with whole files to begin from."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tiny
from pictures import chunk, encode, noise, samples
from PIL import ExifTags, Image

from magicap.captioners.load import load_captioner
from magicap.data import ImageFiles, read_captions, read_sentences
from magicap.evaluation.predictions import read_predictions
from magicap.images.reader import open_image
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.index import RetrievalIndex

CASES = Path(__file__).parents[1] / "cases"
PICTURE = noise(16, 16)


@dataclass(frozen=True)
class Door:
    """One way in."""

    name: str

    files: Mapping[Path, bytes]
    """Those of which one is changed each time, and what they hold."""

    read: Callable[[Path], object]
    """From the changed file, in its place, to whatever is made of it."""

    mended: Callable[[bytes], bytes] = bytes
    """What else is changed with it, so that not every change is noticed at once: checksums."""


def pictures(folder: Path) -> list[Door]:
    """A door for each format and compression."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    png = samples()["png"]
    more = {
        "exif": encode(noise(), "JPEG", exif=exif, comment=b"made by hand", icc_profile=b"0" * 200),
        "animation": encode(noise(), "GIF", save_all=True, append_images=[noise()], comment=b"two"),
        "palette": encode(noise().quantize(16), "PNG"),
        "chunks": png[:33] + chunk(b"tEXt", b"a\0b") + chunk(b"iTXt", b"a\0\0\0\0\0b") + png[33:],
        "large": encode(noise(300, 200), "JPEG", progressive=True),
    }
    return [
        Door(
            f"picture/{name}",
            _written({folder / name.replace(" ", "_"): content}),
            open_image,
            _with_checksums if content.startswith(b"\x89PNG") else bytes,
        )
        for name, content in {**samples(), **more}.items()
    ]


def others(folder: Path) -> list[Door]:
    """Captioners, memories, indexes, tar files, files of captions."""
    captioner, supervised = folder / "captioner", folder / "supervised"
    tiny.captioner(0, max_new_tokens=3).save_pretrained(captioner)
    tiny.supervised().save_pretrained(supervised)
    scorer = tiny.scorer()
    memory = folder / "memory"
    CaptionMemory.from_texts(scorer, ["A dog runs.", "A cat sleeps."]).save_pretrained(memory)
    index = RetrievalIndex(scorer)
    index.update_texts(["A dog runs.", "A cat sleeps."])
    index.save(folder / "a.magicap-index")

    def search(file: Path) -> object:
        return RetrievalIndex.load(file.parent, scorer).search_texts(["a dog"])

    def caption(root: Path) -> Callable[[Path], object]:
        return lambda file: load_captioner(root).caption(PICTURE)

    return [
        Door("captioner", _files(captioner), caption(captioner)),
        Door("supervised", _files(supervised), caption(supervised)),
        Door("memory", _files(memory), lambda file: CaptionMemory.from_pretrained(file.parent)),
        Door("index", _files(folder / "a.magicap-index"), search),
        Door("tar", _tars(folder), _read_all),
        Door("references", _forms(folder / "references"), read_captions),
        Door("sentences", _forms(folder / "sentences"), read_sentences),
        Door("predictions", _forms(folder / "predictions"), read_predictions),
    ]


def _with_checksums(png: bytes) -> bytes:
    """The chunks of a PNG with the checksums of what they hold."""
    made, position = png[:8], 8
    while position + 12 <= len(png):
        size = int.from_bytes(png[position : position + 4])
        body = png[position + 8 : position + 8 + size]
        made += chunk(png[position + 4 : position + 8], body)
        position += 12 + size
    return made + png[position:]


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _forms(folder: Path) -> dict[Path, bytes]:
    """Copies of the files of captions among the cases."""
    files = (path for path in sorted((CASES / "forms").iterdir()) if path.is_file())
    return _written({folder / file.name: file.read_bytes() for file in files})


def _tars(folder: Path) -> dict[Path, bytes]:
    made = {}
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for name in ("a.jpg", f"{'long/' * 30}b.jpg", "é.jpg"):
                member = tarfile.TarInfo(name)
                member.size = 700
                tar.addfile(member, io.BytesIO(bytes(700)))
        made[folder / f"{kind}.tar"] = buffer.getvalue()
        made[folder / f"{kind}.tar.gz"] = gzip.compress(buffer.getvalue())
    return _written(made)


def _read_all(file: Path) -> object:
    with ImageFiles(file) as found:
        return [found.read(name) for name in found]


def _written(files: dict[Path, bytes]) -> dict[Path, bytes]:
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files
