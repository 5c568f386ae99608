"""The listener's table of descriptors is its own: what a guest sends, opens and swaps is open in it alone."""

from __future__ import annotations

import fcntl
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes
from tests.programs import compute_with
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
IS_LOCKED = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("locked")
"""
SENT = """
import os, socket
def sent(path):
    one, two = socket.socketpair()
    with open(path, "rb") as file:
        socket.send_fds(one, [b"x"], [file.fileno()])
    _, (got,), *_ = socket.recv_fds(two, 1, 1)
    with one, two, open(got, "rb") as received:
        return received.read(4)
"""
SWAPPED = """
import ctypes, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
place, over = os.dup(0), False
def swap(file, other):
    while not over:
        os.dup2(file, place)
        os.dup2(other, place)
def swapped(path):
    global over
    file, other = os.open(path, os.O_RDONLY), socket.socketpair()[0]
    errors = set()
    thread = threading.Thread(target=swap, args=(file, other.fileno()))
    thread.start()
    for _ in range(20_000):
        libc.connect(place, bytes([2, 0, 0, 80, 127, 0, 0, 1] + 8 * [0]), 16)
        errors.add(ctypes.get_errno())
    over = True
    thread.join()
    return len(errors)
"""

TABLES = """
import os, sys
import pyisolate
from tests import inside
from tests.waiting import until
NOTIFY = "anon_inode:seccomp notify"
def tables():
    found = {}
    for task in os.listdir("/proc/self/task"):
        names = found[task] = []
        for name in os.listdir(f"/proc/self/task/{task}/fd"):
            try:
                names.append(os.readlink(f"/proc/self/task/{task}/fd/{name}"))
            except FileNotFoundError:
                pass
    return found
policy = pyisolate.Policy.preset("compute").allow_read(sys.argv[1])
with open(sys.argv[1]) as held, pyisolate.Supervisor(pool_size=0) as other, other.spawn("guest", policy) as sandbox:
    assert sandbox.eval("1") == 1
    found = tables()
    host = found[str(os.getpid())]
    assert held.name in host and NOTIFY not in host
    own = [names for names in found.values() if NOTIFY in names]
    assert own and len(own) < len(found)
    def foreign():
        own = [names for names in tables().values() if NOTIFY in names]
        return {name for names in own for name in names if not name.startswith("anon_inode:")}
    until(lambda: foreign() <= {"/", "/sandbox/workspace"})
    def size():
        return max(len(names) for names in tables().values() if NOTIFY in names)
    sandbox.exec(sys.argv[2])
    sandbox.call("sent", held.name)
    before = size()
    assert [sandbox.call("sent", held.name) for _ in range(100)] == [b"data"] * 100
    until(lambda: size() <= before)  # what waits to be closed is closed by a thread of its own
    inside.plan(other).listener.close()
    assert not any(NOTIFY in names for names in tables().values())
"""


@pytest.fixture(autouse=True)
def _listening(supervisor: pyisolate.Supervisor) -> None:
    require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    made = tmp_path / "data"
    made.write_bytes(b"data")
    made.chmod(0o644)
    return made


def is_locked(file: Path) -> bool:
    """Ask from another process."""
    command = [sys.executable, "-c", IS_LOCKED, str(file)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout == b"locked\n"


@pytest.mark.parametrize("way", ["sent", "opened", "swapped"])
def test_the_host_keeps_its_record_locks_on_what_passes_through_the_listener(
    supervisor: pyisolate.Supervisor, file: Path, way: str
) -> None:
    """A process loses those on a file when its table loses any descriptor of the file (fcntl(2))."""
    policy = (compute_with("bash", "cat") if way == "opened" else with_ctypes()).allow_read(file.parent)
    with file.open("r+b") as ours, supervisor.spawn("guest", policy) as sandbox:
        assert not is_locked(file)
        fcntl.lockf(ours, fcntl.LOCK_EX)
        assert is_locked(file)
        if way == "sent":
            sandbox.exec(SENT)
            assert sandbox.call("sent", str(file)) == b"data"
        elif way == "opened":
            done = sandbox.run(["bash", "-c", f"exec 9< {file}; cat /dev/fd/9"])
            assert (done.returncode, done.stdout) == (0, b"data")
        else:
            sandbox.exec(SWAPPED)
            assert sandbox.call("swapped", str(file)) >= 2  # it met the file, and the socket
        assert is_locked(file)
        fcntl.lockf(ours, fcntl.LOCK_UN)  # the control: the host's own
        assert not is_locked(file)


def test_what_the_host_closes_is_closed() -> None:
    """A copy in the listener's table would keep a connection of the host's open: its peer would wait."""
    ours, theirs = socket.socketpair()
    with theirs, pyisolate.Supervisor() as supervisor, supervisor.spawn("guest") as sandbox:
        assert sandbox.eval("1") == 1
        assert not select.select([theirs], [], [], 0)[0]  # the control
        ours.close()
        assert select.select([theirs], [], [], 0)[0]
        assert theirs.recv(1) == b""


def test_the_listener_s_table_has_nothing_of_the_host_s_does_not_grow_and_ends_with_it(file: Path) -> None:
    """In a process of its own: other supervisors have tables, too."""
    done = subprocess.run([sys.executable, "-c", TABLES, str(file), SENT], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0
