"""A reader process for tests, of which some pictures are too much: by their names they crash or hang it."""

from __future__ import annotations

import os
import time

from magicap.runs import reader_process

whole = reader_process.prepare


def odd(picture, transform):
    name = os.path.basename(picture)
    if name == "crash.png":
        os.abort()
    if name == "hang.png":
        time.sleep(60)
    if name == "once.png" and not os.path.exists(f"{picture}.seen"):
        open(f"{picture}.seen", "w").close()
        os.abort()
    return whole(picture, transform)


if __name__ == "__main__":
    reader_process.prepare = odd
    reader_process.serve()
