"""A program that a request runs in the guest, in the place of Python code, with the streams of the request."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence


def run_command(
    arguments: Sequence[str], directory: str | None, environment: Mapping[str, str] | None, merged: bool
) -> int:
    """Return a program's exit status, negative for a signal. Raises what `subprocess.Popen` raises.

    `merged`: its stderr goes where its stdout does. An interrupt kills it with what it started in its process group.
    """
    import subprocess  # few guests run programs

    stderr = subprocess.STDOUT if merged else None
    with subprocess.Popen(arguments, cwd=directory, env=environment, stderr=stderr, process_group=0) as process:
        try:
            return process.wait()
        except BaseException:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
