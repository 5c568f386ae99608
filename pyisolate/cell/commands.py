"""A program that a request runs in the guest, in the place of Python code, with the streams of the request."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from .inbox import Inbox


def run_command(
    inbox: Inbox,
    on_started: Callable[[int], None],
    arguments: Sequence[str],
    directory: str | None,
    environment: Mapping[str, str] | None,
    merged: bool,
    attended: bool,
) -> int:
    """Return a program's exit status, negative for a signal. Raises what `subprocess.Popen` raises.

    `merged`: its stderr goes where its stdout does. `attended`: tell the host that it runs, and pass on the signals
    that the host sends it. An interrupt kills it with what it started in its process group.
    """
    import subprocess  # few guests run programs

    stderr = subprocess.STDOUT if merged else None
    inbox.signals.clear()  # of a program that had ended
    with subprocess.Popen(arguments, cwd=directory, env=environment, stderr=stderr, process_group=0) as process:
        try:
            if attended:
                on_started(process.pid)
                _attend(process, inbox, on_started)
            return process.wait()
        except BaseException:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise


def _attend(process: subprocess.Popen[bytes], inbox: Inbox, on_signalled: Callable[[int], None]) -> None:
    """Wait for a program's end; signals that come until then are passed on."""
    ended = os.pidfd_open(process.pid)
    try:
        while not inbox.wait_or_readable(ended):
            while inbox.signals:
                with contextlib.suppress(OSError):  # it has just ended, or has made itself another user
                    process.send_signal(inbox.signals.popleft())
                on_signalled(process.pid)
    finally:
        os.close(ended)
