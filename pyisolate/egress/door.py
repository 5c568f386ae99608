"""Where connections are taken: whose each is, the kernel says, before a byte of it is read.

What that takes is charged to its sandbox. One that is no sandbox's is closed at once: other users of the machine reach
the loopback interface too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, Protocol

from .streams import Inlet, take
from .tenants import Tenant, Tenants, too_many

#: Connections that are taken in one pass of the loop.
_MOST_AT_ONCE = 64
#: What a sandbox may have open beside those that are served: each is answered 429. What comes then is closed at once.
_MOST_ANSWERED = 32
#: Where the process has no descriptor left, until it looks again (seconds).
_PAUSE_S = 0.2
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Serve(Protocol):
    """Serves a connection of `tenant`, None where the kernel does not tell; `over`: refuses it as one too many."""

    def __call__(
        self, inlet: Inlet, writer: asyncio.StreamWriter, tenant: Tenant | None, /, *, over: bool
    ) -> Awaitable[None]:
        """Return once it has ended."""
        ...


class Door:
    """Takes what comes to a listening socket, from now on, and has each connection served."""

    def __init__(self, listener: socket.socket, tenants: Tenants, serve: Serve) -> None:
        self._listener, self._tenants, self._serve = listener, tenants, serve
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._take_all)

    def close(self) -> None:
        """Take none any more."""
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _take_all(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            began = time.thread_time()
            try:
                accepted, address = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(self._listener)
                    self._loop.call_later(_PAUSE_S, self._again)
                return
            tenant = self._tenants.of_address(address)
            self._take(accepted, tenant)
            work = self._tenants.strangers_work if tenant is None else tenant.meter.work
            work.add(time.thread_time() - began)

    def _again(self) -> None:
        with contextlib.suppress(ValueError):  # it was closed since
            self._loop.add_reader(self._listener, self._take_all)

    def _take(self, accepted: socket.socket, tenant: Tenant | None) -> None:
        if tenant is None and not self._tenants.takes_strangers:
            accepted.close()
            return
        if tenant is not None and tenant.open >= tenant.most_connections + _MOST_ANSWERED:
            accepted.close()
            self._turn_away(tenant)
            return
        accepted.setblocking(False)
        over = tenant is not None and tenant.open >= tenant.most_connections
        if tenant is not None:
            tenant.open += 1
        self._keep(self._served(accepted, tenant, over=over))

    async def _served(self, accepted: socket.socket, tenant: Tenant | None, *, over: bool) -> None:
        async def serve(inlet: Inlet, writer: asyncio.StreamWriter) -> None:
            try:
                await self._serve(inlet, writer, tenant, over=over)
            finally:
                if tenant is not None:
                    tenant.open -= 1

        try:
            await take(accepted, serve)
        except OSError:  # it has not come to be served
            accepted.close()
            if tenant is not None:
                tenant.open -= 1

    def _turn_away(self, tenant: Tenant) -> None:
        """Have it reported that connections were closed: in one report, those that come until it is made."""
        tenant.turned_away += 1
        if tenant.turned_away == 1:
            self._keep(self._report(tenant))

    async def _report(self, tenant: Tenant) -> None:
        with contextlib.suppress(ConnectionError):  # the supervisor has gone
            await self._tenants.report(tenant, too_many(tenant.most_connections), count=partial(_counted, tenant))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _counted(tenant: Tenant) -> int:
    count, tenant.turned_away = tenant.turned_away, 0
    return count
