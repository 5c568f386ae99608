"""Measure the matrix in a virtual machine whose kernel has BPF-LSM, booted as tests.vm.run boots it."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.vm import boot, kernels

#: An emulated machine takes about a second for each case, and longer beside others.
TIMEOUT_S = 3000.0


def command(arguments: list[str]) -> str:
    """Return the shell command that measures inside the machine, where files of the world are on a tmpfs."""
    settings = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(boot.ROOT), "HOME": "/root", "TMPDIR": "/mnt"}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    words = [sys.executable, "-m", "tests.truth", *arguments]
    return f"mount -t tmpfs tmpfs /mnt && ulimit -n 65536 && cd / && env {exports} {shlex.join(words)}"


def run(series: str, arguments: list[str]) -> int:
    """Boot one kernel and measure there; return the status of the measurement, 2 where no machine can be had."""
    boot.end_on(signal.SIGTERM, signal.SIGINT)
    try:
        found = kernels.kernel(series)
        print(f"Linux {found.release}, {boot.LSMS}", flush=True)
        with tempfile.TemporaryDirectory(prefix="pyisolate-truth-vm-") as place:
            return boot.boot(found, command(arguments), writable=Path(place), timeout_s=TIMEOUT_S)
    except (boot.CannotBoot, kernels.KernelMissing) as error:
        print(error)
        return 2
