"""Five hundred sandboxes at once, from threads and from asyncio: all answer, all are refused, none is left."""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import pyisolate
from tests.require import require

AT_ONCE = 500
#: A sandbox's share of descriptors: socket, two pipes, pidfd, epoll, listener, and what is on its way.
DESCRIPTORS_EACH = 10
#: What one sandbox may take in the host process, and of the machine (bytes). Measured: 45 KiB, and 3 to 4 MiB with page
#: tables, namespaces and control groups, on a machine that did other work too.
HOST_BYTES_EACH = 256 << 10
MACHINE_BYTES_EACH = 8 << 20
GUEST = "try: open('/etc/shadow')\nexcept PermissionError: pass\n{n} * 2"


@pytest.fixture
def crowd() -> Iterator[pyisolate.Supervisor]:
    """A supervisor, with room for all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = AT_ONCE * DESCRIPTORS_EACH
    require(
        "descriptors", hard == resource.RLIM_INFINITY or hard >= needed, f"{needed} open files; the limit is {hard}"
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        with pyisolate.Supervisor(pool_size=8) as supervisor:
            yield supervisor
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Memory:
    """How much more the host process and the machine use than at the start, at worst."""

    def __init__(self) -> None:
        gc.collect()
        self._process = psutil.Process()
        self._rss, self._available = self._now()

    def _now(self) -> tuple[int, int]:
        return self._process.memory_info().rss, psutil.virtual_memory().available

    def check(self) -> str:
        rss, available = self._now()
        host, machine = (rss - self._rss) / AT_ONCE, (self._available - available) / AT_ONCE
        assert host < HOST_BYTES_EACH, f"{host / 1024:.0f} KiB of the host for each sandbox"
        # other programs use the same machine: only what is beyond doubt is judged
        assert machine < MACHINE_BYTES_EACH, f"{machine / 1024:.0f} KiB of the machine for each sandbox"
        return f"{AT_ONCE} at once: host {host / 1024:.0f} KiB, machine {machine / 1024:.0f} KiB each"


def each_was_refused_once(sandboxes: list[Any]) -> None:
    for sandbox in sandboxes:
        (event,) = sandbox.get_denial_events()
        assert (event.target, event.count, event.sandbox_id) == ("/etc/shadow", 1, sandbox.id)


def test_five_hundred_at_once_from_threads(crowd: pyisolate.Supervisor) -> None:
    memory = Memory()
    together, told = threading.Barrier(AT_ONCE + 1), threading.Barrier(AT_ONCE + 1)
    values: dict[int, int] = {}
    errors: list[BaseException] = []

    def live(number: int) -> None:
        try:
            with crowd.spawn(f"t{number}") as sandbox:
                together.wait(100)
                values[number] = sandbox.exec(GUEST.format(n=number), timeout=60).value
                told.wait(100)
        except BaseException as error:
            errors.append(error)
            together.abort()
            told.abort()

    threads = [threading.Thread(target=live, args=(number,)) for number in range(AT_ONCE)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        together.wait(100)
        sandboxes = crowd.sandboxes
        told.wait(100)
    except threading.BrokenBarrierError:
        pass
    for thread in threads:
        thread.join(100)
    assert not errors, errors[:3]
    print(memory.check(), f"in {time.monotonic() - started:.1f} s")
    assert len(sandboxes) == AT_ONCE
    assert values == {number: number * 2 for number in range(AT_ONCE)}
    each_was_refused_once(sandboxes)
    assert crowd.sandboxes == []


def test_five_hundred_at_once_from_asyncio(crowd: pyisolate.Supervisor) -> None:
    memory = Memory()

    async def main() -> None:
        sandboxes = await asyncio.gather(*(crowd.aspawn(f"a{number}") for number in range(AT_ONCE)))
        assert len(crowd.sandboxes) == AT_ONCE
        results = await asyncio.gather(
            *(one.aexec(GUEST.format(n=number), timeout=60) for number, one in enumerate(sandboxes))
        )
        assert [result.value for result in results] == [number * 2 for number in range(AT_ONCE)]
        print(memory.check())
        each_was_refused_once(sandboxes)
        await asyncio.gather(*(one.aclose() for one in sandboxes))

    asyncio.run(main())
    assert crowd.sandboxes == []
