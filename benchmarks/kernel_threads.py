"""Processor time that no process of ours is charged with: of kernel threads, and of the whole machine.

Kernel threads take a sandbox's namespaces apart. Who ends with a cell's init, as all do when a sandbox is closed, is
waited for by no process, and its time is in no process's account (`zap_pid_ns_processes`, kernel/pid_namespace.c).
"""

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


def busy_s() -> float:
    """Return how long all processors were busy since the start (seconds; proc(5), /proc/stat), whoever ran."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _waits, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
