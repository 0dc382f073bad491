# Two commands: `make run` shows the whole system at work, `make test` proves it.
# Both do all the set-up a machine with Python 3.11+ needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := edge,cloud,console,train,dev

.PHONY: run test check format bench setup clean

run: $(STAMP)
	$(BIN)/python -m samples.demo

test: check
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# `make bench NAME=end_to_end`; the first time it installs the peers, of which llama.cpp is compiled for some minutes.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet '.[bench]'
	$(BIN)/python -m benchmarks $(NAME) --json

setup: $(STAMP)

# Where no CUDA is seen, the CPU build of PyTorch comes first: any other order pulls gigabytes of CUDA libraries.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tandem needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	command -v nvidia-smi >/dev/null || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
