# Every target sets up what it needs in .venv; a fresh machine needs make and Python 3.11 or newer, and nothing else.
# Where there is a C++ compiler too, the CPU backend is built.
# Another Python: make PYTHON=/path/to/python test; another compiler, or none: make CXX=clang++ test, make CXX=none test

SHELL := /bin/sh
.SHELLFLAGS := -euc
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow test-processors test-oldest test-newest sanitize fuzz stubs packages clean

PYTHON ?=
# Installing takes a minute or more; pip shows its progress only when stderr is a terminal.
QUIET := $(shell [ -t 2 ] || echo --quiet)
BIN := .venv/bin
CPU := backends/sparsecore_cpu
CPU_SOURCES := $(CPU)/pyproject.toml $(CPU)/CMakeLists.txt $(wildcard $(CPU)/kernels/* $(CPU)/kernels/*/*)

# In the environment, and not as an option, they also hold for hatchling in pip's isolated build; pip 25.3 and newer
# read the second one there, older ones the first. They are relative because pip splits them at spaces.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo 'make demo       train a small sparse network and write its report'
	@echo 'make docs       build the documentation site into site/, with links checked and notebooks executed'
	@echo 'make test       linters, types, import contracts, and tests'
	@echo 'make test-slow  the tests that take long, which make test leaves out, and more examples of those with hypothesis'
	@echo 'make test-processors  the tests that depend on arithmetic, as other processors would compute them'
	@echo 'make test-oldest, make test-newest  the tests with the oldest and the newest versions that pyproject.toml allows'
	@echo 'make sanitize   the tests of the C++ kernels under the address, undefined-behaviour and thread sanitizers'
	@echo 'make fuzz       100,000 calls of the C++ kernels with random, mostly invalid arguments, under the first two'
	@echo 'make stubs      generate the stub of the C++ kernels (_kernels.pyi), after their signatures have changed'
	@echo 'make packages   build and check the sdists and wheels of the engine and of the CPU backend, in dist/'
	@echo 'make clean      remove .venv, builds and caches; the folders of runs are kept'

demo: .venv/installed .venv/cpu-built
	$(BIN)/sparsecore train

