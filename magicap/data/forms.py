"""THE table of the forms that captions come in, and what each place of a file of any form says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from magicap.data import caption_files, coco, flickr8k, imagefolder, json_rows, saved_datasets, table
from magicap.data.checks import bad, show
from magicap.data.fields import REFERENCES
from magicap.data.hf_datasets import is_saved_dataset
from magicap.data.rows import Entry
from magicap.data.source import Source
from magicap.errors import BadData

# The files by which a folder is known as a data set.
_FOLDER_FILES = (
    "captions.jsonl",
    "dataset_*.json",
    "captions_*.json",
    "Flickr8k.token.txt",
    "captions.txt",
    "captions.csv",
    "results.csv",
)
_EXPECTED = (
    "captions.jsonl, Karpathy's dataset_*.json, COCO's captions_*.json, Flickr8k.token.txt, a table headed "
    "'image,caption', JSON rows or an object of captions by picture, or a folder with one of these, with "
    "metadata.jsonl, with a .txt beside each picture or written by save_to_disk of the library datasets"
)


@dataclass(frozen=True)
class Form:
    """How captions can be written in a file."""

    name: str

    fits: Callable[[Source], bool]
    """Whether a file is of this form, by its beginning."""

    entries: Callable[[Source, Sequence[str]], Iterator[Entry]]
    """What each place says; takes the file, and the fields of captions by precedence."""


FORMS = (
    Form("COCO annotations", coco.is_annotations, coco.annotation_entries),
    Form("Karpathy's", coco.is_karpathy, coco.karpathy_entries),
    Form("COCO annotations alone", json_rows.is_annotations_alone, json_rows.annotations_alone),
    Form("metadata of an imagefolder", imagefolder.is_metadata, imagefolder.metadata_entries),
    Form("JSON by picture", json_rows.is_by_image, json_rows.by_image_entries),
    Form("JSON rows", json_rows.is_rows, json_rows.row_entries),
    Form("Flickr8k.token.txt", flickr8k.is_tokens, flickr8k.token_entries),
    Form("table", table.is_table, table.table_entries),
    Form("path, tab, caption", table.is_tabbed, table.tabbed_entries),
)
"""The first that fits is taken."""


def read_entries(path: Path, keys: Sequence[str] = REFERENCES) -> Iterator[Entry] | Source:
    """What each place of a file or folder says; the text itself where it is of no form.

    Args:
        path: the file, or a folder that holds one, an imagefolder, text files beside pictures, or a dataset
            that the library ``datasets`` saved.
        keys: the fields of captions by precedence, :data:`~magicap.data.fields.REFERENCES` or
            :data:`~magicap.data.fields.PREDICTIONS`.

    Raises:
        BadData: it cannot be read, or is a folder without captions or with several files of them; from the
            iterator, a place that is not as its form has it.
        MissingPackage: a saved dataset, and ``datasets`` is not installed.
    """
    if is_saved_dataset(path):
        return saved_datasets.dataset_entries(path, keys)
    if path.is_dir():
        path = _file_in(path)
    if path.is_dir():
        if next(imagefolder.metadata_below(path), None) is not None:
            return imagefolder.imagefolder_entries(path, keys)
        return caption_files.caption_file_entries(path, keys)
    source = Source.read(path)
    for form in FORMS:
        if form.fits(source):
            return flickr8k.with_split_files(path, form.entries(source, keys))
    return source


def unknown_form(source: Source) -> BadData:
    """The error to raise of a file of no form."""
    return bad(source.path, _EXPECTED, show(source.head), "bring it into one of these forms")


def _file_in(folder: Path) -> Path:
    """The one data set in a folder: its file, or the folder itself if it has metadata or text files."""
    files = [file for pattern in _FOLDER_FILES for file in sorted(folder.glob(pattern))]
    metadata = [folder / name for name in imagefolder.METADATA if (folder / name).is_file()]
    if len(files) + len(metadata) > 1:
        listed = " and ".join(file.name for file in (*files, *metadata))
        raise bad(folder, "one data set", listed, "give the path of one")
    if files:
        return files[0]
    captions = (imagefolder.metadata_below(folder), caption_files.caption_files_below(folder))
    if not metadata and all(next(files, None) is None for files in captions):
        raise bad(folder, _EXPECTED, "a folder without any", "give the path of the file")
    return folder
