.DEFAULT_GOAL := help
.PHONY: help setup demo demo-slurm test test-pure coverage lint types bench gpu-acceptance gpu-deps bench-laws bench-scale calibration bench-slurm slurm-install slurm-up slurm-down clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread a process: the demo and the tests run many processes side by side.
export OMP_NUM_THREADS ?= 1
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

help: ## these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## a virtual environment in .venv, with everything installed

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "sweepctl needs Python 3.11, 3.12 or 3.13; say which: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: setup ## the whole loop on real text: plan, train, fit, predict, train, score (about 5 minutes)
	$(BIN)/sweepctl plan
	$(BIN)/sweepctl launch demo
	$(BIN)/sweepctl plan
	$(BIN)/sweepctl launch demo
	$(BIN)/sweepctl fit demo
	$(BIN)/sweepctl predict demo --stage top
	$(BIN)/sweepctl launch demo
	$(BIN)/sweepctl fit demo
	$(BIN)/sweepctl collect demo --csv
	$(BIN)/sweepctl report demo

BOX := SLURMBOX=$(CURDIR)/.slurmbox $(BIN)/python launchers/slurmbox/box.py
ON_BOX := $(BOX) run $(BIN)/sweepctl

demo-slurm: setup ## the demo's study on a real Slurm on this machine (make slurm-install first)
	$(BOX) --nodes 1 up
	$(ON_BOX) doctor --on slurmbox
	$(ON_BOX) plan name=demo-slurm
	$(ON_BOX) launch demo-slurm --on slurmbox --wait
	$(ON_BOX) plan name=demo-slurm
	$(ON_BOX) launch demo-slurm --on slurmbox --wait
	$(ON_BOX) fit demo-slurm
	$(ON_BOX) predict demo-slurm --stage top
	$(ON_BOX) launch demo-slurm --on slurmbox --wait
	$(ON_BOX) fit demo-slurm
	$(ON_BOX) report demo-slurm
	$(BOX) down

# A file's tests stay on one worker, with what they share. WORKERS=0: one after another, in one process.
TESTS := -n $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder

test: setup ## the tests, on two workers (WORKERS=N: on more)
	$(BIN)/pytest $(TESTS)

# Elsewhere torch is a CUDA build of gigabytes: what imports none of it is tested without it.
PURE := .venv-pure
test-pure: ## the tests that need no torch, on another Python: make test-pure PYTHON=python3.13
	rm -rf $(PURE)
	$(PYTHON) -m venv $(PURE)
	grep '==' constraints.txt | grep -vE '^(torch|ruff|mypy|.*-stubs)==' | $(PURE)/bin/pip install --quiet --disable-pip-version-check -r /dev/stdin
	PYTHONPATH=. $(PURE)/bin/python -m pytest -p no:cacheprovider -n 2 tests/spec tests/plan tests/laws
	rm -rf $(PURE)

# Processes that the tests start are measured too; those that they kill cannot say what they ran.
coverage: setup ## the tests, and how much of the code they ran
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict
	$(BIN)/mypy

bench: setup ## what is measured: training, planning, start-up, status, scanning (PEER=path/to/nanoGPT for the pair)
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.status
	$(BIN)/python -m benchmarks.scanning
	$(BIN)/python -m benchmarks.training $(if $(PEER),--peer $(PEER))
	$(BIN)/python -m benchmarks.architectures
	$(BIN)/python -m benchmarks.optimizers

gpu-acceptance: ## what a GPU has to show, in at most 8 minutes (PEER=path/to/nanoGPT OUT=folder DEPTHS=6,12,20)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(if $(PEER),--peer $(PEER)) $(if $(DEPTHS),--depths $(DEPTHS))

gpu-deps: ## for a machine with a GPU, torch and no network: what else it needs, in .gpu-deps
	$(PYTHON) -m pip install --quiet --no-deps --upgrade --target .gpu-deps hydra-core==1.3.8 omegaconf==2.3.1 antlr4-python3-runtime==4.9.3 submitit cloudpickle

bench-laws: setup ## fitting the parametric law (PUBLISHED=path/to/analyzing-chinchilla for the pair)
	$(BIN)/python -m benchmarks.laws $(if $(PUBLISHED),--published $(PUBLISHED))

calibration: setup ## whether intervals hold the runs that come afterwards: coverage and width by table (2 minutes)
	$(BIN)/python -m benchmarks.calibration

bench-scale: setup ## 100,000 jobs on 1,000 nodes in simulated time (DEMO=path/to/sweeps: a demo beside it)
	$(BIN)/python -m benchmarks.scale $(if $(DEMO),--demo $(DEMO))

bench-slurm: setup ## the same of launches on Slurm: submission, branches, overhead (about 12 minutes)
	$(BIN)/python -m benchmarks.slurm

slurm-install: ## Slurm for tests/slurm and launchers/slurmbox (Debian, Ubuntu)
	$(SUDO) sh launchers/slurmbox/install.sh

slurm-up: setup ## a real Slurm on this machine: four nodes, fake GPUs (ACCOUNTING=1: with slurmdbd)
	$(BIN)/python launchers/slurmbox/box.py up $(if $(ACCOUNTING),--accounting)

slurm-down: setup ## end it
	$(BIN)/python launchers/slurmbox/box.py down

clean: ## remove what make made; the workspace (sweeps/) stays
	rm -rf $(VENV) $(PURE) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
