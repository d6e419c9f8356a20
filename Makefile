# Every task of the project; `make` alone lists them.
SHELL := /bin/bash
unexport PYTHONDONTWRITEBYTECODE # each process of the tests would compile the source again
PYTHON ?= python3
BIN := .venv/bin
SPHINX := $(BIN)/sphinx-build -q -W --keep-going -b html
.DEFAULT_GOAL := help
QUICK := tutorial,hand_loop,plainfit,plainfit-epoch,plainfit-epoch-channels-last,keras
.PHONY: test-web docs-zh release help setup run check test pytest cover bench bench-quick soak docs clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: .venv/.done ## make .venv with plainfit and everything for development

.venv/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "plainfit needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (the first time takes a minute or two)..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: setup ## train on the embedded digits and show the result
	@$(BIN)/plainfit train

check: setup ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup ## everything that must pass: check, docs, tests, doctests
	@NOTEBOOKS=off $(MAKE) --no-print-directory -j 3 check docs pytest

pytest: setup # one thread a process; conftest.py says which files come first
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

cover: setup ## all tests, and what they cover of each room
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --immediate -m pytest -n 2 --dist loadfile
	@$(BIN)/python tests/print_coverage.py

bench: setup ## time plainfit and its peers, and write docs/benchmarks.md (about two hours)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/folder.py --rounds 3
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/tables.py

bench-quick: setup ## time both models with fit, loops by hand, an epoch as one program and Keras (5 minutes)
	$(BIN)/python benchmarks/run.py --quick --only $(QUICK)

soak: setup ## the long measurements (minutes; real MNIST where it is present)
	$(BIN)/pytest -m soak -s

test-web: setup ## all tests of the page in Chromium, every page at every width (20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/web -m "soak or not soak"

docs: setup ## build the documentation into docs/_build/html, notebooks executed; a warning is an error
	OMP_NUM_THREADS=1 $(SPHINX) docs docs/_build/html

docs-zh: setup ## the same with links to the Chinese site, which is built into docs/_build/html/zh_CN
	OMP_NUM_THREADS=1 $(SPHINX) -A both_languages=1 docs docs/_build/html
	NOTEBOOKS=off OMP_NUM_THREADS=1 $(SPHINX) -A both_languages=1 -D language=zh_CN docs docs/_build/html/zh_CN

release: setup ## set VERSION=0.2.0, build wheel and sdist, try them in a fresh environment, tag
	$(BIN)/python release.py $(VERSION)

clean: ## remove what the targets above made, runs excepted
	rm -rf .venv docs/_build docs/notebooks .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage.json
