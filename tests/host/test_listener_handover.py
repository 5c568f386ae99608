"""A filter's listener is handed over: the task that does it, and a listener of which another descriptor is open yet."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from pathlib import Path

from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.kernel.seccomp.listener import Listener
from pyisolate.native import process
from pyisolate.native import seccomp as native_seccomp
from tests.confined import cell, policy
from tests.in_child import in_child, outcome


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


def test_a_listener_that_others_hold_says_nothing_of_a_sandbox_that_is_forgotten() -> None:
    """A cell has its own descriptor until it begins: its end was an event of a sandbox whose memory was given back."""

    def outlived() -> tuple[int, str]:
        listener = Listener(lambda record: None)
        listener.start()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            process.set_pdeathsig(signal.SIGKILL)
            native_seccomp.install_and_send(seccomp.cell_program(full=False), theirs.fileno(), b".")
            time.sleep(60)
            os._exit(0)
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        held = os.dup(descriptor)
        listener.attach(descriptor, "gone", policy())
        listener.detach("gone")
        for name in ("next", "one more"):  # each is an order that the loop has done, and a batch
            with cell(os.getpid, policy(), listener=listener, name=name) as value:
                value()
        watched = watched_by_listeners()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with select.epoll() as control:
            control.register(held, select.EPOLLIN)
            assert control.poll(5)[0][1] & select.EPOLLHUP  # the control: that end is an event
        with cell(lambda: outcome(lambda: socket.socket()), policy(), listener=listener, name="last") as value:
            return watched, value()

    assert in_child(outlived) == [1, "EACCES"]  # what wakes the loop


def watched_by_listeners() -> int:
    """Return how many descriptors threads of this process, the listener's, wait for by epoll(7)."""
    found = set()
    for place in Path("/proc/self/task").glob("*/fdinfo/*"):
        with contextlib.suppress(FileNotFoundError):  # the one by which this looks
            found |= {line for line in place.read_text().splitlines() if line.startswith("tfd:")}
    return len(found)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
