"""The one place where tests reach into a supervisor: for faults and states that no public name can provoke or show.

Counts and probes are public: `Supervisor.diagnostics()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyisolate
from pyisolate.cell.channel import Channel
from pyisolate.cell.pool import Pool
from pyisolate.egress.authority import Authority
from pyisolate.kernel.plan import KernelPlan
from pyisolate.limits.cgroup import CgroupTree
from pyisolate.sandbox.aio import HostThreads
from pyisolate.sandbox.cell_session import CellSession
from pyisolate.sandbox.session import Session
from pyisolate.supervisor.runtime import Runtime

#: Source of a guest that looks for the runtime's own end of its wire: the garbage collector knows who refers to what.
GUEST = "next(one.__self__ for one in __import__('gc').get_referents(post.__self__) if hasattr(one, '__self__'))"


def runtime(supervisor: pyisolate.Supervisor) -> Runtime:
    return supervisor._runtime


def plan(supervisor: pyisolate.Supervisor) -> KernelPlan:
    return supervisor._runtime.plan


def pool(supervisor: pyisolate.Supervisor) -> Pool:
    found = supervisor._runtime.started.pool
    assert found is not None
    return found


def warm_cells(supervisor: pyisolate.Supervisor) -> list[Channel]:
    """Return the cells that are not of one policy, the oldest first."""
    return list(pool(supervisor).stock.ready._cells["plain"])


def cgroups(supervisor: pyisolate.Supervisor) -> CgroupTree | None:
    return supervisor._runtime.started.cgroups


def session(sandbox: pyisolate.Sandbox | pyisolate.SandboxThread) -> Session:
    return sandbox._session


def cell(sandbox: pyisolate.Sandbox) -> CellSession:
    return sandbox._session


def function_threads(supervisor: pyisolate.Supervisor) -> HostThreads:
    return supervisor._runtime._function_threads


def authority(supervisor: pyisolate.Supervisor, sandbox: pyisolate.Sandbox) -> Authority | None:
    """Return the authority by which the egress proxy ends a sandbox's TLS."""
    return supervisor._runtime.egress._tenants[sandbox.id].authority


@contextlib.contextmanager
def workspace_directory(sandbox: pyisolate.Sandbox) -> Iterator[int]:
    """Lend a descriptor of a sandbox's workspace."""
    found = sandbox._session.workspace
    assert found is not None
    with found.directory() as descriptor:
        yield descriptor


@contextlib.contextmanager
def workspace(sandbox: pyisolate.Sandbox) -> Iterator[str]:
    """Lend the path of a sandbox's workspace, as a host would use it that trusts what is in there."""
    with workspace_directory(sandbox) as descriptor:
        yield f"/proc/self/fd/{descriptor}"
