"""Start a supervisor: prove the enforcers, find control groups, start zygotes, pools and the threads that serve them.

One ExitStack holds what was started. It unwinds a start that failed half way, and a supervisor that is closed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..cell.pool import Pool
from ..cell.reactor import Reactor
from ..cell.zygote_process import BegunZygote, PoolSettings, ZygoteError
from ..choices import Network
from ..errors import EnforcementError, SandboxError
from ..kernel import namespaces
from ..limits.cgroup import CgroupTree
from ..limits.turns import Turns
from ..native import process
from ..native.result import advice, is_shortage
from ..policy.interpreter import InterpreterFiles
from .assign import Assigner, Records
from .cell_python import CellPython
from .closer import Closer
from .options import zygote_environment
from .reload import Reloader
from .standby import Standby
from .standby_threads import StandbyThreads

if TYPE_CHECKING:
    from ..cell.channel import Channel
    from ..cell.zygote_messages import Exited
    from ..kernel.plan import KernelPlan
    from ..kernel.prepared import CellTraits
    from ..limits.watchdog import Watchdog
    from ..native.threads import Starter
    from ..policy.compiled import CompiledPolicy
    from ..policy.secrets import Injection
    from ..sandbox.host import Host
    from ..sandbox.host_executor import HostSide
    from ..telemetry.metrics import Metrics, SnapshotSource
    from .policy_cache import PreparedPolicies
    from .registry import Registry


class StartOptions(msgspec.Struct, frozen=True):
    """What a supervisor is to start with."""

    pool_size: int
    preload: tuple[str, ...]
    network: Network
    #: names whose addresses the egress proxy does not look up
    egress_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: the certificate authorities (PEM) that the egress proxy trusts in place of this machine's
    egress_ca: str | None = None
    #: the interpreter of cells; None: this process's own
    python: CellPython | None = None


class CellEvents(Protocol):
    """What happens to cells, as the supervisor handles it."""

    def prepare_cell(self, channel: Channel) -> None:
        """A cell is warm."""

    def move_cell(self, channel: Channel) -> None:
        """A cell is prepared, and needs its control group. May take milliseconds."""

    def cell_served(self, channel: Channel) -> None:
        """The reactor gave a channel its turn."""

    def cell_exited(self, channel: Channel, message: Exited | None) -> None:
        """A cell is reaped."""


class Parts(msgspec.Struct):
    """What outlives a start that failed: made once per supervisor."""

    host: Host
    events: CellEvents
    snapshots: SnapshotSource
    traits: CellTraits
    plan: KernelPlan
    tables: PreparedPolicies
    registry: Registry
    watchdog: Watchdog
    records: Records
    metrics: Metrics
    #: takes a sandbox's id, its new tables and secrets
    change_egress: Callable[[str, CompiledPolicy, tuple[Injection, ...]], None]
    #: the thread that does the host's work for sandbox threads
    host_side: HostSide
    #: starts threads that nothing of a caller confines
    starter: Starter


@dataclass
class Started:
    """What a running supervisor works with. `native_pool`: cells on the host's network, where programs judge it."""

    reactor: Reactor
    cgroups: CgroupTree | None = None
    pool: Pool | None = None
    native_pool: Pool | None = None
    #: by the pool they come from: whether its cells are on the host's network
    standby: dict[bool, Standby] = field(default_factory=dict)
    threads: StandbyThreads | None = None
    assigner: Assigner | None = None
    reloader: Reloader | None = None
    closer: Closer = field(default_factory=Closer)
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def pools(self) -> tuple[Pool, ...]:
        """Return the pools, that of ordinary cells first."""
        return tuple(pool for pool in (self.pool, self.native_pool) if pool is not None)

    def close(self) -> None:
        """Give back all that was started, the last first. Idempotent."""
        self.stack.close()
        self.standby = {}

    def abandon(self) -> None:
        """In a forked child of the host: close the copies of descriptors; all else is the parent's."""
        self.stack.pop_all()  # and never closed: what it holds is the parent's
        for pool in self.pools():
            pool.abandon()
        for standby in self.standby.values():
            standby.abandon()
        if self.threads is not None:
            self.threads.abandon()
        self.closer.abandon()
        self.reactor.abandon()
        if self.cgroups is not None:
            self.cgroups.abandon()  # its locks say that this supervisor lives: they are the parent's alone


