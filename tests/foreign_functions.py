"""Policies for guests that act as native code does, by ctypes, which no preset but `data` grants."""

from __future__ import annotations

from pyisolate import Policy


def with_ctypes(policy: Policy | None = None) -> Policy:
    """Grant ctypes, and nothing else, under a policy or under preset `compute`."""
    return (Policy.preset("compute") if policy is None else policy).allow_import("ctypes")
