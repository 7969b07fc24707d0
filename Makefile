# `make demo`, `make test` and `make check` work on a fresh machine: each makes its virtual environment and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help demo test slow check format docs benchmarks clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/core: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable '.[demo,slides]' --group test --group check --group docs
	@touch $@

demo: $(VENV)/core  ## train on the shipped tissue, write predictions and a report to demo/
	$(BIN)/expressor demo -o demo

test: $(VENV)/dev  ## the fast tests
	$(BIN)/python -m pytest -n 2

slow: $(VENV)/dev  ## the nightly lane: recovery, fuzzing by the thousand
	$(BIN)/python -m pytest -n 2 -m slow --timeout 3600

check: $(VENV)/dev  ## format, lint, types, floors, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q docs docs/_build/html

format: $(VENV)/dev  ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev  ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build/html

benchmarks: $(VENV)/dev  ## speed and memory, each against a peer or baseline in the same run
	@for words in brain.py encoding.py heads.py hypergradient.py masked_linear.py packing.py restoration.py streaming.py "walks.py speed"; do \
		echo "== benchmarks/$$words"; $(BIN)/python benchmarks/$$words || exit 1; done

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist docs/_build demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
