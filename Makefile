# Two commands for a newcomer: `make sweep` and `make test`. Each sets up what it needs, once.

PYTHON ?= python3
# Only the command line sets these: some shells export a NAME of their own.
DATA = demo-data
SPACE = smoke
STORAGE = results
NAME = $(if $(filter demo-data,$(DATA)),demo,$(notdir $(patsubst %/,%,$(DATA))))
ARGS =
# The demo leaves out subjects, a hemisphere, most ROIs and the deeper layers, so that it ends within minutes on two slow
# cores.
DEMO_ARGS := --subjects 1,2 --hemispheres lh --rois V1v,hV4 --cutoffs features.2,features.5 --epochs 2 --trials 2

# Tests that start Ray stay in one process, one after the other (tests/conftest.py); the rest runs beside them. Plain
# `pytest` takes turns.
AT_ONCE := --numprocesses logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder

EMPTY :=
BIN := .venv/bin
STAMP := .venv/.installed
LOG := .venv/install.log
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off -c constraints.txt -e '.[dev]'

# What people import: own search spaces, and models in Python.
REFERENCE := orchestrator.models orchestrator.estimators search_spaces trainables.target trainables.config trainables.predictor

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help sweep test test-all check audit format ui docs environment data

help:
	@echo 'make sweep    a small real sweep on the demo set: environment, data, tuning, leaderboard'
	@echo '              own data: make sweep DATA=/path/to/algonauts SPACE=early_visual ARGS="--subjects 1,2"'
	@echo 'make test     the test suite'
	@echo 'make test-all the same and what takes minutes: servers, stores and machines that fail'
	@echo 'make check    rules, format, strict types, layers and packages'
	@echo 'make audit    known holes of the pinned packages (asks a database on the network)'
	@echo 'make format   mends format and simple rules'
	@echo 'make ui       MLflow UI on the results'
	@echo 'make docs     reference of the Python interface, in build/reference'
	@echo
	@echo 'Each sets up .venv first, which `make environment` does alone. PYTHON=$(PYTHON) makes it; it must be 3.11 or newer.'

sweep: STEP := 1/3 $(EMPTY)
sweep: environment data
	@echo '3/3 sweep: $(NAME), search space $(SPACE), results in $(STORAGE)'
	@$(BIN)/python sweep.py run --data '$(DATA)' --space '$(SPACE)' --name '$(NAME)' --storage '$(STORAGE)' \
	  $(if $(filter demo-data,$(DATA)),$(DEMO_ARGS)) $(ARGS)

test: STEP := 1/2 $(EMPTY)
test: environment
	@echo '2/2 tests: some minutes'
	@$(BIN)/python -m pytest $(AT_ONCE) $(ARGS)
	@echo 'All tests passed. Next: `make sweep` for a sweep on the demo set, `make check` before a commit.'

test-all: ARGS := -m 'long or not long' $(ARGS)
test-all: test

check: STEP := 1/6 $(EMPTY)
check: environment
	@echo '2/6 rules'
	@$(BIN)/ruff check .
	@echo '3/6 format'
	@$(BIN)/ruff format --check .
	@echo '4/6 strict types'
	@$(BIN)/mypy
	@echo '5/6 layers'
	@$(BIN)/lint-imports --no-logo
	@echo '6/6 packages: installed ones agree with each other'
	@$(BIN)/python -m pip check --disable-pip-version-check
	@echo 'Rules, format, types, layers and packages hold. Next: `make test`.'

# Its tool has an environment of its own: it must not change what is pinned.
audit:
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && \
	  build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict || \
	  { echo 'audit: a pinned package has a known hole (above), or the database of them does not answer' >&2; exit 1; }

format: environment
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ui: environment
	@$(BIN)/python sweep.py ui --storage '$(STORAGE)' $(ARGS)

docs: environment
	@$(BIN)/python -m pdoc -o build/reference $(REFERENCE)
	@echo 'build/reference/index.html'

environment: $(STAMP)
	@echo '$(STEP)environment: ready in .venv'

# The stamp is written last: an installation that fails or is interrupted starts again with the next call.
# The first attempt uses what is in .venv already, so that an edit of pyproject.toml needs no network.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '' 2>/dev/null || { \
	  echo '$(PYTHON) does not start; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -V); expected 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
	  echo 'no virtual environment could be made in .venv (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@$(PIP_INSTALL) --no-index --no-build-isolation >$(LOG) 2>&1 || { \
	  echo '$(STEP)environment: installing the pinned packages into .venv, about 7 GB, 3-6 minutes the first time (log: $(LOG))'; \
	  $(PIP_INSTALL) >$(LOG) 2>&1 || { tail -n 15 $(LOG) >&2; \
	    echo 'the installation failed, see above and $(LOG); run the same command to try again' >&2; exit 1; }; }
	@touch $@

data: $(if $(filter demo-data,$(DATA)),demo-data/dataset.json)
	@echo '2/3 data: $(DATA)'

demo-data/dataset.json:
	@echo '2/3 data: making the demo set'
	@$(BIN)/python sweep.py data demo $(@D)