def start(parts: Parts, options: StartOptions, on_made: Callable[[Started], None]) -> Started:
    """Start everything, or nothing: what was started when a step raises is given back.

    `on_made` gets the result before the first cell can be served.
    """
    process.open_standard_descriptors()  # a daemon may have closed them, and still print there: before any of ours
    with contextlib.ExitStack() as stack:
        _check_unpatched()
        _check_main_interpreter()
        _check_proc()
        _check_uid(parts.traits)
        _check_capabilities(parts.traits)
        cgroups, reason, programs_judge, begun = _prove(parts, stack, options)
        stack.callback(parts.registry.release_leases)
        reactor = Reactor()
        stack.callback(reactor.stop)
        started = Started(reactor, cgroups)
        started.closer.start()
        stack.callback(started.closer.stop)
        started.assigner = Assigner(
            parts.host,
            parts.plan,
            reactor,
            parts.registry,
            parts.watchdog,
            parts.records,
            reason,
            started.closer,
            has_cgroups=cgroups is not None,
        )
        started.reloader = Reloader(parts.plan, parts.tables, reactor, parts.metrics, parts.change_egress)
        started.threads = StandbyThreads(
            parts.host, parts.registry, parts.tables, parts.watchdog, parts.records, parts.host_side
        )
        stack.callback(started.threads.close)
        on_made(started)
        _start_pools(parts, _pool_settings(parts, options), started, stack, begun, programs_judge=programs_judge)
        if cgroups is not None and cgroups.weights.give_way:
            parts.watchdog.accompany(Turns(cgroups.weights.spent_s, cgroups.turns).look)
        parts.watchdog.start()
        stack.callback(parts.watchdog.stop)
        stack.callback(parts.metrics.remove_supervisor, parts.snapshots)
        parts.metrics.add_supervisor(parts.snapshots)
        started.stack = stack.pop_all()
    return started


#: Modules whose waits gevent turns into switches, and its names for them.
_WAITING = ("threading", "socket", "select", "time", "queue", "subprocess", "os")
_ARGUMENTS = {"threading": "thread"}


def _check_unpatched() -> None:
    """Raise SandboxError where gevent has replaced what waits: a greenlet that holds a lock here would be left for
    another one, which then waits for that lock and with it stops the event loop for good.
    """
    monkey = sys.modules.get("gevent.monkey")
    patched = [] if monkey is None else [name for name in _WAITING if monkey.is_module_patched(name)]
    if patched:
        raise SandboxError(
            f"start supervisor: gevent has patched {', '.join(patched)} in this process",
            hint="spawn in a process of its own (subprocess), or patch none of these: "
            f"monkey.patch_all({', '.join(f'{_ARGUMENTS.get(name, name)}=False' for name in _WAITING)})",
        )


def _check_main_interpreter() -> None:
    """Raise SandboxError in a sub-interpreter: a child that is forked there ends at once, also each probe's."""
    try:
        interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    except ImportError:  # built without: there is but one
        return
    if interpreters.get_current() != interpreters.get_main():
        raise SandboxError(
            "start supervisor: this is a sub-interpreter, and only the main interpreter of a process may fork",
            hint="spawn in the main interpreter (mod_wsgi: WSGIApplicationGroup %{GLOBAL}), or in a process of its own",
        )


def _check_proc() -> None:
    """Raise EnforcementError where /proc shows another pid namespace: by its numbers others would be looked at."""
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return
    raise EnforcementError(
        "start supervisor: /proc is not there, or shows the processes of another pid namespace",
        hint="mount the one of this namespace: unshare --mount-proc, or mount -t proc proc /proc",
    )


def _check_uid(traits: CellTraits) -> None:
    if traits.started_by_root and not namespaces.maps_uid(traits.uid):
        raise SandboxError(
            f"start supervisor: uid {traits.uid}, which cells run as, is not mapped in this user namespace",
            hint="map a range of uids (rootless containers do), pass cell_uid=, or run as an ordinary user",
        )


