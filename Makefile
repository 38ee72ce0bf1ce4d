# `make run` and `make test` are all a newcomer needs. PIP_FLAGS is handed to pip, for a mirror or a CPU-only build of torch.
VENV ?= .venv
PYTHON ?= python3
PIP_FLAGS ?=
BIN := $(VENV)/bin
RECIPE ?= recipes/pocket.toml

.PHONY: run test bench bench-train bench-corpus bench-evaluate bench-exports bench-serve clients drill drill-serve clean

run: $(VENV)/installed
	$(BIN)/openbook run $(RECIPE)

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/throughput.py

# DATATROVE is a Python that has datatrove[processing] and spacy; without one, only tokenizers is compared with.
bench-corpus: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/corpus.py $(if $(DATATROVE),--datatrove $(DATATROVE))

# OPENBOOK_DATA is the folder with the evaluation sets.
bench-evaluate: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evaluate.py

# NANOGPT is a checkout of github.com/karpathy/nanoGPT; TRAIN_FLAGS may choose parts, or --json.
bench-train: $(VENV)/installed-dev
	$(BIN)/python benchmarks/bench_train.py $(if $(NANOGPT),--nanogpt $(NANOGPT)) $(TRAIN_FLAGS)
	$(BIN)/python benchmarks/throughput.py $(if $(NANOGPT),--nanogpt $(NANOGPT)) --adamw
	$(BIN)/python benchmarks/throughput.py $(if $(NANOGPT),--nanogpt $(NANOGPT)) --adamw --set model.style=gpt

bench-serve: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve.py

# llama.cpp and onnxruntime on every family, then a 124M-parameter model from text to llama.cpp and transformers.
bench-exports: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/exports.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/exports.py onnx
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/end_to_end.py

# Clients that share no environment with ours, or with each other, against a live server. Node's needs node and npm.
CLIENTS := $(VENV)/clients
clients: $(VENV)/installed-dev
	@for program in node npm curl; do command -v $$program >/dev/null || { echo "clients: $$program is not installed" >&2; exit 1; }; done
	@for package in langchain=langchain-openai semantic_kernel=semantic-kernel agent_framework=agent-framework-openai; do \
		folder=$(CLIENTS)/$${package%%=*}; \
		echo "installing $${package#*=} into $$folder"; \
		{ $$folder/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $$folder; } && \
		$$folder/bin/python -m pip install --quiet $(PIP_FLAGS) "$${package#*=}" openai || \
		{ echo "clients: $${package#*=} could not be installed; the reason stands above" >&2; exit 1; }; \
	done
	@echo "installing Node's openai into $(CLIENTS)/node"
	@npm install --loglevel=error --no-audit --no-fund --prefix $(CLIENTS)/node openai || \
		{ echo "clients: Node's openai could not be installed; the reason stands above" >&2; exit 1; }
	OPENBOOK_CLIENTS=$(CLIENTS) OMP_NUM_THREADS=1 $(BIN)/pytest tests/serve/test_other_clients.py

drill: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/drill.py

# Every documented way to use a server, on tiny models of four families. OPENBOOK_DATA is the folder with the tokenizers; RUN is a run besides.
drill-serve: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/drill_serve.py $(if $(RUN),--run $(RUN))

# Debian splits venv's pip off into a package of its own; where that is missing, the system's pip fills the new environment.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear --without-pip $(VENV)

define install
	@echo "installing into $(VENV) (torch is large: this can take minutes)"
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
	else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
	$$pip install --quiet $(PIP_FLAGS) -e "$(1)"
endef

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(call install,.)
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(call install,.[dev])
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV)
