"""A run: pictures in, a row of each in files that are whole, whatever ends it on the way.

The captions of a batch go into the journal first, then into the file that is being written; a file is renamed
once it is whole, noted, and the journal of its rows dropped. A run that was killed goes on behind the last
batch of the journal: the rows before it are written again from there, without a model.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from magicap.captioners.decodings import keeping_hypotheses
from magicap.captioners.provenance import Provenance
from magicap.errors import BadImage, BadSettings, MagicapError, OutputFailed
from magicap.images.transform import PreparedImage
from magicap.printable import without_surrogates
from magicap.results import Caption
from magicap.runs.journal import Batch as Journaled
from magicap.runs.journal import Journal
from magicap.runs.outputs import new_writer
from magicap.runs.readers import ReaderPool
from magicap.runs.records import ListingDigest, Record, in_batches
from magicap.runs.rows import Row
from magicap.runs.settings import RunSettings
from magicap.runs.sources import Listing
from magicap.runs.state import Counts, RunState, Shard
from magicap.runs.tags import HYPOTHESES, tags_of
from magicap.runs.text_files import ExistingTexts
from magicap.runs.workers import CaptionWorkers, InTurn

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner

AHEAD = 3
"""Batches that are read before they are captioned."""

OnRows = Callable[[list[Row], Counts], object]


class TooManyErrors(MagicapError, RuntimeError):
    """A run that stops because more pictures failed than may."""


@dataclass
class _Item:
    """One picture on its way through a run."""

    record: Record
    row: Row | None = None
    """Its row, where it needs no captioner."""

    earlier: str | None = None
    """What its text file held before the run."""

    picture: Future[PreparedImage] | None = None
    """Where it is read; None: it is not to be captioned."""


class _Batch(NamedTuple):
    """Pictures that are captioned together."""

    items: list[_Item]
    is_journaled: bool
    """Whether their rows stand in the journal."""


class Run:
    """A run that was begun or is gone on with.

    Args:
        settings: what it is to do.
        state: what is done of it.
        captioner: of either kind.
        readers: read the pictures.
        on_rows: called with the rows that are new, and the counts of all so far.
        workers: caption several batches at once, with captioners like this one; None: it captions alone.

    Raises:
        BadSettings: the run that was begun is another, or the captioner cannot give what is asked.
    """

    def __init__(
        self,
        settings: RunSettings,
        state: RunState,
        captioner: BaseCaptioner[Any],
        readers: ReaderPool,
        on_rows: OnRows = lambda rows, counts: None,
        workers: CaptionWorkers | None = None,
    ) -> None:
        self._settings, self._state, self._readers = settings, state, readers
        self._on_rows, self._workers = on_rows, workers or InTurn(captioner)
        self._transform = captioner.transform
        self._decoding = with_hypotheses(captioner.decoding, settings)
        self._made_by = Provenance.of(captioner).entries
        self._counts = Counts()
        self._texts = ExistingTexts(settings) if settings.kind == "txt" else None
        state.begin(
            {**{f"captioner_{name}": value for name, value in self._made_by.items()}, **settings.identity}
        )

    def finish(self) -> Counts:
        """Do all that is left to do.

        Raises:
            BadSettings: the sources have changed since the run began, or hold no picture.
            TooManyErrors, OutputFailed: the run stopped; the same call goes on with it.
            SourceUnavailable: as these two, for sources that cannot be reached now.
        """
        done = list(self._state.shards())
        if done:  # killed after the last of them was noted
            self._journal(len(done) - 1).remove()
        records = self._records()
        number = 0
        while block := list(islice(records, 1)):  # one ahead: there is no file without rows
            file = self._of_one_file(block, records)
            if number < len(done):
                self._verify(done[number], file)
            else:
                self._write(number, file)
            number += 1
        if number < len(done):
            raise self._changed("fewer pictures")
        if not number and self._settings.shard[1] == 1:
            raise BadSettings(f"no pictures found in {', '.join(self._settings.sources)}")
        if not number:  # there are more shards than pictures
            self._write(0, iter(()))
        self._state.complete(self._counts)
        return self._counts

    def _records(self) -> Iterator[Record]:
        """The pictures of this shard."""
        settings = self._settings
        i, count = settings.shard
        listing = Listing(settings.sources, settings.column, settings.split)
        return islice(islice(listing, settings.limit), i, None, count)

    def _of_one_file(self, first: list[Record], records: Iterator[Record]) -> Iterator[Record]:
        yield from first
        yield from records if self._settings.replaces else islice(records, self._settings.rows_per_file - 1)

    def _verify(self, shard: Shard, records: Iterable[Record]) -> None:
        """Compare the pictures of a file that is whole with those that are listed now."""
        digest = ListingDigest()
        for record in records:
            digest.add(record)
            if self._texts is not None:
                with suppress(BadImage):
                    self._texts.claim(record)
        path = self._state.path_of(shard)
        if not path.exists():
            raise BadSettings(
                f"{path}: expected what the run wrote, found nothing; put it back, or begin anew"
            )
        if digest.hexdigest() != shard.digest:
            raise self._changed(f"other pictures, or changed ones, than those of {shard.file}")
        self._counts += shard.counts
        self._on_rows([], self._counts)

    def _write(self, number: int, records: Iterator[Record]) -> None:
        """One file of the output."""
        start = number * self._settings.rows_per_file
        journal, counts, digest = self._journal(number), Counts(), ListingDigest()
        with _writing(self._settings.output):
            kept = journal.recover()
            writer = new_writer(self._settings, self._state.folder, number, self._made_by)
        try:
            batches = self._ahead(self._batches(records, kept))
            for (items, is_journaled), rows in self._captioned(batches, start):
                if not is_journaled:
                    with _writing(journal.path):
                        journal.append([self._line(item, row) for item, row in zip(items, rows, strict=True)])
                with _writing(self._settings.output):
                    for item, row in zip(items, rows, strict=True):
                        digest.add(item.record)
                        writer.add(item.record, row, item.earlier)
                of_batch = Counts(len(rows), sum(row.has_failed for row in rows), sum(map(_is_skipped, rows)))
                counts += of_batch
                self._counts += of_batch
                self._on_rows([] if is_journaled else rows, self._counts)
                self._require_few_errors()
            with _writing(self._settings.output):
                writer.finish()
                os.sync()  # what went beside it too, before the journal goes
        finally:
            writer.abandon()
        with _writing(self._state.folder):
            self._state.keep(number, Shard(counts, digest.hexdigest(), writer.target.name))
            journal.remove()

    def _journal(self, number: int) -> Journal:
        """What is done of one file."""
        return Journal(self._state.folder / f"journal-{number:05d}.jsonl")

    def _batches(self, records: Iterator[Record], kept: Iterator[Journaled]) -> Iterator[_Batch]:
        """Batches of pictures, with the rows of the first of them, which the journal has."""
        # small ones first: there is something to see at once
        for batch in in_batches(records, self._settings.batch_size, first=1):
            done = next(kept, None)
            if done is None:
                yield _Batch([_Item(record) for record in batch], is_journaled=False)
                continue
            for record, line in zip(batch, done, strict=False):
                if (name_of(record), record.stamp) != (line["row"]["id"], line["stamp"]):
                    raise self._changed(f"{name_of(record)} where {line['row']['id']} was, or a changed one")
            if len(batch) != len(done):
                raise self._changed("fewer pictures")
            yield _Batch(
                [
                    _Item(record, Row.from_dict(line["row"]), line["earlier"])
                    for record, line in zip(batch, done, strict=True)
                ],
                is_journaled=True,
            )
        if next(kept, None) is not None:
            raise self._changed("fewer pictures")

    def _ahead(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """Batches whose pictures are being read, a few ahead of those that are captioned."""
        begun: deque[_Batch] = deque()
        for batch in batches:
            for item in batch.items:
                self._begin(item)
            begun.append(batch)
            if len(begun) > AHEAD:
                yield begun.popleft()
        yield from begun

    def _begin(self, item: _Item) -> None:
        """Have a picture read, unless its row is there, or its text file is kept."""
        record = item.record
        try:
            if self._texts is not None and item.row is None:
                item.earlier = self._texts.before(record)
                if self._texts.is_kept(item.earlier):
                    return
            elif self._texts is not None:
                self._texts.claim(record)
            elif self._settings.is_in_place and without_surrogates(record.name) != record.name:
                message = (
                    "expected a name of text, which metadata.jsonl can hold, found other bytes; rename it"
                )
                raise BadImage("path", message, source=record.id)
        except BadImage as error:
            item.row = item.row or Row.failed(name_of(record), error)
        if item.row is None:
            item.picture = self._readers.submit(record, self._transform)

    def _captioned(self, batches: Iterator[_Batch], seed: int) -> Iterator[tuple[_Batch, list[Row]]]:
        """Batches with their rows, in order; workers are busy with those behind them meanwhile."""
        begun: deque[tuple[_Batch, Callable[[], list[Row]]]] = deque()
        for batch in batches:
            begun.append((batch, self._rows(batch.items, seed)))
            seed += len(batch.items)
            if len(begun) > self._workers.ahead:
                first, rows = begun.popleft()
                yield first, rows()
        yield from ((batch, rows()) for batch, rows in begun)

    def _rows(self, items: list[_Item], seed: int) -> Callable[[], list[Row]]:
        """What gives the rows of a batch once they are captioned; the journal has some already."""
        pictures: dict[int, PreparedImage] = {}
        rows: dict[int, Row] = {}
        for place, item in enumerate(items):
            if item.row is not None:
                rows[place] = item.row
            elif item.picture is None:
                rows[place] = Row(name_of(item.record))
            else:
                try:
                    pictures[place] = item.picture.result()
                except BadImage as error:
                    rows[place] = Row.failed(name_of(item.record), error)
        captions: Callable[[], list[Caption]] = list
        if pictures:
            captions = self._workers.submit(
                list(pictures.values()), self._decoding, self._settings.batch_size, seed
            )

        def finished() -> list[Row]:
            for (place, picture), caption in zip(pictures.items(), captions(), strict=True):
                rows[place] = self._row(items[place].record, picture, caption)
            return [rows[place] for place in range(len(items))]

        return finished

    def _row(self, record: Record, picture: PreparedImage, caption: Caption) -> Row:
        settings = self._settings
        row = Row.of(name_of(record), caption, (picture.width, picture.height))
        if row.has_failed:
            return row
        texts = list(dict.fromkeys([caption.text, *(other.text for other in caption.hypotheses)]))
        captions = tuple(settings.prefix + text + settings.suffix for text in texts[: settings.n])
        return replace(
            row,
            caption=captions[0],
            captions=captions if settings.n > 1 else (),
            tags=tags_of(caption) if settings.tags else (),
        )

    def _line(self, item: _Item, row: Row) -> dict[str, Any]:
        """What the journal keeps of a picture."""
        values = row.to_dict(self._settings.columns)
        return {"row": values, "stamp": item.record.stamp, "earlier": item.earlier}

    def _require_few_errors(self) -> None:
        most = self._settings.max_errors
        if most is not None and self._counts.errors > most:
            raise TooManyErrors(
                f"expected at most {most} pictures to fail, found {self._counts.errors} of "
                f"{self._counts.rows}; look at the errors above, then go on with a higher --max-errors"
            )

    def _changed(self, what: str) -> BadSettings:
        return BadSettings(
            f"{self._settings.output}: expected the sources as they were when the run began, found {what}; "
            "put them back, or begin anew with another --out"
        )


def name_of(record: Record) -> str:
    """A picture's id as rows have it: text that any reader takes."""
    return str(without_surrogates(record.id))


def with_hypotheses(decoding: Any, settings: RunSettings) -> Any:
    """A decoding that gives as many hypotheses as a run needs.

    Raises:
        BadSettings: it compares no whole captions.
    """
    wanted = max(settings.n, HYPOTHESES if settings.tags else 1)
    return keeping_hypotheses(decoding, wanted, option="--tags" if settings.tags else "--n")


def _is_skipped(row: Row) -> bool:
    return not row.caption and not row.error


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Name the place of what cannot be written."""
    try:
        yield
    except MagicapError:
        raise
    except OSError as error:
        raise OutputFailed(
            f"{place} cannot be written: {error.strerror or error}; make room, then run the command again"
        ) from error
