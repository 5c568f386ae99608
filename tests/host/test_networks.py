"""The empty network namespace of a cell: its own while it lives, and another's after it has left nothing there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.kernel import namespaces
from pyisolate.native import cell_start, networks, process
from tests import zygote

pytestmark = pytest.mark.once

NUMBER = 40  # of a cell's channel


def be_zygote(control: int) -> None:
    """Be a zygote whose cells live until their channel is closed, and may leave a socket of their namespace behind."""
    uid, gid = (65529, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    if os.geteuid() == 0:
        process.become(uid, gid)
    networks.begin(networks.Cells(namespaces.ALL, uid, gid, (0, 0), maps=False), uid)
    os.dup2(control, NUMBER)
    start = zygote.start_of(NUMBER, cell_start.Frames(b"report", b"", b""))

    def be_cell(_came: cell_start.Came) -> None:
        channel = socket.socket(fileno=NUMBER)
        if channel.recv(1) == b"l":
            left = socket.socket(socket.AF_UNIX)
            left.bind("\0left")
            socket.send_fds(channel, [b"x"], [left.fileno()])
            channel.recv(1)

    zygote.serve(control, start, be_cell, namespaces.ALL)


def network_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def end(own: zygote.Zygote, cell: zygote.Cell) -> None:
    cell.close()
    assert own.exited().pid == cell.guest


@pytest.fixture
def own() -> Iterator[zygote.Zygote]:
    with zygote.Zygote("tests.host.test_networks") as made:
        end(made, made.fork())
        if os.readlink(f"/proc/{made.process.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            pytest.skip("this system lets a zygote have no user namespace of its own")
        yield made


def test_a_namespace_is_one_cells_at_a_time(own: zygote.Zygote) -> None:
    living = [own.fork() for _ in range(30)]
    at = [network_of(cell.guest) for cell in living]
    assert len({*at, network_of(own.process.pid), network_of(os.getpid())}) == 32
    assert held(own.process.pid) <= 26, "its own, those of the youngest cells, and one that is being made"
    end(own, living[-1])
    following = [own.fork(), own.fork()]  # an init had been made ahead
    assert at[-1] in [network_of(cell.guest) for cell in following], "an ended cell's is used again"
    for cell in (*living[:-1], *following):
        cell.close()
    assert {own.exited().pid for _ in range(31)} == {cell.guest for cell in (*living[:-1], *following)}
    assert held(own.process.pid) <= 11, "its own, eight that wait, two of inits"


def held(pid: int) -> int:
    """Count the network namespaces that a zygote has descriptors of."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("net:")
    return count


@pytest.mark.parametrize("leaves", [True, False])
def test_a_namespace_with_a_socket_left_is_nobodys_again(own: zygote.Zygote, leaves: bool) -> None:
    cell = own.fork()
    assert cell.channel.recv(64) == b"report"
    at = network_of(cell.guest)
    cell.channel.send(b"l")
    _, sockets, _, _ = socket.recv_fds(cell.channel, 1, 1)
    if not leaves:
        os.close(sockets[0])
    end(own, cell)
    following = [own.fork(), own.fork()]
    assert (at in [network_of(cell.guest) for cell in following]) == (not leaves)
    for cell in following:
        end(own, cell)
    if leaves:
        os.close(sockets[0])


NAME = """
import ctypes
libc = ctypes.CDLL(None)
address = b"\\x01\\0\\0of-a-sandbox"
own = libc.socket(1, 1, 0)
assert libc.bind(own, address, len(address)) == 0
assert libc.listen(own, 1) == 0
"""
LOOK = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
address = b"\\x01\\0\\0of-a-sandbox"
reached = libc.connect(libc.socket(1, 1, 0), address, len(address))
reached, ctypes.get_errno()
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=0) as own:
        yield own


def _moved(supervisor: pyisolate.Supervisor) -> int | None:
    """Return the zygote, where this system lets it be in a user namespace of its own."""
    zygote = supervisor.diagnostics().pools["own_network"].zygote_pid
    return None if os.readlink(f"/proc/{zygote}/ns/user") == os.readlink("/proc/self/ns/user") else zygote


def test_an_earlier_sandboxs_name_is_gone_and_a_living_ones_is_elsewhere(supervisor: pyisolate.Supervisor) -> None:
    policy = Policy.preset("compute").allow_import("ctypes").allow_native("ctypes")
    seen: list[int] = []  # until one is used again
    with supervisor.spawn("living", policy) as living:
        living.exec(NAME)
        while len(seen) < 24 and len(set(seen)) == len(seen):
            with supervisor.spawn("one", policy) as sandbox:
                seen.append(os.stat(f"/proc/{sandbox.pid}/ns/net").st_ino)
                assert sandbox.exec(LOOK).value == (-1, errno.ECONNREFUSED), "no such name"
                sandbox.exec(NAME)
                assert sandbox.exec(LOOK).value[0] == 0, "the control: its own is found"
        assert os.stat(f"/proc/{living.pid}/ns/net").st_ino not in seen
    if _moved(supervisor) is not None:
        assert len(set(seen)) < len(seen), "a namespace is used again"


def test_the_zygote_has_no_capability_outside_of_its_own_user_namespace(supervisor: pyisolate.Supervisor) -> None:
    supervisor.spawn("one").close()
    if (zygote := _moved(supervisor)) is None:
        pytest.skip("this system lets the zygote have no user namespace of its own")
    with open(f"/proc/{zygote}/status") as file:
        status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    with open(f"/proc/{zygote}/uid_map") as file:
        mapped = [int(line.split()[1]) for line in file]
    wanted = [process.CAP_SYS_ADMIN]
    if os.geteuid() == 0:
        wanted += [process.CAP_SETUID, process.CAP_SETGID]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == sum(1 << one for one in wanted)
    assert 0 not in mapped


if __name__ == "__main__":
    be_zygote(int(sys.argv[1]))
