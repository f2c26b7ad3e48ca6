# Two commands do everything, also on a bare machine with python3 >= 3.11:
#   make caption IMAGE=photo.jpg
#   make test

# The picture to caption; spaces in its path are fine.
IMAGE ?= docs/sample.jpg
# The interpreter to build .venv with. Empty: python3, or the newest beside it where python3 is older than 3.11.
PYTHON ?=
# More arguments for `magicap caption` or pytest, for example ARGS="-k trie -x".
ARGS ?=
# How many processes share the tests, each with one thread for torch: a number; auto: one a core; 0: none but pytest itself.
JOBS ?= auto
# Which tests `make test` runs.
TESTS ?= not network and not slow
# What the inputs of `make fuzz` are drawn by.
SEED ?= 1
# Tests run on the CPU; GPU=0 shows them the first GPU.
GPU ?=
# Tests run offline; HF_HUB_OFFLINE=0 TESTS=network runs those that need the internet.
HF_HUB_OFFLINE ?= 1

# Some wheels are hundreds of megabytes: a slow line needs more than uv's 30 seconds.
UV_HTTP_TIMEOUT ?= 300
export UV_HTTP_TIMEOUT

# Stamps live in .venv, so they go when it goes.
UV := .venv/.uv
CORE := .venv/.core
DEV := .venv/.dev

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help caption serve test test-slow fuzz fuzz-service golden checksums embedded-dry-run docs lint format types constraints clean distclean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-23s %s\n", $$1, $$2}'

caption: export MAGICAP_IMAGE = $(value IMAGE)
caption: $(CORE) ## caption a picture: IMAGE=photo.jpg
	@.venv/bin/magicap caption $(ARGS) "$$MAGICAP_IMAGE"

serve: $(DEV) ## serve captions over HTTP, with a page: ARGS="--port 8080"
	@.venv/bin/magicap serve $(ARGS)

test: $(DEV) ## run the tests: offline, on the CPU; those that need data if MAGICAP_DATA (or ../shared/data) is there
	@data="$${MAGICAP_DATA:-../shared/data}"; \
	if [ -d "$$data" ]; then MAGICAP_DATA="$$(cd "$$data" && pwd)"; export MAGICAP_DATA; fi; \
	HF_HUB_OFFLINE=$(HF_HUB_OFFLINE) TRANSFORMERS_OFFLINE=$(HF_HUB_OFFLINE) CUDA_VISIBLE_DEVICES="$(GPU)" \
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "$(TESTS)" -n $(JOBS) --maxprocesses 8 --dist loadfile $(ARGS)

test-slow: ## run the tests that take minutes
	@$(MAKE) --no-print-directory test TESTS="slow and not network" ARGS="$(ARGS)"

fuzz: $(DEV) ## read 5,000 changed pictures and 2,000 other changed files, with limits: SEED=2 ARGS="--others 10000"
	@HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONPATH=tests \
	.venv/bin/python -m fuzz.run --seed $(SEED) $(ARGS)

fuzz-service: $(DEV) ## 2,000 changed uploads to the service, and as many requests drawn from its OpenAPI: SEED=2
	@HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 CUDA_VISIBLE_DEVICES= PYTHONPATH=tests \
	.venv/bin/python -m fuzz.service --seed $(SEED) $(ARGS)

golden: $(DEV) ## write what tests/test_golden.py compares with: ARGS="--only flickr8k" after a change of weights
	@data="$${MAGICAP_DATA:-../shared/data}"; \
	MAGICAP_DATA="$$data" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 \
	PYTHONPATH=tests .venv/bin/python -m golden.make $(ARGS)

docs: $(DEV) ## write docs/recipes.md, the recipes' options, and the model cards anew
	@PYTHONPATH=tests .venv/bin/python -m recipes_page
	@.venv/bin/python recipes/model_card.py

checksums: $(DEV) ## write magicap/SHA256SUMS anew, after a change of weights
	@.venv/bin/python -c "from magicap.captioners.checksums import write_checksums; write_checksums()"

embedded-dry-run: $(DEV) ## every recipe that makes what ships, with its own file of recipes/configs, on tiny stand-ins: under a minute
	@HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python recipes/make_captioners.py --dry_run

