# Everything that is done with this repository. Each target sets up what it needs; a second time that takes a second.

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-all bench front pins

BIN := .venv/bin

help:  ## show this list
	@echo "lenskit: look inside a language model while it is live in the notebook cell"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

setup:  ## make .venv, fetch the tools, a browser and the demo model (the others do this first)
	@scripts/setup.sh

lab: setup  ## open JupyterLab on the first notebook
	@scripts/lab.sh

# Quick ones first. pytest comes last, so that its summary is the last line.
test: setup  ## lint, types, front-ends, notebooks, tests
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/pyright
	scripts/test_front_ends.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --nbval --nbval-sanitize-with tests/notebooks/sanitize.cfg --nbval-cell-timeout 120 notebooks
	$(BIN)/pytest tests

# As `test`, and instead of a sample every architecture that transformers knows; under ten minutes more.
test-all: setup  ## the same, with every architecture instead of a sample, and 10,000 random runs
	LENSKIT_ALL_ARCHITECTURES=1 LENSKIT_ALL_RUNS=1 $(MAKE) test

bench: setup  ## measure the speed, the memory and the sizes that are promised
	$(BIN)/python -m bench

front: setup  ## rebuild the front-ends into lenskit/widgets/static
	cd widgets && npm run --silent build

pins:  ## write what .venv holds into requirements/dev.txt, after an upgrade
	scripts/pins.sh
