"""Sandbox threads: made when `spawn` asks for one, or ahead, for policies that are asked for again and again.

The kernel takes longer to load a filter than all else that makes a sandbox thread. Once a policy was asked for twice in
the last spawns, a thread here starts others and confines them (Landlock, seccomp, hooks, listener), and `spawn` only
gives one its name. Such a standby thread has run no guest code, belongs to one policy, and is given to one sandbox.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ..choices import Enforcement
from ..native import mount, process
from ..native.threads import Thread
from ..records import SandboxContext
from .assign import Records, standby_context
from .frequent import Frequent, Key

if TYPE_CHECKING:
    from ..kernel.prepared import Prepared
    from ..limits.watchdog import Watchdog
    from ..policy import Policy
    from ..sandbox.host import Host
    from ..sandbox.host_executor import HostSide
    from ..sandbox.thread import SandboxThread, ThreadSession
    from .policy_cache import PreparedPolicies
    from .registry import Registry

_log = logging.getLogger("pyisolate.supervisor.standby_threads")
#: Standby threads of the usual policy; others have one. And for how many policies at most.
_MOST, _POLICIES = 4, 8
#: A thread that is being confined at the end of its supervisor is waited for so long (seconds).
_CLOSE_TIMEOUT_S = 10.0
_STATUS_LINES = (b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp")


class ThreadOrder(msgspec.Struct, frozen=True):
    """What a sandbox thread is to be: its policy, the kernel's tables of it, how strict."""

    policy: Policy
    prepared: Prepared
    enforcement: Enforcement

    @property
    def key(self) -> Key:
        """Equal for orders that the same thread can serve."""
        return id(self.prepared), self.enforcement

    def is_of_policy(self, other: ThreadOrder) -> bool:
        """True where both are of one policy, whatever files its paths named when its tables were made."""
        return self.policy.version == other.policy.version and self.enforcement == other.enforcement


@dataclass(eq=False)
class _Line:
    """What stands by for one policy. While this holds the order, no other tables have its key."""

    order: ThreadOrder
    most: int = 1
    ready: deque[ThreadSession] = field(default_factory=deque)

    @property
    def lacks(self) -> bool:
        """True while fewer than half stand by: each that is made takes the interpreter from who runs."""
        return 2 * len(self.ready) < self.most


