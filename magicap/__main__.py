"""``python -m magicap``: the command line."""

import sys

from magicap.cli import main

if __name__ == "__main__":
    sys.exit(main())
