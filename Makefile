# The commands of the README. PYTHON picks the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
RUNS := runs/quickstart
ARMS := sl ssl+sl mixtraining
SEEDS := 0 1
# Processes of pytest. Files in their order: those with real ranks, which take longest, come first.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-minutes test-lowest lint clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,quickstart]'
	touch $(STAMP)

quickstart: $(STAMP)  ## three arms, two seeds each, on two processes, and the page that compares them
	$(BIN)/mixdist pack digits data/digits --labelled-fraction 0.1 --overwrite
	for seed in $(SEEDS); do for arm in $(ARMS); do \
	  OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node=2 -m mixdist.train --config configs/quickstart.yaml \
	    --method.arm $$arm --seed $$seed --run.dir $(RUNS)/$$arm-$$seed || exit 1; \
	done; done
	$(BIN)/mixdist compare $(RUNS) --out $(RUNS)/report.html

test: $(STAMP)  ## the suite, but for what test-minutes has
	$(PYTEST) -m "not minutes"

test-minutes: $(STAMP)  ## engines held against each other, faults, signals, hangs, restarts, two nodes
	$(PYTEST) -m minutes

test-lowest:  ## what works with the lowest versions that pyproject.toml allows; PYTHON=python3.10 for the lowest Python too
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev,quickstart]'
	# timm's test_maxvit came later
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n 2 --dist loadfile -m "not minutes" -k "not maxvit" \
	  tests/unit tests/e2e/test_commands.py tests/e2e/test_serving_commands.py
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest tests/distributed/test_engines.py -k "5_updates or resnet_agree"

lint: $(STAMP)  ## format, lint, types and the rooms' import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## remove the environment, runs and caches; packed data stays
	rm -rf $(VENV) $(LOWEST) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
