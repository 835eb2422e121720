# Each target sets up what it needs by itself; what is up to date is not done again.

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
GPU := .gpu
GPU_LOCK := requirements-gpu.lock
# pip works from outside of the environment, so that a Python without ensurepip will do. -qq: errors only.
INSTALL := $(PYTHON) -m pip --python $(BIN)/python install -qq --disable-pip-version-check --no-deps
KERNELS := $(shell find ryot_jax/kernels/cpu -name "*.cc" -o -name "*.h")

.PHONY: run test setup lint types gpu ci lock help
.DELETE_ON_ERROR:

help:  ## show the targets
	@sed -n 's/^\([a-z]*\):.*##/make \1 -/p' $(MAKEFILE_LIST)

run: setup  ## train and compare the two arms of configs/scaled.py; ARGS='...' adds options
	$(BIN)/python -m ryot_jax.main --config=configs/scaled.py $(ARGS)

# A file's tests share fixtures, so one worker takes it whole; tests/conftest.py puts the longest first.
test: setup  ## run all tests; ARGS='...' adds options of pytest
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

setup: $(VENV)/.package  ## make .venv with the locked dependencies and the package in editable mode

lint: setup  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## check types
	$(BIN)/mypy

gpu: setup $(GPU)/.locked  ## compile for NVIDIA GPUs on a machine without one (x86-64 Linux); ARGS='...' adds options
	JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 JAX_PLATFORMS=cpu PYTHONPATH=$(GPU) \
	  $(BIN)/python -m experiments.gpu_compile $(ARGS)

ci: test lint types gpu  ## what .ci/run runs

$(VENV)/.locked: $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@$(PYTHON) -m pip --version > /dev/null || { echo "pip is needed: install python3-pip" >&2; exit 1; }
	@echo "Installing the locked dependencies into $(VENV): a few minutes, once"
	@$(PYTHON) -m venv --without-pip --clear $(VENV)
	@$(INSTALL) --require-hashes --requirement $(LOCK)
	@touch $@

# Beside the environment and not in it: where JAX finds the plugin of a GPU that is not there, it complains.
$(GPU)/.locked: $(GPU_LOCK)
	@echo "Installing NVIDIA's compilers and libraries into $(GPU): a minute and 2.5 GB, once"
	@rm -rf $(GPU)
	@$(INSTALL) --require-hashes --target $(GPU) --requirement $(GPU_LOCK)
	@touch $@

# --no-build-isolation: what the build needs is in the lock.
$(VENV)/.package: $(VENV)/.locked pyproject.toml setup.py $(KERNELS)
	@echo "Installing the package in editable mode"
	@rm -f ryot_jax/kernels/cpu/_kernels*.so  # a failed build must not leave the kernels of before
	@RYOT_EMULATE_AMX=1 $(INSTALL) --no-build-isolation --editable .  # tests know AMX on every machine
	@if ls ryot_jax/kernels/cpu/_kernels*.so > /dev/null 2>&1; then echo "C++ kernels: built"; \
	  else echo "C++ kernels: not built (is there a C++ compiler?); XLA's kernels take their place"; fi
	@touch $@

lock:  ## resolve the dependencies anew (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --fork-strategy fewest \
	  --generate-hashes --no-config --no-header --output-file $(LOCK)
