# One line a target. Every target sets the project up first if need be; a bare machine needs Python 3.11+ and make.
#   make PYTHON=python3.12 test                                             another interpreter for the environment
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup     PyTorch without CUDA: 2 GB less to download
#   make train ARGS="duet/training/configs/demo.yaml --seed 1"              options for the command behind a target

PYTHON ?= python3
VENV ?= .venv
DATA ?=
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check serve train evaluate loadtest bench bench-kernels audit clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(READY) ## Create .venv and install everything into it; a second run reuses it
	@echo "Ready: $(BIN)/duet --help"

demo: $(READY) ## Train, publish, serve and call from simulated devices; DATA=path/to/u.data uses your own log
	@$(BIN)/duet demo $(if $(DATA),--data "$(DATA)") $(ARGS)

# what takes a cluster of its own mostly waits for it, so two go on at a time; a worker takes whole files, in the order of conftest.py
WORKERS := --dist loadfile --no-loadscope-reorder
QUICK := not gpu and not long
test: $(READY) ## Run the tests: on all cores, then two servers at a time, then what needs the machine for itself
	@$(BIN)/python -m pytest -n logical --maxprocesses 8 $(WORKERS) -m "$(QUICK) and not serve and not alone" $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -n 2 $(WORKERS) -m "$(QUICK) and serve and not alone" $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -m "$(QUICK) and alone" $(ARGS) || [ $$? -eq 5 ]

test-long: $(READY) ## Run what takes minutes each: replicas, nodes and workers that die and scale under load
	@$(BIN)/python -m pytest -m "not gpu and long" $(ARGS)

check: $(READY) ## Check format, lint, types and the import table
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m pytest -q tests/test_layers.py

serve: $(READY) ## Serve a published model on this machine: make serve ARGS="--model demo"
	@$(BIN)/duet serve $(ARGS)

train: $(READY) ## Train a generator: make train ARGS="CONFIG.yaml"
	@$(BIN)/duet train $(ARGS)

evaluate: $(READY) ## Measure a trained run on held-out data: make evaluate ARGS="runs/RUN"
	@$(BIN)/duet evaluate $(ARGS)

loadtest: $(READY) ## Bring the service up, put it under load, and report: make loadtest ARGS="spike"
	@$(BIN)/duet loadtest $(ARGS)

bench: $(READY) ## Time an epoch of training, static and generated models, both losses
	@$(BIN)/python -m benchmarks $(ARGS)

bench-kernels: $(READY) ## Time every kernel beside plain PyTorch and torch.compile
	@$(BIN)/python -m benchmarks kernels $(ARGS)

audit: $(READY) ## Look up every installed package in the published advisories; needs pypi.org
	@$(BIN)/python .ci/audit.py $(VENV)

clean: ## Remove caches and build output; keeps .venv, models and runs
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache && find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The environment is ready when it is newer than pyproject.toml and what is compiled. One pip call resolves everything at once: the PyTorch
# pin is taken together with what depends on it, so nothing is downloaded first and replaced afterwards.
$(READY): pyproject.toml kernels/host_slabs.c
	@test -x $(BIN)/python || command -v $(PYTHON) >/dev/null || { echo "duet needs Python 3.11 or newer, and there is no '$(PYTHON)' here. Install it, or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "duet needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' comes without the venv module. Install it (Debian, Ubuntu: apt install python3-venv), or name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV): some minutes and about 3 GB the first time"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)
