"""Memory of the kernel's that no control group charges: the listener counts it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate

pytestmark = pytest.mark.alone  # fills what the kernel counts by user

LOCKS = """
import errno, fcntl
def locks(count):
    for made in range(count):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * made)
        except OSError as error:
            return made, errno.errorcode[error.errno]
    return made + 1, ""
"""
HONEST = """
import fcntl, sqlite3
for turn in range(3000):
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 5)
    fcntl.lockf(file, fcntl.LOCK_UN, 1, 5)
one, two = (sqlite3.connect(PLACE + "/db", isolation_level=None) for _ in range(2))
one.execute("create table t (x)")
for number in range(200):
    (one, two)[number % 2].execute("insert into t values (?)", (number,))
one.execute("begin immediate")
two.execute("pragma busy_timeout = 0")
try:
    two.execute("insert into t values (0)")
except sqlite3.OperationalError as error:
    print(error)
two.execute("select count(*) from t").fetchone()[0]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o777)
        yield Path(made)


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor, place: Path) -> Iterator[pyisolate.Sandbox]:
    policy = pyisolate.Policy.preset("compute").allow_import("*").allow_native("*")
    with supervisor.spawn("guest", policy.allow_read(str(place)).allow_write(str(place))) as made:
        made.exec(f"PLACE = {str(place)!r}\nfile = open(PLACE + '/file', 'w')")
        yield made


def test_locks_that_are_released_may_be_taken_for_ever(sandbox: pyisolate.Sandbox) -> None:
    done = sandbox.exec(HONEST, timeout=60)
    assert (done.value, done.stdout) == (200, "database is locked\n")
    assert list(sandbox.get_denial_events()) == []


def test_a_process_has_so_many_locks_until_it_closes_the_file(sandbox: pyisolate.Sandbox) -> None:
    sandbox.exec(LOCKS)
    made, error = sandbox.exec("locks(5000)", timeout=60).value
    assert 1024 <= made <= 2048
    assert error == "ENOLCK"
    (event,) = sandbox.get_denial_events()
    assert (event.capability.value, event.code.value, event.kernel_enforcer) == (
        "limit.memory", "LIMIT_EXCEEDED", "seccomp-notify",
    )  # fmt: skip
    sandbox.exec("file.close(); file = open(PLACE + '/file', 'w')")
    results = sandbox.exec("[locks(1)[1] for _ in range(200)]").value
    assert results[-1] == ""
    assert sandbox.exec("locks(500)").value == (500, "")


def test_an_open_file_has_no_locks_of_its_own(sandbox: pyisolate.Sandbox) -> None:
    lock = "import fcntl, struct; fcntl.fcntl(file, 37, struct.pack('hhqqi4x', 1, 0, 0, 1, 0))"
    with pytest.raises(pyisolate.SandboxError, match="Invalid argument"):
        sandbox.exec(lock)
    sandbox.exec("import fcntl; fcntl.flock(file, fcntl.LOCK_EX)")
    assert [event.capability.value for event in sandbox.get_denial_events()] == ["limit.memory"]