lint: $(DEV) ## ruff: rules and format; import-linter: which room may import which
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

format: $(DEV) ## mend what ruff can mend
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

types: $(DEV) ## mypy, strict
	.venv/bin/mypy magicap/

# --python-version: pins that suit the oldest Python suit the newer ones too. The last test keeps addresses and local builds out.
constraints: $(UV) ## pin the newest versions of everything in constraints.txt
	@printf 'uv\nhatchling\n' | .venv/bin/uv pip compile --quiet --upgrade --no-header --no-annotate \
	    --python-version 3.11 --extra dev pyproject.toml - > .venv/pins
	@if grep -vE '^[a-z0-9-]+==[0-9][0-9a-z.]*$$' .venv/pins; then \
	    echo "constraints.txt is unchanged: expected only name==version, found the lines above." >&2; exit 1; fi
	@{ grep '^#' constraints.txt; cat .venv/pins; } > .venv/constraints && mv .venv/constraints constraints.txt

clean: ## remove caches and builds
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## and the environment
	rm -rf .venv

# ---- set-up: everything it says goes to stderr, so that stdout holds the caption alone ----

NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'

# A whole environment: new enough, and pip complete (RECORD is the last file an installation writes).
venv_is_whole = { .venv/bin/python -c $(NEW_ENOUGH) && .venv/bin/python -m pip --version && \
    ls .venv/lib/python3*/site-packages/pip-*.dist-info/RECORD; } >/dev/null 2>&1

# A half-made .venv is made again; a whole one, whoever made it, is kept.
$(UV): constraints.txt .venv/bin/python
	@exec 1>&2; set -e; \
	if ! $(venv_is_whole); then \
	    python=; \
	    for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	        if "$$candidate" -c $(NEW_ENOUGH) 2>/dev/null; then python="$$candidate"; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        found="$$($(or $(PYTHON),python3) --version 2>&1 || true)"; \
	        echo "magicap needs Python 3.11 or newer, and $(or $(PYTHON),python3) says: $$found. Install one, or name one with PYTHON=/path/to/python3.11."; \
	        exit 1; \
	    fi; \
	    echo "Setting up .venv with $$("$$python" --version), once: this fetches several gigabytes."; \
	    if ! "$$python" -m venv --clear .venv >/dev/null 2>&1; then \
	        package="$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
	        if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	            echo "$$python cannot make environments yet: installing $$package."; \
	            DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; \
	            apt-get update -q || true; apt-get install -q -y --no-install-recommends "$$package" || true; \
	        fi; \
	        "$$python" -m venv --clear .venv || { \
	            echo "$$python -m venv failed: install its venv module (on Debian, as root: apt-get install $$package) and run make again."; \
	            exit 1; }; \
	    fi; \
	fi; \
	again=; .venv/bin/uv --version >/dev/null 2>&1 || again=--ignore-installed; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $$again -c constraints.txt uv; \
	touch $@

# .venv/bin/python links to the interpreter: where that is gone (an upgrade of the system), set-up starts over.
.venv/bin/python: ;

# $(call install,WHAT,STAMPS). uv writes a package file by file, so one that was interrupted may look installed: .unfinished
# says so, and the next run takes all packages out and links them anew from uv's cache (--reinstall would fetch them again).
# The dry run keeps a pin that cannot be met from being taken for an interruption. Bytecode is compiled here, once: otherwise
# the first imports take twice as long.
define install
@exec 1>&2; set -e; \
install() { .venv/bin/uv pip install --python .venv/bin/python --compile-bytecode -c constraints.txt -b constraints.txt -e '$(1)' "$$@"; }; \
if [ -e .venv/.unfinished ]; then \
    find .venv/lib/python3*/site-packages -mindepth 1 -maxdepth 1 ! -name 'pip*' ! -name 'uv*' -exec rm -rf {} +; \
fi; \
install --quiet --dry-run; \
touch .venv/.unfinished; \
install; \
rm .venv/.unfinished; \
touch $(2)
endef

$(CORE): $(UV) pyproject.toml
	$(call install,.,$(CORE))

$(DEV): $(UV) pyproject.toml
	$(call install,.[dev],$(CORE) $(DEV))
