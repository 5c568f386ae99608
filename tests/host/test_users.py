"""Whom zygote and cells are outside: as root, counts that the kernel keeps by user are not shared with the zygote."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.supervisor.cell_users import UNUSED_UIDS

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one uid"), pytest.mark.alone]

#: Puts as many descriptors in flight as it may, more than the zygote's limit; they stay there.
IN_FLIGHT = """
import array, resource, socket
one, two = socket.socketpair()
kept, sent = [], 0
try:
    for _ in range(12):
        ends = socket.socketpair()
        kept.append(ends)
        for _ in range(12):
            ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()] * 16))])
            sent += 16
except OSError as error:
    sent = (sent, error.errno)
sent
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as own:
        yield own


def _uids(pid: int) -> set[int]:
    return set(psutil.Process(pid).uids())


def test_the_zygote_is_a_user_that_nothing_else_is(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("guest") as sandbox:
        (zygote,) = _uids(psutil.Process(sandbox.init_pid).ppid())
        assert zygote in UNUSED_UIDS
        with pytest.raises(KeyError):
            pwd.getpwuid(zygote)
        assert _uids(sandbox.init_pid) == {zygote}
        assert _uids(sandbox.pid) == {65534}
        assert sandbox.eval("__import__('os').getresuid()") == (65534,) * 3
        status = Path(f"/proc/{sandbox.pid}/status").read_text()
        for line in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            assert f"{line}:\t0000000000000000" in status


def test_a_sandbox_reads_and_writes_what_its_user_may(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    theirs.chmod(0o700)
    policy = Policy.preset("compute").allow_read(str(theirs)).allow_write(str(theirs))
    for turn in range(2):
        with supervisor.spawn("writer", policy) as sandbox:
            sandbox.exec(f"open({str(theirs / 'file')!r}, 'a').write('x')")
        assert (theirs / "file").read_text() == "x" * (turn + 1)
    assert (theirs / "file").stat().st_uid == 65534


def test_descriptors_in_flight_of_one_do_not_keep_the_zygote_from_forking() -> None:
    code = """
import resource, pyisolate
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with pyisolate.Supervisor(pool_size=1) as supervisor:
    policy = pyisolate.Policy.preset("compute").allow_import("array", "socket").allow_native("array")
    policy = policy.with_limits(open_files=1500)
    bad = supervisor.spawn("bad", policy)
    print(bad.exec({guest!r}).value)
    for n in range(3):
        print(supervisor.spawn(f"other{{n}}").eval("1 + 1"))
"""

    command = [sys.executable, "-c", code.format(guest=IN_FLIGHT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[1:] == ["2", "2", "2"], done.stdout + done.stderr


def test_each_cell_is_a_user_of_the_range_and_gives_it_back() -> None:
    uids = range(600_000, 600_004)
    with pyisolate.Supervisor(pool_size=1, cell_uids=uids) as supervisor:
        with supervisor.spawn("one") as one, supervisor.spawn("two") as two:
            seen = _uids(one.pid) | _uids(two.pid)
            assert len(seen) == 2
            assert seen <= set(uids)
            assert one.eval("__import__('os').getuid()") == two.eval("__import__('os').getuid()") == 65534
            assert one.enforcement.missing == ()
        for _ in range(8):  # more than there are users
            with supervisor.spawn("again") as sandbox:
                assert sandbox.eval("1") == 1


def test_a_range_that_is_used_up_is_named() -> None:
    with pyisolate.Supervisor(pool_size=0, cell_uids=range(600_000, 600_001)) as supervisor, supervisor.spawn("one"):
        error = None
        try:
            supervisor.spawn("two")
        except pyisolate.SandboxError as caught:
            error = str(caught)
    assert error is not None
    assert "cell_uids" in error


@pytest.mark.parametrize("uids", [range(0, 10), range(10, 10), range(100, 200, 2)])
def test_a_range_that_cannot_be_used_is_refused(uids: range) -> None:
    with pytest.raises(ValueError, match="cell_uids"):
        pyisolate.Supervisor(cell_uids=uids)
