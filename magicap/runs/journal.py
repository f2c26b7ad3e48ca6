"""What a run has done since its last whole file, a JSON line a picture, on the disk before all else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from magicap.printable import without_surrogates


class Journal:
    """A file of JSON lines that is only ever lengthened, by whole batches.

    Args:
        path: of the file, which need not be there.
        batch: lines that are written together. A batch that is not whole is forgotten: it is captioned anew,
            with the same pictures beside each other, so that numbers come out the same to the last bit.
    """

    def __init__(self, path: Path, batch: int) -> None:
        self.path, self._batch = path, batch

    def recover(self) -> int:
        """Cut off what is no whole batch, and count the lines that are left.

        Raises:
            OSError: the file cannot be read or cut.
        """
        if not self.path.exists():
            return 0
        kept, end, position = 0, 0, 0
        with open(self.path, "rb+") as file:
            for count, line in enumerate(file, start=1):
                position += len(line)
                if line.endswith(b"\n") and count % self._batch == 0:
                    kept, end = count, position
            file.truncate(end)
        return kept

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines so that they are still there after a crash of the machine.

        Raises:
            OSError: they cannot be written, as on a full disk; :meth:`recover` cuts off what was.
        """
        text = "".join(json.dumps(without_surrogates(line), allow_nan=False) + "\n" for line in lines)
        with open(self.path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def lines(self, count: int) -> Iterator[dict[str, Any]]:
        """The first ``count`` lines."""
        if count:
            with open(self.path, encoding="utf-8") as file:
                yield from map(json.loads, islice(file, count))

    def remove(self) -> None:
        """Forget all of it: it stands in a whole file now."""
        self.path.unlink(missing_ok=True)
