"""The task that hands a filter's listener over: a process of its own for a moment."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.native import seccomp as native_seccomp


def test_who_hands_a_listener_over_dies_with_its_owner() -> None:
    """Without a pid namespace nothing else ends it. It waits here because the peer's buffer is full."""
    program = seccomp.cell_program(full=False, random=True)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        native_seccomp.install_and_send(program, theirs.fileno(), b"x" * (8 << 20))
        os._exit(0)
    theirs.close()
    assert ours.recv(1)  # the control: it is at work
    children = Path(f"/proc/{pid}/task/{pid}/children")
    courier = int(children.read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and state_of(courier) not in ("", "Z"):
        time.sleep(0.01)
    left = state_of(courier)
    if left not in ("", "Z"):
        os.kill(courier, signal.SIGKILL)
    ours.close()
    assert left in ("", "Z")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
