"""The proxy's process: it gives up what it does not need, then serves until its supervisor is gone."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - with the next: what a lookup imports, before files are out of reach
import contextlib
import encodings.idna  # noqa: F401
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from ..native import landlock, process
from . import authority, calls, messages
from .connection import Services, serve
from .door import Door
from .messages import Admit, Answered, Applied, Dismiss, Report, Serving, Start
from .names import Names
from .peers import Peers
from .tenants import Tenants
from .waiting import Waiting, run

#: Descriptors that it may have: two for each connection it carries.
_MOST_FILES = 16384
#: Bytes of a file that it may write: a certificate, in memory (`authority`). Landlock lets it write no other.
_MOST_WRITTEN = 64 << 10
#: How often the supervisor hears of what was carried (seconds).
_COUNT_S = 0.5


def main(control_fd: int, listener_fd: int, led_fd: int) -> int:
    """Run the proxy on its control socket and its listening socket; returns the exit status.

    `led_fd` is of the table that says whose connections are (`peers`).
    """
    process.reset_signals()
    process.set_name("pyisolate-egress")
    control, listener = socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd)
    start = messages.decode_order(_read(control))
    if not isinstance(start, Start):
        return 2
    host = process.pidfd_open(start.host_pid)
    authority.load()
    confined = _confine(start)
    control.sendall(messages.encode(Serving(confined=tuple(confined))))
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        waiting = Waiting()
        run(_serve(control, listener, Peers(listener, led_fd), start, host, waiting), waiting)
    return 0


def _read(control: socket.socket) -> bytes:
    (length,) = messages.LENGTH.unpack(control.recv(messages.LENGTH.size, socket.MSG_WAITALL))
    return control.recv(length, socket.MSG_WAITALL)


def _confine(start: Start) -> list[str]:
    """Give up root, capabilities, files and programs for good; return what was applied. Raises OSError."""
    if start.uid is not None:
        process.become(start.uid, start.gid)
    process.set_no_new_privs()
    process.drop_all_capabilities()
    process.set_dumpable(False)
    bounds = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: _MOST_WRITTEN, resource.RLIMIT_NOFILE: _MOST_FILES}
    for limit, most in bounds.items():
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    applied = ["no_new_privs", "capabilities", "resource limits"]
    if os.getppid() != start.host_pid:
        raise OSError("the supervisor is gone")
    try:
        abi = landlock.abi_version()
    except OSError:
        abi = 0
    if abi:
        _restrict_files(start.readable, abi)
        applied.append("landlock")
    calls.restrict()
    return [*applied, "seccomp"]


def _restrict_files(readable: tuple[str, ...], abi: int) -> None:
    """Let it read what a lookup of names needs, and nothing be written, run or signalled."""
    handled = landlock.handled_for(abi)
    ruleset = landlock.create_ruleset(landlock.Handled(handled.fs, landlock.AccessNet(0), handled.scoped))
    reading = landlock.AccessFs.READ_FILE | landlock.AccessFs.READ_DIR
    try:
        for path in readable:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                landlock.add_path_rule(ruleset, reading, place, path)
            finally:
                os.close(place)
        landlock.restrict_self(ruleset)
    finally:
        os.close(ruleset)


async def _serve(
    control: socket.socket, listener: socket.socket, peers: Peers, start: Start, host: int, waiting: Waiting
) -> None:
    orders, reports = await asyncio.open_connection(sock=control, limit=1 << 20)
    guard = asyncio.Lock()

    async def report(one: Report) -> None:
        async with guard:
            reports.write(messages.encode(one))
            await reports.drain()

    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(host, ended.set)
    tenants = Tenants(report, peers)
    for one in start.admitted:
        tenants.admit(one)
    services = Services(tenants, Names(start.hosts), start.authorities, waiting)
    door = Door(listener, tenants, partial(serve, services))
    coroutines = (_follow(orders, tenants, report), _keep_counting(tenants, report), ended.wait())
    running = [asyncio.ensure_future(one) for one in coroutines]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        door.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)  # the supervisor has closed its end, or is gone
        services.carrier.close()


async def _follow(orders: asyncio.StreamReader, tenants: Tenants, report: Callable[[Report], Awaitable[None]]) -> None:
    while True:
        (length,) = messages.LENGTH.unpack(await orders.readexactly(messages.LENGTH.size))
        order = messages.decode_order(await orders.readexactly(length))
        if isinstance(order, Admit):
            tenants.admit(order)
            await report(Applied(number=order.number))
        elif isinstance(order, Answered):
            tenants.take_answer(order)
        elif isinstance(order, Dismiss):
            await _count(tenants, report)
            tenants.dismiss(order.key)


async def _count(tenants: Tenants, report: Callable[[Report], Awaitable[None]]) -> None:
    for counted in list(tenants.counts()):
        await report(counted)


async def _keep_counting(tenants: Tenants, report: Callable[[Report], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_COUNT_S)
        await _count(tenants, report)
