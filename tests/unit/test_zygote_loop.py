"""The zygote's loop in C: what it leaves to Python, and a cell that it cannot make."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from pyisolate.cell.zygote_messages import Fork, ZygoteOrder
from pyisolate.native import process
from pyisolate.native.zygote_loop import Left, ZygoteLoop
from tests import zygote

#: CLONE_THREAD, which needs CLONE_SIGHAND (clone(2)).
_IMPOSSIBLE = 0x10000


@pytest.fixture
def loop_and_host() -> Iterator[tuple[ZygoteLoop, socket.socket]]:
    """Yield a loop that can fork no cell, and its supervisor's socket."""
    host, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wake, own = os.pipe2(os.O_NONBLOCK), process.pidfd_open(os.getpid())
    with host, control:
        yield zygote.loop_of(control.fileno(), wake[0], own, _IMPOSSIBLE), host
    for descriptor in (*wake, own):
        os.close(descriptor)


@pytest.mark.parametrize("count", [0, 128, 70_000])
def test_an_order_whose_number_is_longer_than_a_byte_is_left_to_python(
    loop_and_host: tuple[ZygoteLoop, socket.socket], count: int
) -> None:
    loop, host = loop_and_host
    host.sendall(msgspec.msgpack.encode(Fork(count=count, forks=True)))
    assert loop.run() is Left.OTHER
    data, descriptors = loop.order
    assert (msgspec.msgpack.decode(data, type=ZygoteOrder), descriptors) == (Fork(count=count, forks=True), [])


@pytest.mark.leaks("a process that has made inits keeps a pidfd of itself")
@pytest.mark.parametrize("forks", [False, True])
def test_a_fork_that_fails_leaves_nothing(loop_and_host: tuple[ZygoteLoop, socket.socket], forks: bool) -> None:
    loop, host = loop_and_host
    before = len(psutil.Process().children())
    host.sendall(msgspec.msgpack.encode(Fork(count=1, forks=forks)))
    assert (loop.run(), loop.forks) == (Left.FAILED, forks)
    with pytest.raises(OSError, match="fork a cell"):
        loop.check_made()
    assert len(psutil.Process().children()) == before
