# Two commands do everything, also on a bare machine with python3 >= 3.11: make caption IMAGE=photo.jpg, make test
IMAGE ?= docs/sample.jpg# the picture to caption; spaces in its path are fine
ARGS ?=# more arguments for the command, or for pytest: ARGS="-k trie -x"
JOBS ?= auto# how many processes share the tests; auto: one a core; 0: none but pytest itself
TESTS ?= not network and not slow
SEED ?= 1# what the inputs of make fuzz are drawn by
GPU ?=# tests run on the CPU; GPU=0 shows them the first GPU
HF_HUB_OFFLINE ?= 1# HF_HUB_OFFLINE=0 TESTS=network runs the tests that need the internet
export PYTHON TORCH_BACKEND
CORE := .venv/.core
DEV := .venv/.dev
PY := .venv/bin/python
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= PYTHONPATH=tests
DATA := data="$${MAGICAP_DATA:-../shared/data}"; if [ -d "$$data" ]; then MAGICAP_DATA="$$(cd "$$data" && pwd)"; export MAGICAP_DATA; fi;
.NOTPARALLEL:
.PHONY: help caption serve test test-slow fuzz fuzz-service golden checksums embedded-dry-run docs site lint format types constraints clean distclean
help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-23s %s\n", $$1, $$2}'
caption: export MAGICAP_IMAGE = $(value IMAGE)
caption: $(CORE) ## caption a picture: IMAGE=photo.jpg
	@.venv/bin/magicap caption $(ARGS) "$$MAGICAP_IMAGE"
serve: $(DEV) ## serve captions over HTTP, with a page: ARGS="--port 8080"
	@.venv/bin/magicap serve $(ARGS)
test: $(DEV) ## run the tests: offline, on the CPU; those that need data if MAGICAP_DATA (or ../shared/data) is there
	@$(DATA) HF_HUB_OFFLINE=$(HF_HUB_OFFLINE) TRANSFORMERS_OFFLINE=$(HF_HUB_OFFLINE) CUDA_VISIBLE_DEVICES="$(GPU)" OMP_NUM_THREADS=1 \
	$(PY) -m pytest -m "$(TESTS)" -n $(JOBS) --maxprocesses 8 --dist loadfile $(ARGS)
test-slow: ## run the tests that take minutes
	@$(MAKE) --no-print-directory test TESTS="slow and not network" ARGS="$(ARGS)"
fuzz: $(DEV) ## read 5,000 changed pictures and 2,000 other changed files, with limits: SEED=2 ARGS="--others 10000"
	@$(OFFLINE) $(PY) -m fuzz.run --seed $(SEED) $(ARGS)
fuzz-service: $(DEV) ## 2,000 changed uploads to the service, and as many requests drawn from its OpenAPI: SEED=2
	@$(OFFLINE) $(PY) -m fuzz.service --seed $(SEED) $(ARGS)
golden: $(DEV) ## write what tests/parity/test_golden.py compares with: ARGS="--only flickr8k" after a change of weights
	@$(DATA) $(OFFLINE) $(PY) -m golden.make $(ARGS)
docs: $(DEV) ## write anew what is generated: docs/cli.md, docs/api.md, docs/recipes.md, the model cards
	@PYTHONPATH=tests $(PY) -m reference_pages && PYTHONPATH=tests $(PY) -m recipes_page && $(PY) recipes/model_card.py
site: $(DEV) ## build the documentation into site/
	@$(PY) scripts/build_site.py
checksums: $(DEV) ## write magicap/SHA256SUMS anew, after a change of weights
	@$(PY) -c "from magicap.captioners.checksums import write_checksums; write_checksums()"
embedded-dry-run: $(DEV) ## every recipe that makes what ships, with its own file of recipes/configs, on tiny stand-ins: under a minute
	@$(OFFLINE) $(PY) recipes/make_captioners.py --dry_run
lint: $(DEV) ## ruff: rules and format; import-linter: which package may import which; codespell: words
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports && .venv/bin/codespell
format: $(DEV) ## mend what ruff can mend
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .
types: $(DEV) ## mypy, strict
	.venv/bin/mypy
constraints: ## pin the newest versions of everything in constraints.txt
	@scripts/constraints.sh
clean: ## remove caches and builds
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis; find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
distclean: clean ## and the environment
	rm -rf .venv
# The stamps lie in .venv, so they go when it goes; .venv/bin/python links to the interpreter: where that is gone, set-up starts over.
.venv/bin/python: ;
$(CORE): constraints.txt pyproject.toml scripts/setup.sh .venv/bin/python
	@scripts/setup.sh core && touch $(CORE)
$(DEV): constraints.txt pyproject.toml scripts/setup.sh .venv/bin/python
	@scripts/setup.sh dev && touch $(CORE) $(DEV)
