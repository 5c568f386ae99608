"""Policies that grant programs by their names."""

from __future__ import annotations

import shutil

import pyisolate


def compute_with(*names: str) -> pyisolate.Policy:
    """Return the preset `compute` with those of the programs that this machine has."""
    policy = pyisolate.Policy.preset("compute")
    for name in names:
        if (path := shutil.which(name)) is not None:
            policy = policy.allow_exec(path)
    return policy
