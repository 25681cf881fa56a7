# Each target makes .venv and installs into it if needed; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs

.PHONY: help install demo demo-gahb demo-phase-bridge demo-diffmatch test test-slow lint bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

install: .venv/installed  ## make .venv and install the package with what its tests need

.venv/installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); use make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

demo: demo-gahb demo-phase-bridge demo-diffmatch  ## train, interrupt, resume, evaluate and sample every method; writes runs/demo/index.html

demo-gahb: install  ## the same for the blind denoiser alone
	$(BIN)/python -m gahb demo --workdir $(RUNS)/demo

demo-phase-bridge: install  ## the same for bridges, beside flow matching and diffusion
	$(BIN)/python -m phase_bridge demo --workdir $(RUNS)/demo

demo-diffmatch: install  ## the same for dense matching, on a real pair too
	$(BIN)/python -m diffmatch_jax demo --workdir $(RUNS)/demo

test: install  ## the test suite (about twenty minutes on two cores)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: install  ## statistical and fault-injection tests that take longer
	$(BIN)/python -m pytest -m slow

lint: install  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: install  ## overheads and throughput, as ratios; appends to benchmarks/results
	$(BIN)/python -m benchmarks

clean:  ## remove .venv and runs
	rm -rf .venv $(RUNS)
