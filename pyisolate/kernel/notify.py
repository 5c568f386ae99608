"""seccomp user notification: the supervisor decides the calls that the filter does not allow outright.

The filter (`kernel/seccomp.py`) sends them to the listener, a C thread (`native/src/notify.h`): it judges by values and
by its own copy of an address, acts on its own descriptor of the guest's socket, and answers. What the guest could still
change is never looked at twice. If the listener dies, the kernel fails every such call: closed.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from ..capability import CAPABILITY_BY_NUMBER, CAPABILITY_NUMBER, FLOOR, Capability
from ..decision import Mode, Verdict
from ..native import notify as native
from ..policy.compiled import CompiledPolicy, FsRight
from ..telemetry.event import KernelRecord
from .enforcer import Availability, RecordSink, Status
from .notify_probe import probe_live
from .notify_record import ENFORCER, SILENT_VERDICTS, VERDICTS, evaluate, kernel_record
from .seccomp import capability_of, syscall_numbers
from .syscall_table import CAPABILITY_OF, PATH_ARGUMENT, REPORTED_WHEN_FULL
from .unnamed import Counted, Named
from .unnamed import record as unnamed_record

_log = logging.getLogger("pyisolate.kernel")

#: Which rule group's mode a capability follows; the rest follow the policy's own.
_GROUPS = {"fs": "fs", "net": "net", "process": "process", "import": "import", "random": "random"}
#: A flood of refusals costs the host a wake-up a millisecond, not one each; requests that end drain by themselves.
_PACE_S = 0.001
_PACE_MAX_S = 0.02
_REMEMBERED_POLICIES = 256
_UNNAMED = "they came faster than the listener's records were read"


def _counted(capability: int, verdict: int) -> Counted:
    return Counted(CAPABILITY_BY_NUMBER[capability], VERDICTS[verdict])


class NotificationEnforcer:
    """seccomp with a listener, on the supervisor's side. `Listener` does the work; this proves that it can."""

    name = "seccomp"

    def __init__(self, *, simulate_missing: bool = False) -> None:
        self._simulate_missing = simulate_missing

    def probe(self) -> Availability:
        """See, in a child under the filter, a socket refused by the listener and one allowed."""
        if self._simulate_missing:
            return self._unavailable("simulated")
        try:
            proof = probe_live(Listener)
        except OSError as error:
            return self._unavailable(f"{error.strerror or error}")
        if proof.problem:
            return self._unavailable(proof.problem)
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof=proof.text, detail=proof.detail)

    def capabilities(self) -> frozenset[Capability]:
        """Return what the filter and the listener decide."""
        reported = frozenset(REPORTED_WHEN_FULL.values())
        decided = frozenset(CAPABILITY_OF.values()) - reported
        return decided | {Capability.IPC_UNIX, Capability.KERNEL_SYSCALL}

    def prepare(self, policy: CompiledPolicy) -> native.Policy:
        """Compile the policy's table for the listener."""
        return compile_table(policy, serial=0)

    def _unavailable(self, reason: str) -> Availability:
        return Availability(
            enforcer=self.name,
            status=Status.UNAVAILABLE,
            reason=reason,
            remedy="needs CONFIG_SECCOMP_FILTER and Linux 5.9 (notification, ADDFD), and in a container a seccomp "
            "profile that allows seccomp(2), pidfd_getfd(2) and process_vm_readv(2)",
        )


def compile_table(
    policy: CompiledPolicy,
    *,
    serial: int,
    kind: str = "cell",
    full: bool = False,
    shadow: native.Policy | None = None,
) -> native.Policy:
    """Return a policy's table for the listener; `serial` comes back in records.

    `kind` is "cell", "native" (a cell that makes its sockets and connections itself) or "thread".
    """
    flags = {"cell": native.FLAG_CELL, "native": native.FLAG_CELL | native.FLAG_NATIVE_NET}.get(kind, 0)
    flags |= native.FLAG_FULL if full else 0
    flags |= native.FLAG_MONITOR_NET if policy.mode_of("net") is Mode.MONITOR else 0
    rules, unix_rules = [], []
    for index, rule in enumerate(policy.net):
        if rule.unix_path is None:
            rules.append(
                native.Rule(rule.action, rule.allow, rule.address, rule.prefix, rule.port_low, rule.port_high, index)
            )
        elif len(path := os.fsencode(rule.unix_path)) <= 107:  # sockaddr_un.sun_path; a longer one names nothing
            unix_rules.append(native.UnixRule(rule.action, rule.allow, path, index))
    return native.Policy(flags, serial, bytes(_acts(policy)), rules, unix_rules, shadow=shadow)