# Warnings are errors: a link that leads nowhere, a page that is not in the navigation, a notebook that fails. While
# you write: .venv/bin/python -m mkdocs serve
docs: .venv/installed-for-docs .venv/cpu-built
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: .venv/installed-for-tests .venv/cpu-built
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	PYTHONPATH=$(CPU)/src $(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: .venv/installed-for-tests .venv/cpu-built
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m 'hypothesis and not slow' --hypothesis-profile thorough

# One combination of settings, or other tests: make test-processors ARGUMENTS='--only 3 tests/test_torch_agreement.py'
test-processors: .venv/installed-for-tests .venv/cpu-built
	$(BIN)/python tests/processors.py $(ARGUMENTS)

# The oldest or the newest versions of all that pyproject.toml names for users, which is the only list; what builds,
# documents and lints has only the versions of constraints.txt. uv chooses the oldest, as pip cannot. The oldest run on
# the oldest Python. The kernels are compiled where they are in .venv, too.
# Other tests: make test-oldest ARGUMENTS='tests/test_sparsify.py'
OLDEST_PYTHON = $(shell sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)
COMPATIBLE := all-without-cpu,vision,lightning,transformers,tensorboard,wandb,mlflow,trackio
ARGUMENTS_OR_ALL = $(or $(ARGUMENTS),--numprocesses auto --dist loadfile)

# Old releases call what newer ones of their own dependencies deprecate.
test-oldest: build/oldest/built
	PYTHONWARNINGS=default build/oldest/bin/python -m pytest -W ignore::DeprecationWarning $(ARGUMENTS_OR_ALL)

test-newest: build/newest/built
	build/newest/bin/python -m pytest $(ARGUMENTS_OR_ALL)

build/oldest/built: RESOLUTION := lowest-direct
build/oldest/built: COMPATIBLE_PYTHON = $(OLDEST_PYTHON)
build/newest/built: RESOLUTION := highest
build/newest/built: COMPATIBLE_PYTHON = $(BIN)/python

build/oldest/built build/newest/built: build/%/built: .venv/installed pyproject.toml constraints.txt $(CPU_SOURCES) | .venv/cpu-built
	@echo 'Installing the $* versions into $(@D) ...'
	@$(BIN)/python -m pip install $(QUIET) uv
	@$(BIN)/python -m uv venv --quiet --clear --python $(COMPATIBLE_PYTHON) $(@D)
	@$(BIN)/python -m uv pip install $(QUIET) --python $(@D) --resolution $(RESOLUTION) --editable '.[$(COMPATIBLE)]'
	@$(BIN)/python -m uv pip install $(QUIET) --python $(@D) pytest-xdist
	@if [ -e .venv/cpu-built ]; then \
	  $(BIN)/python -m uv pip install $(QUIET) --python $(@D) --no-deps --editable $(CPU); \
	fi
	@$(BIN)/python -m uv pip freeze --python $(@D)
	@touch $@

# The kernels' tests and calls with two builds of the kernels, each in an environment of its own, because
# ThreadSanitizer cannot be combined with the other two. Python is not built with sanitizers, so their library has to be
# loaded before it, and so has that of C++ for its exceptions. Memory that Python itself never frees is not a leak of
# the kernels. The sanitizers write to the file descriptor, which pytest must not capture. ThreadSanitizer needs to know
# where the system puts memory, and the tests fork while threads are running.
PRELOAD = LD_PRELOAD="$$(for library in $(1) libstdc++.so; do $${CXX:-g++} -print-file-name=$$library; done | paste -sd ' ')"
WITH_ADDRESS = $(call PRELOAD,libasan.so) ASAN_OPTIONS=detect_leaks=0 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/sanitize/address/bin/python
WITH_THREAD = $(call PRELOAD,libtsan.so) TSAN_OPTIONS=die_after_fork=0 OPENBLAS_NUM_THREADS=1 \
  $$(setarch --addr-no-randomize true 2>/dev/null && echo setarch --addr-no-randomize) build/sanitize/thread/bin/python
WITH_SEVERAL_THREADS := threads openmp arguments kernels networks inference pack fuzz

sanitize: build/sanitize/address/built build/sanitize/thread/built
	$(WITH_ADDRESS) -m pytest --capture=sys tests/test_cpu_*.py
	$(WITH_THREAD) -m pytest --capture=sys $(WITH_SEVERAL_THREADS:%=tests/test_cpu_%.py)
	$(WITH_THREAD) tests/fuzz_kernels.py --calls 20000

# Other calls, or more of them: make fuzz CALLS=1000000 SEED=7
CALLS := 100000
SEED := 0

fuzz: build/sanitize/address/built
	$(WITH_ADDRESS) tests/fuzz_kernels.py --calls $(CALLS) --seed $(SEED)

# The tests of the arithmetic compare with torch, which is built without sanitizers: they cannot follow its threads.
# The kernels for newer instruction sets run on the same threads as the baseline's, and take minutes to compile.
build/sanitize/address/built: SANITIZERS := address,undefined
build/sanitize/address/built: EXTRAS := data,testing,torch
build/sanitize/thread/built: EXTRAS := data,testing
build/sanitize/thread/built: SANITIZERS := thread
build/sanitize/thread/built: OPTIONS := --config-settings cmake.define.SPARSECORE_BASELINE_ONLY=ON

build/sanitize/%/built: .venv/created pyproject.toml constraints.txt $(CPU_SOURCES)
	@echo 'Building the CPU backend with the sanitizers $(SANITIZERS) into $(@D) ...'
	@$(BIN)/python -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install $(QUIET) --editable '.[$(EXTRAS)]'
	@CXX=$${CXX:-g++} $(@D)/bin/python -m pip install $(QUIET) --editable $(CPU) $(OPTIONS) \
	  --config-settings cmake.define.SPARSECORE_SANITIZE=$(SANITIZERS) \
	  --config-settings cmake.build-type=RelWithDebInfo --config-settings install.strip=false \
	  --config-settings build-dir=$(@D)/cmake
	@touch $@

stubs: .venv/installed-for-tests .venv/cpu-built
	$(BIN)/python tests/kernel_stub.py

# What a release uploads: the engine's wheel is built from its sdist; the kernels are compiled for this machine alone,
# as .github/workflows/release.yml has cibuildwheel compile them for all.
packages: .venv/installed
	rm -rf dist
	$(BIN)/python -m pip install $(QUIET) build twine
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m build --outdir dist --sdist --wheel $(CPU)
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/packages.py dist

# The stamps are touched last, so that an interrupted set-up is done again. Each waits for the one before because two
# pips at once in one environment spoil it.
.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo 'Installing sparsecore into .venv ...'
	@$(BIN)/python -m pip install $(QUIET) --editable '.[cli,data,report]'
	@touch $@

# Without a compiler there is no stamp, so that it is built as soon as there is one.
.venv/cpu-built: constraints.txt $(CPU_SOURCES) | .venv/installed
	@headers=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	set -- $${CXX:-c++ g++ clang++}; \
	while [ $$# -gt 0 ] && ! command -v "$$1" >/dev/null; do shift; done; \
	if [ $$# -eq 0 ]; then \
	  echo "Going on without the CPU backend: no C++ compiler is found ($${CXX:-c++, g++, clang++})."; \
	elif [ ! -e "$$headers/Python.h" ]; then \
	  echo "Going on without the CPU backend: Python's headers are not in $$headers (on Debian: python3-dev)."; \
	else \
	  echo 'Building the CPU backend into .venv ...'; \
	  CXX=$${CXX:-$$1} $(BIN)/python -m pip install $(QUIET) --editable $(CPU) && touch $@; \
	fi

.venv/installed-for-tests: .venv/installed | .venv/cpu-built
	@echo 'Installing the test tools into .venv ...'
	@$(BIN)/python -m pip install $(QUIET) --editable '.[test]'
	@touch $@

# after the tests' tools where both are asked for, because of the pips
.venv/installed-for-docs: .venv/installed | .venv/cpu-built
	@echo 'Installing what builds the documentation into .venv ...'
	@$(BIN)/python -m pip install $(QUIET) --editable '.[docs]'
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
	rm -rf .venv build dist site $(CPU)/build $(CPU)/dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
