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
APT_TEST := iproute2 strace tmux kmod bubblewrap bpftool python3-bpfcc linux-headers-amd64
APT_CPYTHON := libpython3-testsuite
APT_VM := qemu-system-x86 busybox-static kmod udev
APT_BENCH := bubblewrap

NATIVE := setup.py $(shell find pyisolate/native bpf -type f \( -name '*.py' -o -name '*.c' -o -name '*.h' \) \
	! -name '_native*.c' ! -name '_libbpf*.c' 2>/dev/null)

.PHONY: help setup demo test test-python lint bench fuzz soak clean tools-build tools-test tools-bench

help:
	@echo 'make setup   build .venv and the native parts (all other targets do this first)'
	@echo 'make demo    run a real job and a dozen attacks, and show what was refused'
	@echo 'make test    run every test tier this machine can run, and say what was left out'
	@echo 'make test-python PYTHON=/path/to/python3   the unit and host tiers with another Python, in a .venv-VERSION of its own'
	@echo 'make lint    ruff, mypy --strict, names and sizes'
	@echo 'make bench   print the budgets as ratios'
	@echo 'make fuzz    every parser under a coverage-guided fuzzer, SECONDS_FUZZ=$(SECONDS_FUZZ) in all'
	@echo 'make soak    20,000 sandboxes (SANDBOXES_SOAK), and random faults for SECONDS_SOAK=$(SECONDS_SOAK) each'
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

test: tools-test setup
	@PATH="$$PWD/.cache/prometheus/usr/bin:$$PATH" $(PY) tests/run_tiers.py $(TIERS)

test-python:
	@version=$$('$(PYTHON)' -c 'import sys; print("{}.{}".format(*sys.version_info))'); \
		$(MAKE) --no-print-directory test PYTHON='$(PYTHON)' VENV=".venv-$$version" TIERS='$(or $(TIERS),unit host)'

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) .make/names_and_sizes.py

bench: tools-bench setup
	@$(PY) -m benchmarks $(BENCH)

fuzz: setup
	@PYISOLATE_FUZZ_SECONDS=$(SECONDS_FUZZ) $(PY) -m pytest -m fuzz tests/unit

soak: setup
	@PYISOLATE_SOAK_SECONDS=$(SECONDS_SOAK) PYISOLATE_SOAK_SANDBOXES=$(SANDBOXES_SOAK) $(PY) -m pytest -m soak --timeout $$(( $(SECONDS_SOAK) + 300 )) tests/host tests/faults

clean:
	rm -rf $(VENV) .venv-* build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis pyisolate/kernel/objects *.egg-info
	find pyisolate -name '*.so' -delete
	rm -f pyisolate/native/_native.c pyisolate/native/_libbpf.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