def _acts(policy: CompiledPolicy) -> bytearray:
    """What becomes of a refused call of each capability that no rule speaks of address by address."""
    acts = bytearray(native.CAPABILITIES)
    any_native = any(pattern.name == "*" and pattern.allow for pattern in policy.natives)
    granted = {
        Capability.PROCESS_FORK: policy.allow_fork,
        # Landlock and the root view decide which files; here only whether there are any
        Capability.PROCESS_EXEC: any(rule.allow & FsRight.EXEC for rule in policy.fs),
        Capability.RANDOM_READ: policy.allow_random,
        Capability.MEMORY_EXEC: any_native,
        Capability.IMPORT_NATIVE: any_native,
    }
    for capability, number in CAPABILITY_NUMBER.items():
        group = _GROUPS.get(capability.value.partition(".")[0])
        mode = policy.mode_of(group) if group else policy.mode
        if capability in FLOOR:
            acts[number] = native.ACT_FLOOR
        elif granted.get(capability):
            acts[number] = native.ACT_ALLOW
        else:
            acts[number] = native.ACT_WATCH if mode is Mode.MONITOR else native.ACT_DENY
    return acts


def _tables() -> tuple[bytes, bytes, bytes]:
    """Return capability, traits and path argument by system call number."""
    capability = bytearray([CAPABILITY_NUMBER[Capability.KERNEL_SYSCALL]] * native.SYSCALLS)
    traits = bytearray(native.SYSCALLS)
    path_argument = bytearray(b"\xff" * native.SYSCALLS)  # -1
    for number, name in syscall_numbers().items():
        capability[number] = CAPABILITY_NUMBER[REPORTED_WHEN_FULL.get(name) or capability_of(name)]
        traits[number] = native.TRAIT_KNOWN | (native.TRAIT_REPORTED if name in REPORTED_WHEN_FULL else 0)
        path_argument[number] = PATH_ARGUMENT.get(name, 0xFF)
    return bytes(capability), bytes(traits), bytes(path_argument)


class _Table(NamedTuple):
    """A compiled table, what it was made of, and serial and policy of its shadow's."""

    policy: CompiledPolicy
    shadow: CompiledPolicy | None
    table: native.Policy
    watched: tuple[int, CompiledPolicy] | None


_TableKey = tuple[int, int, str, bool]


@dataclass
class _Attached:
    """A sandbox at the listener. `policies` keeps the tables that records under way may still speak of."""

    key: int
    sandbox_id: str
    kind: str = "cell"
    full: bool = False
    shadow: CompiledPolicy | None = None
    policies: OrderedDict[int, CompiledPolicy] = field(default_factory=OrderedDict)
    #: serial and policy of the shadow's table
    watched: tuple[int, CompiledPolicy] | None = None
    named: Named = field(default_factory=Named)
    #: what the guest had not reported at its end was asked for
    untold_taken: bool = False


