"""What a run has done since its last whole file, a JSON line a batch, on the disk before all else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from magicap.printable import without_surrogates
from magicap.runs.state import damaged

Batch = list[dict[str, Any]]
"""What is kept of pictures that were captioned together."""


class Journal:
    """A file that is only ever lengthened, by whole batches.

    A batch that was not written whole is forgotten: it is captioned anew, with the same pictures beside each
    other, so that numbers come out the same to the last bit.

    Args:
        path: of the file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def recover(self) -> Iterator[Batch]:
        """Cut off what was not written whole; what is left, batch by batch.

        Raises:
            OSError: the file cannot be read or cut.
            BadSettings: from the iterator, it is damaged.
        """
        end = 0
        if self.path.exists():
            with open(self.path, "rb+") as file:
                for line in file:
                    end += len(line) if line.endswith(b"\n") else 0
                file.truncate(end)
        return self._batches() if end else iter(())

    def append(self, batch: Sequence[dict[str, Any]]) -> None:
        """Write a batch so that it is still there after a crash of the machine.

        Raises:
            OSError: it cannot be written, as on a full disk; :meth:`recover` cuts off what was.
        """
        line = json.dumps(without_surrogates(batch), allow_nan=False) + "\n"
        with open(self.path, "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget all of it: it stands in a whole file now."""
        self.path.unlink(missing_ok=True)

    def _batches(self) -> Iterator[Batch]:
        size = self.path.stat().st_size  # what is appended meanwhile is not to be read again
        with open(self.path, "rb") as file:
            while file.tell() < size:
                try:
                    batch = json.loads(file.readline())
                except ValueError as error:
                    raise damaged(self.path, error) from error
                yield batch
