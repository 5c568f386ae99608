"""Processor time of kernel threads: what a sandbox leaves to them (taking its namespaces apart) is nobody's child."""

from __future__ import annotations

import os

_KTHREADD = "2"


def kernel_s() -> float:
    """Return what all kernel threads have used (seconds; proc(5), schedstat): the whole machine's."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
            if parent == _KTHREADD:
                with open(f"/proc/{pid}/schedstat") as file:
                    total += int(file.read().split()[0])
        except (OSError, IndexError):
            continue  # it has ended
    return total / 1e9