def _check_capabilities(traits: CellTraits) -> None:
    """Raise EnforcementError where root may not become another user: a container that drops capabilities, mostly."""
    if not traits.started_by_root:
        return
    held = process.effective_capabilities()
    needed = {"CAP_SETUID": process.CAP_SETUID, "CAP_SETGID": process.CAP_SETGID}
    if lacking := [name for name, number in needed.items() if not held >> number & 1]:
        raise EnforcementError(
            f"start supervisor: root without {' and '.join(lacking)} cannot give cells a user of their own",
            hint="run as an ordinary user, who needs no capability (docker run --user 1000), or add those that root "
            "needs: docker run --cap-add SETUID --cap-add SETGID --cap-add SYS_ADMIN --cap-add SYS_CHROOT",
        )


def _prove(
    parts: Parts, stack: contextlib.ExitStack, options: StartOptions
) -> tuple[CgroupTree | None, str, bool, BegunZygote]:
    """Prove the enforcers and open the tree of control groups, while a zygote imports.

    Returns the tree, why there is none, whether programs may judge the network, and that zygote.
    """
    plan, trees = parts.plan, contextlib.ExitStack()
    stack.enter_context(trees)  # groups are given back after what uses them
    stack.callback(plan.close)
    plan.start_programs()  # whether they decide is all that what is loaded into the zygote depends on
    try:
        begun = BegunZygote(_pool_settings(parts, options))
    except OSError as error:
        raise ZygoteError(f"start zygote: {error.strerror}", hint=advice(error.errno)) from error
    stack.callback(begun.stop)
    plan.start()
    stack.callback(parts.tables.close)
    parts.tables.interpreter = InterpreterFiles.discover() if options.python is None else options.python.files
    cgroups, found = CgroupTree.open()
    if cgroups is not None:
        trees.callback(cgroups.close)
    plan.availability[found.enforcer] = found
    programs_judge = options.network == "auto" and plan.offer_network(cgroups, parts.starter.run)
    for one in plan.availability.values():
        # A probe that met a shortage has proven nothing; what it found must not be kept.
        if not one.usable and is_shortage(one.errno):
            raise OSError(one.errno, f"probe {one.enforcer}: {one.reason}")
    return cgroups, found.reason, programs_judge, begun


def _pool_settings(parts: Parts, options: StartOptions) -> PoolSettings:
    settings = PoolSettings(
        size=options.pool_size,
        preload=options.preload,
        spec=parts.plan.cell_spec(),
        drop_privileges=parts.traits.started_by_root,
        environment=zygote_environment(),
    )
    if (python := options.python) is not None:
        settings = msgspec.structs.replace(settings, python=python.files.executable, libraries=python.libraries)
    return settings


def _start_pools(
    parts: Parts,
    settings: PoolSettings,
    started: Started,
    stack: contextlib.ExitStack,
    begun: BegunZygote,
    *,
    programs_judge: bool,
) -> None:
    plan, reactor, events = parts.plan, started.reactor, parts.events
    pool = started.pool = Pool(settings, reactor, events.prepare_cell, events.move_cell, events.cell_exited)
    stack.callback(pool.close)
    if programs_judge:
        # Its zygote starts with the first sandbox that connects somewhere, and holds what keeps the programs attached.
        def complete(given: PoolSettings) -> PoolSettings:
            return msgspec.structs.replace(given, spec=plan.native_spec(), held=plan.bpf.link_descriptors)

        others = msgspec.structs.replace(settings, complete=complete)
        started.native_pool = Pool(others, reactor, events.prepare_cell, events.move_cell, events.cell_exited)
        stack.callback(started.native_pool.close)
    assert started.assigner is not None
    for native, one in enumerate(started.pools()):
        standby = Standby(started.assigner, parts.tables, one, native=bool(native))
        started.standby[bool(native)] = standby
        one.on_ready = standby.refill_if_needed
        stack.callback(standby.close)
    reactor.start(events.cell_served)
    pool.start(begun)
    for standby in started.standby.values():
        standby.start()
