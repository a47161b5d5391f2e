# Every target sets up what it needs in .venv; a fresh machine needs make and Python 3.11 or newer, and nothing else.
# Another Python: make PYTHON=/path/to/python test

SHELL := /bin/sh
.SHELLFLAGS := -euc
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow clean

PYTHON ?=
BIN := .venv/bin

# In the environment, and not as an option, they also hold for hatchling in pip's isolated build; pip 25.3 and newer
# read the second one there, older ones the first. They are relative because pip splits them at spaces.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo 'make demo       train a small sparse network and write its report'
	@echo 'make test       lint, types and tests'
	@echo 'make test-slow  the tests that take minutes'
	@echo 'make clean      remove .venv and caches; runs stay'

demo: .venv/installed
	$(BIN)/sparsecore train

test: .venv/installed-for-tests
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: .venv/installed-for-tests
	$(BIN)/python -m pytest -m slow

# The stamps are touched last, so that an interrupted set-up is done again. The second waits for the first because
# two pips at once in one environment spoil it.
.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo 'Installing sparsecore into .venv ...'
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-for-tests: .venv/installed
	@echo 'Installing the test tools into .venv ...'
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

# ensurepip is asked for because some distributions package it apart from Python
.venv/created:
	@if [ -n '$(PYTHON)' ]; then set -- '$(PYTHON)'; else set -- python3.13 python3.12 python3.11 python3; fi; \
	for python do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating .venv with $$("$$python" --version) ..."; \
	    "$$python" -m venv --clear .venv; \
	    touch $@; \
	    exit 0; \
	  fi; \
	done; \
	echo "sparsecore needs Python 3.11 or newer with its venv module (on Debian: python3-venv); tried: $$*." \
	  "Name another one with: make PYTHON=/path/to/python" >&2; \
	exit 1

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
