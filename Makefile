# Every target uses .venv, which `setup` makes once and renews when the pins change.
# Settings come from the command line or the environment: make setup PYTHON=python3.13, make test WORKERS=0

PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
BIN := .venv/bin
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-lowest check keys docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: .venv/.stamp ## make .venv with Python 3.11-3.13 and everything pinned in constraints.txt

.venv/.stamp: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { \
	  for python in $(CANDIDATES); do \
	    "$$python" -c '$(SUPPORTED)' 2>/dev/null && exec "$$python" -m venv .venv; \
	  done; \
	  echo "no Python 3.11, 3.12 or 3.13 among: $(CANDIDATES); give one as PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@$(BIN)/python -c '$(SUPPORTED)' || { echo ".venv has another Python than 3.11-3.13; make clean" >&2; exit 1; }
	$(PIP) torch hatchling editables
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

COSTS := reports/generated/cost.json

demo: setup $(COSTS) ## spatial KD against its control on the embedded data set, 3 teachers; tables and plots
	$(BIN)/cmkd sweep ablation --only tsm_control --only tsm_spatial --seeds 3
	$(BIN)/cmkd report tables

# Counting the full-size networks takes seconds and changes with their code alone.
$(COSTS): .venv/.stamp $(wildcard cmkd/backbones/*.py cmkd/config/*.py cmkd/method/*.py cmkd/training/*.py)
	$(BIN)/cmkd cost

test: setup ## quick tests
	$(PYTEST) -m "not slow"

test-all: setup ## all tests, slow ones too
	$(PYTEST)

test-lowest: ## quick tests with the lowest versions that pyproject.toml allows, in build/lowest
	$(or $(PYTHON),python3) -m venv build/lowest
	build/lowest/bin/python -m pip install -q uv==0.13.9
	build/lowest/bin/uv pip install -q --python build/lowest/bin/python --resolution lowest-direct -e '.[dev]'
	# Old releases call what newer ones of others deprecate.
	build/lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" -o filterwarnings=ignore

check: setup ## format, lint, types, quick tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict cmkd
	$(PYTEST) -m "not slow"

keys: setup ## renew the list of keys in docs/sweep-files.md
	$(BIN)/python tests/test_docs.py

docs: setup ## the documentation as build/site; a broken link fails
	$(PIP) -q --no-build-isolation -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: setup ## where a trial's time goes, as ratios of one run
	$(BIN)/python -m benchmarks

clean: ## remove .venv, builds and tool caches; keep results and downloaded or derived data
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find cmkd tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
