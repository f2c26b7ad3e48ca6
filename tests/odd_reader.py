"""A reader process for tests, of which some pictures are too much: by their names they crash or hang it."""

from __future__ import annotations

import errno
import os
import time

from magicap.errors import BadImage
from magicap.runs import reader_process
from magicap.runs.answers import Answer
from magicap.runs.records import is_transient

whole = reader_process.answer


def odd(picture, transform, limits):
    name = os.path.basename(picture) if isinstance(picture, str) else ""
    if name == "crash.png":
        os.abort()
    if name == "hang.png":
        time.sleep(60)
    if name == "once.png" and not os.path.exists(f"{picture}.seen"):
        open(f"{picture}.seen", "w").close()
        os.abort()
    if name == "stale.png":
        error = BadImage("unreadable", os.strerror(errno.ESTALE))
        error.__cause__ = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return Answer(error, is_transient(error))
    return whole(picture, transform, limits)


if __name__ == "__main__":
    reader_process.answer = odd
    reader_process.serve()
