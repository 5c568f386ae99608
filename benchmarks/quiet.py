"""Bringing a supervisor to rest, so that refilling its pool does not run into what is measured."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator

import pyisolate

#: A pool that has not filled by then is broken (seconds).
_FILL_TIMEOUT_S = 60.0


def wait_full(supervisor: pyisolate.Supervisor, size: int) -> None:
    """Wait until the pool holds `size` warm cells and the cells that ended are reaped."""
    deadline = time.monotonic() + _FILL_TIMEOUT_S
    while (pool := supervisor.diagnostics().pools.get("own_network")) and (pool.warm, pool.starting) != (size, 0):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"fill the pool: {pool.warm} and {pool.starting} of {size} cells after {_FILL_TIMEOUT_S:.0f} s"
            )
        time.sleep(0.001)
    time.sleep(0.005)  # a cell that was closed is still being taken apart by the kernel


@contextlib.contextmanager
def many(
    supervisor: pyisolate.Supervisor, count: int, policy: pyisolate.Policy | str
) -> Iterator[list[pyisolate.Sandbox]]:
    """Yield `count` idle sandboxes."""
    raise_descriptor_limit()
    sandboxes = []
    try:
        for index in range(count):
            sandboxes.append(supervisor.spawn(f"idle-{index}", policy))
        yield sandboxes
    finally:
        for sandbox in sandboxes:
            sandbox.close()


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as this process may have: a sandbox takes about six."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_for(sandboxes: int) -> str:
    """Return why this process cannot hold that many sandboxes, or nothing."""
    raise_descriptor_limit()
    allowed, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], 12 * sandboxes + 64
    return (
        ""
        if allowed >= needed
        else f"{sandboxes} sandboxes need about {needed} descriptors, and the limit is {allowed}"
    )


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and of the children it has reaped (seconds; proc(5), fields 14 to 17)."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