class Listener:
    """Serves the notifications of all sandboxes of a supervisor, and turns refusals into kernel records.

    `sink` is called with every record, in order per sandbox, from the drain thread or from `drain_now`; what it raises
    is logged and dropped. Thread-safe.
    """

    def __init__(self, sink: RecordSink) -> None:
        self._sink = sink
        self._native = native.Listener(*_tables())
        self._keys, self._serials = itertools.count(1), itertools.count(1)
        self._lock = threading.Lock()  # names and tables
        self._drain_lock = threading.RLock()  # one drain at a time; held while records are handed to the sink
        self._by_id: dict[str, _Attached] = {}
        self._by_key: dict[int, _Attached] = {}
        self._compiled: OrderedDict[_TableKey, _Table] = OrderedDict()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="pyisolate-notify", daemon=True)
        self._pid = os.getpid()

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start deciding and draining."""
        self._native.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the listener decides in this process."""
        return self._native.alive

    def close(self) -> None:
        """Hand over what is recorded and stop. Cells that are left get ENOSYS for what the filter does not allow."""
        if self._closing.is_set() or os.getpid() != self._pid:
            return
        self._closing.set()
        self._native.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._native.halt()  # before the last drain: who floods would never let it end
        with self._drain_lock:
            while key := self._native.next():
                self._drain_key(key)
            self._native.close()

    # -- sandboxes ------------------------------------------------------------------------------------------

    def attach(
        self,
        fd: int,
        sandbox_id: str,
        policy: CompiledPolicy,
        *,
        full: bool = False,
        kind: str = "cell",
        shadow: CompiledPolicy | None = None,
    ) -> None:
        """Decide a sandbox's calls by `policy`. Takes the descriptor. `full` also records allowed file calls.

        `shadow` refuses nothing: what it would refuse is recorded, beside what `policy` does.
        """
        self._add(fd, sandbox_id, policy, full, kind, shadow)

    def attach_warm(self, fd: int, sandbox_id: str, asked: int | None = None) -> None:
        """Let everything a warm cell does continue, until `bind`: no guest code may run in it before.

        `asked` is the descriptor of its asked page; without one nothing tells whether its broker was asked.
        """
        self._add(fd, sandbox_id, None, False, "cell", None)
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or asked is None:
                return
            try:
                self._native.map_asked(attached.key, asked)
            except OSError as error:
                _log.warning("a cell's records cannot tell whether its broker was asked: %s", error)

    def bind(
        self,
        warm_id: str,
        sandbox_id: str,
        policy: CompiledPolicy,
        *,
        full: bool = False,
        kind: str = "cell",
        shadow: CompiledPolicy | None = None,
    ) -> None:
        """Give a warm cell its sandbox and policy. Raises KeyError for a cell that was never attached.

        `shadow` refuses nothing: what it would refuse is recorded, beside what `policy` does.
        """
        with self._lock:
            attached = self._by_id[warm_id]
            attached.full, attached.kind, attached.shadow = full, kind, shadow
            table = self._remember(attached, policy)
            self._native.bind(attached.key, table)
            del self._by_id[warm_id]
            attached.sandbox_id = sandbox_id
            self._by_id[sandbox_id] = attached

    def update(self, sandbox_id: str, policy: CompiledPolicy) -> None:
        """Decide by `policy` from the next call on; there is no instant without one. Raises KeyError."""
        with self._lock:
            attached = self._by_id[sandbox_id]
            self._native.bind(attached.key, self._remember(attached, policy))

    def detach(self, sandbox_id: str) -> None:
        """Forget a sandbox that has ended, after its last records. Unknown names are ignored."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is None or self._closing.is_set():
            return
        self._native.stop(attached.key)
        self._drain_key(attached.key)
        self._tell_unnamed(attached, 0)
        with self._lock:
            self._by_id.pop(sandbox_id, None)
            self._by_key.pop(attached.key, None)
        self._native.forget(attached.key)

    def _add(
        self,
        fd: int,
        sandbox_id: str,
        policy: CompiledPolicy | None,
        full: bool,
        kind: str,
        shadow: CompiledPolicy | None,
    ) -> None:
        with self._lock:
            if sandbox_id in self._by_id or self._closing.is_set():
                os.close(fd)
                why = "it is closed" if self._closing.is_set() else "the name is taken"
                raise ValueError(f"attach {sandbox_id!r} to the notification listener: {why}")
            attached = _Attached(next(self._keys), sandbox_id, kind, full, shadow)
            table = None if policy is None else self._remember(attached, policy)
            self._by_key[attached.key] = attached
            try:
                self._native.add(attached.key, fd, table)
            except OSError:
                del self._by_key[attached.key]
                raise
            self._by_id[sandbox_id] = attached

    def _remember(self, attached: _Attached, policy: CompiledPolicy) -> native.Policy:
        """Return the policy's table, compiled once for all sandboxes of one kind."""
        table = self._table(attached, policy, attached.shadow)
        attached.policies[table.serial] = policy
        while len(attached.policies) > 4:  # reloads: a record under way is not older than that
            attached.policies.popitem(last=False)
        return table

    def _table(
        self, attached: _Attached, policy: CompiledPolicy, shadow: CompiledPolicy | None = None
    ) -> native.Policy:
        key = (id(policy), id(shadow), attached.kind, attached.full)
        watched = None
        if shadow is not None:
            watched = self._table(attached, shadow)
            attached.watched = (watched.serial, shadow)
        found = self._compiled.get(key)
        if found is None:
            table = compile_table(
                policy, serial=next(self._serials), kind=attached.kind, full=attached.full, shadow=watched
            )
            # the policies are kept with the table: their ids must not be another's
            found = self._compiled[key] = _Table(policy, shadow, table, attached.watched)
            if len(self._compiled) > _REMEMBERED_POLICIES:
                self._compiled.popitem(last=False)
        if shadow is not None:
            attached.watched = found.watched
        return found.table

    # -- what would happen ----------------------------------------------------------------------------------

    def evaluate(self, sandbox_id: str, capability: Capability, target: str) -> KernelRecord | None:
        """Return what the sandbox's tables say of an operation that the broker refused before it became a call.

        None where the listener does not decide it: files, imports, unix paths, names instead of addresses.
        """
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or not attached.policies:
                return None
            policy = next(reversed(attached.policies.values()))
            table = self._remember(attached, policy)
        return evaluate(table, policy, sandbox_id, capability, target)

    # -- what happened --------------------------------------------------------------------------------------

    def counters(self, sandbox_id: str) -> dict[tuple[Capability, Verdict], int]:
        """Return exact counts since `attach`, also of what was lost as records. Empty for an unknown sandbox."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is None:
            return {}
        return {(what.capability, what.verdict): count for what, count in self._counters_of(attached).items()}

    def _counters_of(self, attached: _Attached) -> dict[Counted, int]:
        found = self._native.counters(attached.key)
        counts = [] if found is None else found[0]
        return {
            _counted(index // native.VERDICTS, index % native.VERDICTS): count
            for index, count in enumerate(counts)
            if count
        }

    def lost(self, sandbox_id: str) -> int:
        """Return how many records did not fit the sandbox's ring (they are in `counters`, and told as counts)."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        found = None if attached is None else self._native.counters(attached.key)
        return 0 if found is None else found[1]

    def take_untold(self, sandbox_id: str) -> list[tuple[Counted, int]]:
        """Return, once, the broker's refusals that a guest had summed up and not reported when it ended.

        The guest's own word: capabilities that exist, numbers of any size.
        """
        with self._lock:
            attached = self._by_id.get(sandbox_id)
            if attached is None or attached.untold_taken or self._closing.is_set():
                return []
            attached.untold_taken = True
            left = self._native.untold(attached.key)
        verdicts = (Verdict.DENY, Verdict.WOULD_DENY)
        return [
            (Counted(CAPABILITY_BY_NUMBER[index // 2], verdicts[index % 2]), count)
            for index, count in enumerate(left)
            if count and index // 2 in CAPABILITY_BY_NUMBER
        ]

    def drain_now(self, sandbox_id: str) -> None:
        """Return once every record of calls that the sandbox has seen answered has been handed to the sink."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is not None and not self._closing.is_set():
            self._drain_key(attached.key)

    def tell_unnamed(self, sandbox_id: str, pid: int) -> None:
        """Hand over, as counts, the refusals whose records did not fit the ring. After `drain_now`."""
        with self._lock:
            attached = self._by_id.get(sandbox_id)
        if attached is not None and not self._closing.is_set():
            self._tell_unnamed(attached, pid)

    def _tell_unnamed(self, attached: _Attached, pid: int) -> None:
        with self._drain_lock:
            found = self._native.counters(attached.key)
            if found is None or not attached.named.behind(found[1]):
                return
            counters = self._counters_of(attached)
            for what, count in attached.named.missing(counters, found[1]):
                self._deliver(unnamed_record(ENFORCER, attached.sandbox_id, pid, what, count, _UNNAMED))

    def _drain_key(self, key: int) -> None:
        with self._drain_lock:
            left = self._native.pending(key)  # what comes after this is not waited for
            while left > 0 and (records := self._native.pop(key, left)):
                left -= len(records)
                for record in records:
                    self._hand_over(record)

    def _hand_over(self, record: native.Record) -> None:
        attached = self._by_key.get(record.key)
        if attached is None:
            return
        watched = attached.watched
        shadow = watched is not None and record.policy_serial == watched[0]
        policy = watched[1] if watched is not None and shadow else attached.policies.get(record.policy_serial)
        if not shadow:  # the counters are those of the policy in force
            attached.named.add(_counted(record.capability, record.verdict), record.times)
        made = kernel_record(record, attached.sandbox_id, policy, shadow=shadow)
        if made.verdict not in SILENT_VERDICTS or attached.full:
            self._deliver(made)

    def _deliver(self, record: KernelRecord) -> None:
        try:
            self._sink(record)
        except Exception:
            _log.exception("a record sink failed; the refusal stands and is counted")

    def _drain_round(self) -> None:
        """Hand over what each sandbox has recorded, each once at most, however much comes meanwhile."""
        for _ in range(len(self._by_key)):
            key = self._native.next()
            if not key:
                return
            self._drain_key(key)

    def _drain(self) -> None:
        while not self._closing.is_set():
            if self._native.wait(-1):
                began = time.monotonic()
                try:
                    self._drain_round()
                except Exception:  # the next batch must not wait for a restart
                    _log.exception("a batch of records could not be read; they are counted all the same")
                # a guest that is refused all the time gets half a processor of its host, not a whole one
                self._closing.wait(min(max(_PACE_S, time.monotonic() - began), _PACE_MAX_S))
