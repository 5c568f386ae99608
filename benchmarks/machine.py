"""The machine that the figures belong to."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def describe() -> dict[str, str]:
    """Return kernel, processors, memory, Python, user and load."""
    return {
        "kernel": platform.release(),
        "cpu": f"{len(os.sched_getaffinity(0))} x {_cpu_model()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "python": f"{platform.python_version()} ({os.path.realpath(sys.executable)})",
        "user": "root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
        "load": f"{os.getloadavg()[0]:.1f} when it began",
        "commit": _commit(),
    }


def line() -> str:
    """Return the same as one line."""
    return ", ".join(f"{key} {value}" for key, value in describe().items() if value)


def _cpu_model() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return " ".join(text.partition(":")[2].split())
    except OSError:
        pass
    return platform.machine()


def _commit() -> str:
    """The commit of the work tree, read without running git (which may not be there)."""
    git = Path(__file__).resolve().parent.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if head.startswith("ref: "):
            head = (git / head[5:]).read_text().strip()
    except OSError:
        return ""
    return head[:10]
