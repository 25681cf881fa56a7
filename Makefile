# Each target makes .venv and installs into it if needed; nothing is installed twice.
PYTHON ?= python3
OLDEST ?= $(PYTHON)
NEWEST ?= $(PYTHON)
BIN := .venv/bin
RUNS ?= runs

# What jax is installed for. Other targets keep what is there: `make demo` after `make install ACCELERATOR=cuda13` too.
ACCELERATORS := cpu cuda12 cuda13 tpu
ACCELERATOR ?= $(or $(patsubst .venv/installed-%,%,$(firstword $(wildcard .venv/installed-*))),cpu)
ifneq ($(words $(ACCELERATOR)) $(filter $(ACCELERATOR),$(ACCELERATORS)),1 $(ACCELERATOR))
$(error ACCELERATOR: expected one of $(ACCELERATORS), got "$(ACCELERATOR)")
endif

.PHONY: help install demo demo-gahb demo-phase-bridge demo-diffmatch test test-slow smoke-lowest smoke-newest lint bench docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 20

install: .venv/installed-$(ACCELERATOR)  ## make .venv and install the package with what its tests need; ACCELERATOR=cuda13, cuda12 or tpu

# Made anew for another accelerator: jax loads every plugin that it finds.
.venv/installed-%: setup.py pyproject.toml
	@$(call check_python,$(PYTHON))
	$(PYTHON) -m venv $(if $(filter-out $@,$(wildcard .venv/installed-*)),--clear) .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test$(if $(filter-out cpu,$*),$(comma)$*)]'
	@touch $@

comma := ,
check_python = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: Python 3.11 or newer is needed, $(1) is $$($(1) -V); use make PYTHON=python3.11"; exit 2; }

demo: demo-gahb demo-phase-bridge demo-diffmatch  ## train, interrupt, resume, evaluate and sample every method; writes runs/demo/index.html

demo-gahb: install  ## the same for the blind denoiser alone
	$(BIN)/python -m gahb demo --workdir $(RUNS)/demo

demo-phase-bridge: install  ## the same for bridges, beside flow matching and diffusion
	$(BIN)/python -m phase_bridge demo --workdir $(RUNS)/demo

demo-diffmatch: install  ## the same for dense matching, on a real pair too
	$(BIN)/python -m diffmatch_jax demo --workdir $(RUNS)/demo

test: install  ## the test suite (about 25 minutes on two cores)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: install  ## statistical and fault-injection tests that take longer
	$(BIN)/python -m pytest -m slow

smoke-lowest: install  ## the wheel with the lowest versions of setup.py, in OLDEST=python3.11: every method trains 20 steps, samples, matches
	@$(call check_python,$(OLDEST))
	$(OLDEST) -m venv --clear .venv-lowest
	$(BIN)/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt .
	.venv-lowest/bin/python tests/smoke.py

smoke-newest:  ## the same with the newest versions, in NEWEST=python3.13
	@$(call check_python,$(NEWEST))
	$(NEWEST) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet .
	.venv-newest/bin/python tests/smoke.py

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install  ## overheads and throughput, as ratios; appends to benchmarks/results
	$(BIN)/python -m benchmarks

docs: .venv/with-docs  ## the documentation site in site/, with the output of the tutorials; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/with-docs: .venv/installed-$(ACCELERATOR)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

clean:  ## remove the environments, the site and runs
	rm -rf .venv .venv-lowest .venv-newest site $(RUNS)
