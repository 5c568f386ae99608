#!/bin/bash
# The tests of the emulated machine are collected there only, after minutes: find here what they ask for and nobody gives.
set -euo pipefail
if ! said=$(PYISOLATE_VM=1 "$1" -m pytest --setup-plan -q tests/vm/inside 2>&1); then
    tail -30 <<<"$said"
    exit 1
fi
