# Every target prepares what it needs, says what it installs and why, and is quick the second time.
# PYTHON=/path/to/python3 picks another interpreter (3.11 or newer) for .venv; the default is the system's, which every
# user can read: a sandbox drops to an unprivileged uid and must still be able to import from it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= /usr/bin/python3
VENV := .venv
PY := $(VENV)/bin/python
SECONDS_FUZZ ?= 600
SECONDS_SOAK ?= 60
SANDBOXES_SOAK ?= 20000

APT_BUILD := python3-venv python3-dev gcc pkg-config libseccomp-dev
APT_BPF := clang llvm libbpf-dev libelf-dev zlib1g-dev
APT_TEST := iproute2 strace tmux kmod bubblewrap bpftool python3-bpfcc linux-headers-amd64 crun libcap2-bin
APT_CPYTHON := libpython3.11-testsuite
APT_VM := qemu-system-x86 busybox-static kmod udev e2fsprogs
APT_BENCH := bubblewrap

NATIVE := setup.py $(shell find pyisolate/native bpf -type f \( -name '*.py' -o -name '*.c' -o -name '*.h' \) \
	! -name '_native*.c' ! -name '_libbpf*.c' 2>/dev/null)

.PHONY: help house setup demo test test-fast test-python coverage lint bench fuzz soak docs wheel clean tools-build tools-test tools-bench

help:
	@echo 'make setup   build .venv and the native parts (all other targets do this first)'
	@echo 'make demo    run a real job and two dozen attacks, and show what was refused'
	@echo 'make test    run every test tier this machine can run, and say what was left out'
	@echo 'make test-fast   unit and the core of host, in less than a minute, as any user'
	@echo 'make test-python PYTHON=/path/to/python3   the unit and host tiers with another Python, in a .venv-VERSION of its own'
	@echo 'make coverage   branch coverage of the unit and host tiers; fails below the floor in pyproject.toml'
	@echo 'make lint    ruff, mypy --strict, names and sizes'
	@echo 'make house   circles (of imports, and of C files), imports that run back up, reaches into privates, long files, old words: figures and places'
	@echo 'make bench   print the budgets as ratios'
	@echo 'make fuzz    every parser under a coverage-guided fuzzer, and all examples of each property, SECONDS_FUZZ=$(SECONDS_FUZZ) in all'
	@echo 'make soak    20,000 sandboxes (SANDBOXES_SOAK), and random faults for SECONDS_SOAK=$(SECONDS_SOAK) each'
	@echo 'make wheel   build sdist, wheel and SBOM into dist/, and run the wheel in an empty environment'
	@echo 'make docs    build the docs site into build/site, strictly'
	@echo 'make clean   remove everything that was built'

tools-build:
	@.make/apt.sh 'build the native parts' $(APT_BUILD)
	@.make/apt.sh --optional 'compile the BPF programs' $(APT_BPF)

tools-test: tools-build
	@.make/apt.sh --optional 'observe and drive sandboxes in tests' $(APT_TEST)
	@.make/apt.sh --optional "run CPython's own tests inside sandboxes" $(APT_CPYTHON)
	@.make/apt.sh --optional 'boot kernels with BPF-LSM for the vm tier' $(APT_VM)
	@.make/prometheus.sh

tools-bench: tools-build
	@.make/apt.sh --optional 'compare with bubblewrap' $(APT_BENCH)

$(VENV)/.dependencies: pyproject.toml .make/venv.sh | tools-build
	@.make/venv.sh '$(PYTHON)' '$(VENV)'
	@touch $@

$(VENV)/.native: $(VENV)/.dependencies $(NATIVE) | tools-build
	@echo 'setup: building the native parts in place'
	@PYTHONWARNINGS=ignore $(PY) setup.py --quiet build_ext --inplace
	@touch $@

setup: tools-build $(VENV)/.native

demo: setup
	@$(VENV)/bin/pyisolate demo

$(VENV)/.clients: pyproject.toml | setup
	@echo 'setup: installing what the clients tier drives'
	@$(PY) -m pip --disable-pip-version-check --quiet install --no-build-isolation --editable '.[clients]'
	@touch $@

# Heavy, and for one tier only.
CLIENTS = $(if $(filter clients,$(or $(TIERS),clients)),$(VENV)/.clients)

test: tools-test setup $(CLIENTS)
	@PATH="$$PWD/.cache/prometheus/usr/bin:$$PATH" $(PY) tests/run_tiers.py $(TIERS)

test-fast: setup
	@$(PY) tests/run_tiers.py --fast

test-python:
	@version=$$('$(PYTHON)' -c 'import sys; print("{}.{}".format(*sys.version_info))'); \
		$(MAKE) --no-print-directory test PYTHON='$(PYTHON)' VENV=".venv-$$version" TIERS='$(or $(TIERS),unit host)'

coverage: tools-test setup
	@mkdir -p .cache/coverage && rm -f .cache/coverage/data*
	@for tier in $(or $(TIERS),unit host); do $(PY) -m coverage run -m pytest -q "tests/$$tier" \
		|| echo "coverage: tests of $$tier failed while they were measured; make test judges them"; done
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) .make/names_and_sizes.py
	@$(PY) .make/house.py --check
	@$(VENV)/bin/lint-imports
	@.make/c.sh $(PY)
	@.make/vm_fixtures.sh $(PY)

house:
	@python3 .make/house.py --where

bench: tools-bench setup
	@$(PY) -m benchmarks $(BENCH)

fuzz: setup
	@PYISOLATE_FUZZ_SECONDS=$(SECONDS_FUZZ) PYISOLATE_EXAMPLES=all $(PY) -m pytest -m 'fuzz or slow' tests/unit

soak: setup
	@PYISOLATE_SOAK_SECONDS=$(SECONDS_SOAK) PYISOLATE_SOAK_SANDBOXES=$(SANDBOXES_SOAK) $(PY) -m pytest -m soak --timeout $$(( $(SECONDS_SOAK) + 300 )) tests/host tests/faults

# The packages of these two come on top of the others, and only when they are asked for.
$(VENV)/.docs: pyproject.toml | setup
	@echo 'setup: installing what the docs site is built with'
	@$(PY) -m pip --disable-pip-version-check --quiet install --no-build-isolation --editable '.[docs]'
	@touch $@

$(VENV)/.wheel: pyproject.toml | setup
	@echo 'setup: installing what wheels are built and checked with'
	@$(PY) -m pip --disable-pip-version-check --quiet install --no-build-isolation --editable '.[wheel]'
	@touch $@

wheel: $(VENV)/.wheel
	@$(PY) .make/wheel.py

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet
	@echo 'docs: build/site/index.html'

clean:
	rm -rf $(VENV) .venv-* build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis pyisolate/kernel/bpf/objects *.egg-info
	find pyisolate -name '*.so' -delete
	rm -f pyisolate/native/_native.c pyisolate/native/_libbpf.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
