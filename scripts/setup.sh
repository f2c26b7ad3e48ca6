#!/bin/sh
# Makes .venv with what is asked for: scripts/setup.sh core, or dev. Everything it says goes to stderr, so that stdout holds the caption alone.
# TORCH_BACKEND=cpu takes torch without CUDA, from its own index: a tenth of the size.
# PYTHON names the interpreter to build .venv with; empty: python3, or the newest beside it where python3 is older than 3.11.
set -eu
exec 1>&2
what=$1
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
# Some wheels are hundreds of megabytes: a slow line needs more than uv's 30 seconds.
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"

# A whole environment: new enough, and pip complete (RECORD is the last file an installation writes).
is_whole() {
    .venv/bin/python -c "$new_enough" && .venv/bin/python -m pip --version && ls .venv/lib/python3*/site-packages/pip-*.dist-info/RECORD
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "$new_enough" 2>/dev/null; then
            python=$candidate
            return
        fi
    done
    found="$("${PYTHON:-python3}" --version 2>&1 || true)"
    echo "magicap needs Python 3.11 or newer, and ${PYTHON:-python3} says: $found. Install one, or name one with PYTHON=/path/to/python3.11."
    exit 1
}

make_environment() {
    find_python
    echo "Setting up .venv with $("$python" --version), once: this fetches several gigabytes."
    if "$python" -m venv --clear .venv >/dev/null 2>&1; then return; fi
    package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$python cannot make environments yet: installing $package."
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q || true
        apt-get install -q -y --no-install-recommends "$package" || true
    fi
    "$python" -m venv --clear .venv || {
        echo "$python -m venv failed: install its venv module (on Debian, as root: apt-get install $package) and run make again."
        exit 1
    }
}

# Bytecode is compiled here, once: otherwise the first imports take twice as long.
install() {
    .venv/bin/uv pip install --python .venv/bin/python --compile-bytecode ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} \
        -c constraints.txt -b constraints.txt -e "$1" $2
}

# A half-made .venv is made again; a whole one, whoever made it, is kept.
is_whole >/dev/null 2>&1 || make_environment
again=
.venv/bin/uv --version >/dev/null 2>&1 || again=--ignore-installed
.venv/bin/python -m pip install --quiet --disable-pip-version-check $again -c constraints.txt uv
[ "$what" != uv ] || exit 0

# uv writes a package file by file, so one that was interrupted may look installed: .unfinished says so, and the next run takes
# all packages out and links them anew from uv's cache (--reinstall would fetch them again). The dry run keeps a pin that cannot
# be met from being taken for an interruption.
if [ -e .venv/.unfinished ]; then
    find .venv/lib/python3*/site-packages -mindepth 1 -maxdepth 1 ! -name 'pip*' ! -name 'uv*' -exec rm -rf {} +
fi
extra=
[ "$what" = core ] || extra="[$what]"
install ".$extra" "--quiet --dry-run"
touch .venv/.unfinished
install ".$extra" ""
rm .venv/.unfinished
