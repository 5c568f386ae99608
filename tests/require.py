"""Skips are claims: `PYISOLATE_REQUIRE=landlock,vm` turns a skip for one of those features into a failure."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

import pyisolate
from pyisolate.policy import workspace
from pyisolate.policy.compile import compile_policy


def require(feature: str, present: bool, reason: str) -> None:
    """Skip the test when `feature` is not there, unless the environment says that it must be."""
    if present:
        return
    wanted = {name.strip() for name in os.environ.get("PYISOLATE_REQUIRE", "").split(",") if name.strip()}
    if feature in wanted or "all" in wanted:
        pytest.fail(f"{feature} is required (PYISOLATE_REQUIRE) but missing: {reason}")
    pytest.skip(f"{feature} missing: {reason}")


def require_interpreter(uid: int) -> None:
    """Skip where `uid` cannot run this interpreter (one in somebody's private home): no supervisor could run there."""
    require("interpreter", _runs_as(uid), f"uid {uid} cannot run {sys.executable}. Hint: make PYTHON=/usr/bin/python3")


@functools.cache
def _runs_as(uid: int) -> bool:
    try:
        done = subprocess.run([sys.executable, "-c", ""], user=uid, group=uid, extra_groups=[], cwd="/", check=False)
    except PermissionError:
        return False
    return done.returncode == 0


def require_tmp_leads(policy: pyisolate.Policy) -> None:
    """Skip where the policy reads the interpreter's own files below /tmp: there /tmp does not lead to the workspace."""
    leads = "/tmp" in workspace.links(compile_policy(policy))
    require("tmp", leads, f"{sys.prefix} is below /tmp, which is the host's then (docs/workspace.md)")
