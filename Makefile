# `make run` and `make test` are all a newcomer needs. PIP_FLAGS is handed to pip, for a mirror or a CPU-only build of torch.
VENV ?= .venv
PYTHON ?= python3
PIP_FLAGS ?=
BIN := $(VENV)/bin
RECIPE ?= recipes/pocket.toml

.PHONY: run test bench drill clean

run: $(VENV)/installed
	$(BIN)/openbook run $(RECIPE)

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/throughput.py

drill: $(VENV)/installed
	$(BIN)/python benchmarks/kill_drill.py $(RECIPE) --kills 10 --set train.steps=300

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e ".[dev]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV)