class StandbyThreads:
    """Makes the sandbox threads of one supervisor."""

    def __init__(
        self,
        host: Host,
        registry: Registry,
        tables: PreparedPolicies,
        watchdog: Watchdog,
        records: Records,
        host_side: HostSide,
    ) -> None:
        self._host, self._registry, self._tables = host, registry, tables
        self._watchdog, self._records, self._host_side = watchdog, records, host_side
        self._lock = threading.Lock()
        self._frequent = Frequent()
        #: by the order's key
        self._lines: dict[Key, _Line] = {}
        self._closed = False
        self._awake = threading.Event()
        #: started when threads are first wanted
        self._thread: Thread | None = None
        #: what confines the supervisor's own thread
        self._confinement: list[bytes] = []

    @property
    def sessions(self) -> list[ThreadSession]:
        """The standby threads: what `spawn` may take."""
        with self._lock:
            return [session for line in self._lines.values() for session in line.ready]

    # -- spawn ----------------------------------------------------------------------------------------------

    def spawn(self, context: SandboxContext, order: ThreadOrder) -> SandboxThread:
        """Return a sandbox on a thread of its own. Raises EnforcementError where a step of its confinement failed."""
        session = self._take(order)
        if unconfined := session is not None:
            handle = self._registry.add_thread(session)
        else:
            session = self._session(context, order)
            handle = self._registry.add_thread(session)
            try:
                session.start(order.enforcement)
            except BaseException:
                session.close()
                raise
        session.adopt_identity(context, order.policy)
        # what stands by is given to no caller under `no_new_privs`
        if order.prepared.shadow is None and (unconfined or not process.get_no_new_privs()):
            self._spawned(order)
        return handle

    def _session(self, context: SandboxContext, order: ThreadOrder) -> ThreadSession:
        kernel = self._records.kernel(context.sandbox_id)
        from ..sandbox.thread import ThreadSession  # with the hooks, which most hosts do without

        return ThreadSession(
            self._host,
            order.policy,
            order.prepared,
            context,
            self._records.telemetry(context, kernel),
            kernel,
            host_side=self._host_side,
            watchdog=self._watchdog,
        )

    def _take(self, order: ThreadOrder) -> ThreadSession | None:
        """Return a thread that stands by for exactly this order, once.

        None for a caller that is confined otherwise than the thread's maker: its sandbox must inherit that.
        """
        with self._lock:
            if (line := self._lines.get(order.key)) is None or not line.ready:
                return None
        if not (own := _confinement()) or own != self._confinement:
            return None
        with self._lock:
            line = self._lines.get(order.key)
            return line.ready.popleft() if line is not None and line.ready else None

    def _spawned(self, order: ThreadOrder) -> None:
        """Note what was asked for, and have more made where none is left: else the end of one does it.

        To make one takes the interpreter from who runs, and the first request of this one comes next.
        """
        with self._lock:
            self._frequent.note(order.key)
            unwanted = self._rank(order)
            line = self._lines.get(order.key)
            wanted = line is not None and not line.ready
        self._end(unwanted)
        if wanted:
            self.refill()

    def _rank(self, order: ThreadOrder) -> list[ThreadSession]:
        """Give a policy its place among the others; return the threads that are to end."""
        key = order.key
        unwanted: list[ThreadSession] = []
        for other in [one for one, line in self._lines.items() if one != key and line.order.is_of_policy(order)]:
            unwanted += self._lines.pop(other).ready  # its paths name other files by now
        if key not in self._lines:
            if self._closed or not self._frequent.is_frequent(key):
                return unwanted
            if len(self._lines) >= _POLICIES:
                least = self._frequent.less_frequent(key, self._lines)
                if least is None:
                    return unwanted
                unwanted += self._lines.pop(least).ready
            self._lines[key] = _Line(order)
        if self._frequent.is_usual(key) and self._lines[key].most == 1:
            for line in self._lines.values():
                line.most = 1
                unwanted += [line.ready.pop() for _ in range(len(line.ready) - 1)]
            self._lines[key].most = _MOST
        return unwanted

    def _end(self, sessions: list[ThreadSession]) -> None:
        for session in sessions:
            session.close()

    # -- ahead of spawn -------------------------------------------------------------------------------------

    def refill(self) -> None:
        """Have threads made for policies that lack some, by a thread that is confined as the supervisor is."""
        with self._lock:
            if self._closed or not any(line.lacks for line in self._lines.values()):
                return
            first = self._thread is None
            if first:
                self._thread = Thread(self._run, name="pyisolate-thread-maker")
        if first and (thread := self._thread) is not None:
            try:  # a thread inherits what confines the one that starts it: not from here, which may be a guest's
                self._host_side.do(thread.start)
            except (RuntimeError, OSError) as error:  # none stand by then, and each spawn makes its own
                _log.debug("start the thread that confines others ahead: %s", error)
                self._thread = None
        self._awake.set()

    def _run(self) -> None:
        self._confinement = _confinement()
        if process.get_no_new_privs():  # Landlock may confine the supervisor, and not those that spawn
            self._closed = True
        while not self._closed:
            self._awake.wait()
            self._awake.clear()
            with self._lock:
                lacking = [line for line in self._lines.values() if line.lacks]
            for line in lacking:
                while not self._closed and len(line.ready) < line.most and self._make(line):
                    pass

    def _make(self, line: _Line) -> bool:
        """Start and confine one more; False where its policy lost its place, or it failed."""
        order = line.order
        with self._tables.keep(order.prepared) as there:
            if not there or not order.prepared.current:
                self._forget(line)
                return False
            session = None
            try:
                session = self._session(standby_context(order.policy, order.prepared.compiled, "thread"), order)
                self._registry.add_standby_thread(session)
                session.start(order.enforcement)
            except Exception as error:  # also for want of memory: this thread goes on
                # The next `spawn` meets the same and raises it to its caller.
                _log.debug("standby thread for policy %s: %s", order.policy.name, error)
                if session is not None:
                    session.close()
                self._forget(line)
                return False
        with self._lock:
            wanted = self._lines.get(order.key) is line and len(line.ready) < line.most and not self._closed
            if wanted:
                line.ready.append(session)
        if not wanted:
            session.close()
        return wanted

    def _forget(self, line: _Line) -> None:
        """Have a policy be one that was never asked for."""
        with self._lock:
            if self._lines.get(line.order.key) is not line:
                return
            self._frequent.forget(line.order.key)
            unwanted = list(self._lines.pop(line.order.key).ready)
        self._end(unwanted)

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the standby threads, and the one that makes them. Idempotent."""
        with self._lock:
            self._closed = True
        self._awake.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)
        left = self.sessions
        with self._lock:
            self._lines.clear()
        self._end(left)

    def abandon(self) -> None:
        """In a forked child of the host: the threads are the parent's, and the registry forgets them."""
        self._lock, self._closed = threading.Lock(), True
        self._lines.clear()


def _confinement() -> list[bytes]:
    """Return what the kernel says of the calling thread: user, groups, privileges, filters, Landlock. [] unreadable.

    Under a filter in the lines of proc_pid_status(5), which counts filters, and in which Landlock is not named.
    """
    if own := process.own_confinement():
        return [own]
    try:
        status = os.open("/proc/thread-self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        lines = os.read(status, 1 << 14).splitlines()
    finally:
        os.close(status)
    return [*(line for line in lines if line.startswith(_STATUS_LINES)), _answer_to_mount()]


def _answer_to_mount() -> bytes:
    """Return the error of a mount(2) that changes nothing: a thread whose files Landlock decides gets another one.

    Landlock refuses mounts before their flags are looked at, and two kinds of propagation at once are no flags. It may
    confine a thread without `no_new_privs` only with CAP_SYS_ADMIN, without which the answer is always EPERM.
    """
    try:
        mount.mount(None, "/", None, mount.MS_SHARED | mount.MS_PRIVATE)
    except OSError as error:
        return str(error.errno).encode()
    return b""
