"""The figures of a file of captions; the same as ``magicap eval``.

python eval/evaluate.py predictions.json --references captions.jsonl --split test
"""

import sys

from magicap.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
