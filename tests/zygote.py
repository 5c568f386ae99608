"""A zygote for tests: its loop in C forks cells as they are ordered. What a cell does then is the test's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from pyisolate.cell import zygote
from pyisolate.cell.zygote_messages import Exited, Fork, Forked, Signal
from pyisolate.native import cell_start, process, seccomp
from pyisolate.native.cell_confine import Confinement
from pyisolate.native.zygote_loop import Left, Users, ZygoteLoop

TREE = Path(__file__).resolve().parent.parent
NO_HAND_OUT = cell_start.HandOut((), (), "/", "")


def start_of(
    channel: int,
    frames: cell_start.Frames,
    hand_out: cell_start.HandOut = NO_HAND_OUT,
    refused: Sequence[seccomp.FilterRule] = (),
) -> cell_start.CellStart:
    """Return how cells start that keep this process's user, and have a filter that refuses `refused` alone.

    `channel`: an open descriptor, in the place of which each has its channel.
    """
    return cell_start.CellStart(
        Confinement(0, (os.getuid(), os.getgid()), (), (), dumpable=True),
        cell_start.ZygoteFacts(0, os.open(os.devnull, os.O_RDWR), channel),
        seccomp.compile_filter(seccomp.FilterSpec(tuple(refused), seccomp.ALLOW, seccomp.ALLOW)),
        None,
        frames,
        hand_out,
    )


def loop_of(control: int, wake: int, host: int, flags: int) -> ZygoteLoop:
    users = Users(os.getuid(), os.getgid(), (0, 0), maps=False)
    return ZygoteLoop((control, wake, host), flags, users, zygote.frames())


def serve(
    control: int, start: cell_start.CellStart, guest: Callable[[cell_start.Came], object], flags: int = 0
) -> None:
    """Be a zygote on the socket `control` until it is closed; each cell is `guest`, in namespaces (CLONE_NEW*)."""
    wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    process.wake_on(signal.SIGCHLD, wake[1])
    loop = loop_of(control, wake[0], process.pidfd_open(os.getppid()), flags)
    loop.begin((start, start))
    while (left := loop.run()) is not Left.GONE:
        if left is Left.GUEST:
            _be(guest, loop.came)
        order = msgspec.msgpack.decode(loop.order[0], type=Signal)
        loop.signal(order.pid, order.number)
    loop.end_cells()


def _be(guest: Callable[[cell_start.Came], object], came: cell_start.Came) -> None:
    try:
        guest(came)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(70)
    os._exit(0)


class Cell:
    """The host's ends of one: its channel, what it says on stdout and stderr."""

    def __init__(self, forked: Forked, descriptors: Sequence[int]) -> None:
        channel, self.out, self.err, *self._others = descriptors
        self.guest, self.init, self.channel = forked.pid, forked.init, socket.socket(fileno=channel)

    def close(self) -> None:
        self.channel.close()
        for descriptor in (self.out, self.err, *self._others):
            os.close(descriptor)


class Zygote:
    """One in a process of its own, which runs `module` with the number of its control socket, and calls `serve`."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(60)
        command = [sys.executable, "-m", module, str(other.fileno()), *arguments]
        with other:
            self.process = subprocess.Popen(command, cwd=TREE, pass_fds=[other.fileno()])

    def fork(self) -> Cell:
        self.order(Fork(count=1))
        data, descriptors, _flags, _address = socket.recv_fds(self._control, 1 << 16, 8)
        forked = _decoded(data)
        assert isinstance(forked, Forked), forked
        return Cell(forked, descriptors)

    def order(self, order: zygote.ZygoteOrder) -> None:
        self._control.sendall(msgspec.msgpack.encode(order))

    def exited(self) -> Exited:
        exited = _decoded(self._control.recv(1 << 16))
        assert isinstance(exited, Exited), exited
        return exited

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._control.close()
        assert self.process.wait(60) == 0


def _decoded(data: bytes) -> zygote.ZygoteMessage:
    return msgspec.msgpack.decode(data, type=zygote.ZygoteMessage)
