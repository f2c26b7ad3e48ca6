#!/bin/sh
# Pins the newest versions of everything in constraints.txt. --python-version: pins that suit the oldest Python suit the newer
# ones too. The test behind it keeps addresses and local builds out.
set -eu
scripts/setup.sh uv
printf 'uv\nhatchling\n' | .venv/bin/uv pip compile --quiet --upgrade --no-header --no-annotate \
    --python-version 3.11 --extra dev pyproject.toml - > .venv/pins
if grep -vE '^[a-z0-9-]+==[0-9][0-9a-z.]*$' .venv/pins; then
    echo "constraints.txt is unchanged: expected only name==version, found the lines above." >&2
    exit 1
fi
{ grep '^#' constraints.txt; cat .venv/pins; } > .venv/constraints
mv .venv/constraints constraints.txt
