# Every target sets up .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two OpenMP teams that spin on two cores slow each other down many times over.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-slow lint format clean

# torch first: with its pin satisfied, no later requirement can pull another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## questions to answers under a budget, on the embedded model
	$(BIN)/ps-eval demo

test: $(VENV)/.installed  ## the fast tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed  ## the tests marked slow
	$(BIN)/python -m pytest -m slow --timeout=1800

lint: $(VENV)/.installed  ## style and types, as CI checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
