"""The notification listener in C, typed: see `src/notify.c` for what is where.

Nothing here decides. Tables go in as bytes and tuples, records come out as `Record`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._native import ffi, lib
from .account import Account
from .result import check

CAPABILITIES: int = lib.NOTIFY_CAPABILITIES
SYSCALLS: int = lib.NOTIFY_SYSCALLS
VERDICTS: int = lib.NOTIFY_VERDICTS

ALLOW: int = lib.NOTIFY_ALLOW
DENY: int = lib.NOTIFY_DENY
WOULD_DENY: int = lib.NOTIFY_WOULD_DENY

ACT_DENY: int = lib.NOTIFY_ACT_DENY
ACT_FLOOR: int = lib.NOTIFY_ACT_FLOOR
ACT_ALLOW: int = lib.NOTIFY_ACT_ALLOW
ACT_WATCH: int = lib.NOTIFY_ACT_WATCH

NOT_GRANTED: int = lib.NOTIFY_NOT_GRANTED
SCOPE_INSUFFICIENT: int = lib.NOTIFY_SCOPE_INSUFFICIENT
EXPLICIT_DENY: int = lib.NOTIFY_EXPLICIT_DENY
ALWAYS_DENIED: int = lib.NOTIFY_ALWAYS_DENIED
INTERNAL: int = lib.NOTIFY_INTERNAL
LIMIT_EXCEEDED: int = lib.NOTIFY_LIMIT_EXCEEDED

UNKNOWN: int = lib.NOTIFY_UNKNOWN
NOT_ASKED: int = lib.NOTIFY_NOT_ASKED
ASKED: int = lib.NOTIFY_ASKED
#: the C library makes the call for a look-up of a name, which a hook has seen
RESOLVES: int = lib.NOTIFY_RESOLVES
IMPORTS: int = lib.NOTIFY_IMPORTS

MET_NOTHING: int = lib.NOTIFY_MET_NOTHING
MET_LINK: int = lib.NOTIFY_MET_LINK
MET_OTHER: int = lib.NOTIFY_MET_OTHER

TRAIT_KNOWN: int = lib.NOTIFY_KNOWN
TRAIT_REPORTED: int = lib.NOTIFY_REPORTED
TRAIT_NAMING: int = lib.NOTIFY_NAMING

#: In `path_argument`: the argument is a descriptor, whose file is the target.
DESCRIPTOR: int = lib.NOTIFY_DESCRIPTOR
#: Added to the number of a call of another architecture.
FOREIGN: int = lib.NOTIFY_FOREIGN

FLAG_CELL: int = lib.NOTIFY_CELL
FLAG_FULL: int = lib.NOTIFY_FULL
FLAG_MONITOR_NET: int = lib.NOTIFY_MONITOR_NET
FLAG_NATIVE_NET: int = lib.NOTIFY_NATIVE_NET
FLAG_ASK_CONNECT: int = lib.NOTIFY_ASK_CONNECT
FLAG_ASK_BY_RULE: int = lib.NOTIFY_ASK_BY_RULE
FLAG_ASK_EXEC: int = lib.NOTIFY_ASK_EXEC
#: The action of a rule that says what is asked about.
ASKED_ABOUT: int = lib.NOTIFY_ASKED_ABOUT
FLAG_ASK_READ: int = lib.NOTIFY_ASK_READ
FLAG_ASK_WRITE: int = lib.NOTIFY_ASK_WRITE
FLAG_ASK_NAMES: int = lib.NOTIFY_ASK_NAMES
FLAG_ASK_METADATA: int = lib.NOTIFY_ASK_METADATA
FLAG_OWN_NAMES: int = lib.NOTIFY_OWN_NAMES
FLAG_MONITOR_FILES: int = lib.NOTIFY_MONITOR_FILES
FLAG_OWN_SOCKETS: int = lib.NOTIFY_OWN_SOCKETS
FLAG_OWN_TMP: int = lib.NOTIFY_OWN_TMP
FLAG_OWN_SHM: int = lib.NOTIFY_OWN_SHM
REPLY_YES: int = lib.NOTIFY_REPLY_YES
REPLY_NO: int = lib.NOTIFY_REPLY_NO
REPLY_FULL: int = lib.NOTIFY_REPLY_FULL
REPLY_LATE: int = lib.NOTIFY_REPLY_LATE
REPLY_GONE: int = lib.NOTIFY_REPLY_GONE
STAGE_GONE: int = lib.NOTIFY_STAGE_GONE
STAGE_WAITS: int = lib.NOTIFY_STAGE_WAITS
STAGE_WENT_ON: int = lib.NOTIFY_STAGE_WENT_ON

#: The C side's copy of some capability numbers, for a test that they are `CAPABILITY_NUMBER`'s.
CAPABILITY_NUMBERS: dict[str, int] = {
    name.removeprefix("PYI_"): getattr(lib, name) for name in dir(lib) if name.startswith("PYI_")
}

#: Slots of the table of connections to the egress proxy (src/led.h).
LED_SLOTS: int = lib.LED_SLOTS

_BATCH = 64
_NO_LIMIT: int = lib.NOTIFY_NO_LIMIT


#: How long other threads wait for what the listener's do for them.
PATIENCE_S = 10.0
_HELD_UP = "all its threads wait for guests, for their memory or for locks that they hold"
_HELD_UP_HINT = "see that the file systems (FUSE, NFS) answer whose files guests may read, or close those sandboxes"


class Rule(NamedTuple):
    """One address range and port range; `place` is the rule's index in the policy."""

    action: int
    allow: bool
    address: bytes
    prefix: int
    port_low: int
    port_high: int
    place: int


class UnixRule(NamedTuple):
    """One unix socket path, compared to the letter."""

    action: int
    allow: bool
    path: bytes
    place: int


class Record(NamedTuple):
    """What the listener did with one call (or `times` equal ones). `family` is 4, 6, 1 (unix) or 0.

    `asked` says whether the broker was (UNKNOWN, NOT_ASKED, ASKED, RESOLVES, IMPORTS), the `slot_` two what it had
    been asked and said.
    """

    key: int
    policy_serial: int
    monotonic_ns: int
    args: tuple[int, ...]
    times: int
    pid: int
    tid: int
    number: int
    error: int
    rule: int
    presented: int
    capability: int
    verdict: int
    reason: int
    family: int
    address: bytes
    port: int
    path: bytes
    asked: int = UNKNOWN
    slot_capability: int = 0
    slot_verdict: int = 0
    other: bytes = b""
    #: what became of a question (REPLY_YES ..., 0: none was asked), its number, and how long its call waited
    reply: int = 0
    question: int = 0
    waited_ms: int = 0
    #: what was there of the name when the call came (MET_NOTHING ..., 0: not known); of a link, `other` is what it says
    met: int = 0
    #: device and inode of an open file of which the kernel says no name but "/"
    file: tuple[int, int] | None = None


class Popped(NamedTuple):
    """Records of a ring: `taken` from it, and how many calls were in those for which this process had no memory."""

    records: list[Record]
    taken: int
    unread: int


class Question(NamedTuple):
    """A call that waits for an answer: to an address, `family` is 4 or 6, or about the file `name` (and `other`).

    `key` is the sandbox's.
    """

    key: int
    number: int
    pid: int
    tid: int
    capability: int
    family: int
    address: bytes
    port: int
    name: bytes = b""
    #: of the call
    flags: int = 0
    mode: int = 0
    #: the call, as `Listener.stage` knows it, and which one it is
    call: int = 0
    system_call: int = -1
    other: bytes = b""


class Policy:
    """A compiled table in C memory, shared by every sandbox that is bound to it.

    `shadow` refuses nothing: what it would refuse comes as records of its own serial. `open_files` and `file_size`
    (bytes) are the policy's: a guest that meets a lower limit has set it itself.
    """

    def __init__(
        self,
        flags: int,
        serial: int,
        acts: bytes,
        rules: Sequence[Rule],
        unix_rules: Sequence[UnixRule],
        *,
        shadow: Policy | None = None,
        open_files: int | None = None,
        file_size: int | None = None,
    ) -> None:
        if len(acts) != CAPABILITIES:
            raise ValueError(f"make a listener policy: {len(acts)} acts. Hint: one for each of {CAPABILITIES}")
        packed = ffi.new("struct notify_rule[]", max(1, len(rules)))
        for slot, rule in zip(packed, rules, strict=False):
            slot.action, slot.allow, slot.index = rule.action, rule.allow, rule.place
            slot.family, slot.prefix = (4 if len(rule.address) == 4 else 6), rule.prefix
            slot.port_low, slot.port_high = rule.port_low, rule.port_high
            ffi.memmove(slot.address, rule.address, len(rule.address))
        paths = ffi.new("struct notify_unix_rule[]", max(1, len(unix_rules)))
        for slot, unix in zip(paths, unix_rules, strict=False):
            slot.action, slot.allow, slot.index, slot.length = unix.action, unix.allow, unix.place, len(unix.path)
            ffi.memmove(slot.path, unix.path, len(unix.path))
        made = lib.notify_policy_new(flags, serial, acts, packed, len(rules), paths, len(unix_rules))
        if made == ffi.NULL:
            raise MemoryError("make a listener policy")
        self.handle = ffi.gc(made, lib.notify_policy_drop)
        lib.notify_policy_bound(made, *(_NO_LIMIT if one is None else one for one in (open_files, file_size)))
        if shadow is not None:
            lib.notify_policy_watch(made, shadow.handle)
        self.serial = serial
        self.acts, self.flags = acts, flags

    def ask(self, action: int, address: bytes, port: int, *, listening: bool = False) -> tuple[int, int, int]:
        """Return (reason, rule, nearest grant) for an address, as a call would meet them; reason 0 is granted.

        The numbers after the reason are places in the policy, -1 for none. `listening` asks about a port that the
        kernel may have picked.
        """
        rule, presented = ffi.new("int *"), ffi.new("int *")
        padded = address.ljust(16, b"\0")
        family = 4 if len(address) == 4 else 6
        reason = lib.notify_policy_ask(self.handle, action, family, padded, port, listening, rule, presented)
        return int(reason), int(rule[0]), int(presented[0])


def _check(result: int, operation: str) -> None:
    """As `check`, of what the listener's thread was to do."""
    late = result == -errno.ETIMEDOUT
    check(result, f"{operation}: {_HELD_UP}" if late else operation, hint=_HELD_UP_HINT if late else None)


class Listener:
    """One listener thread and its sandboxes, each under a number (`key`) of the caller's choice, not 0.

    What it does for the calling thread, which takes it microseconds, is waited for `patience_s`: OSError (ETIMEDOUT).
    """

    def __init__(
        self, capability: bytes, traits: bytes, path_argument: bytes, *, patience_s: float = PATIENCE_S
    ) -> None:
        tables = (capability, traits, path_argument)
        if any(len(table) != SYSCALLS for table in tables):
            raise ValueError(f"make a listener: tables of {[len(t) for t in tables]}. Hint: {SYSCALLS} entries each")
        made = lib.notify_create(capability, traits, ffi.from_buffer("int8_t[]", path_argument), int(patience_s * 1e9))
        if made == ffi.NULL:
            raise OSError(ffi.errno, f"make a notification listener: {os.strerror(ffi.errno)}")
        #: freed with its last reference: a call that is under way in another thread holds one
        self._handle: Any = ffi.gc(made, lib.notify_destroy)

    def start(self) -> None:
        """Start the thread."""
        check(lib.notify_start(self._handle), "start the notification listener")

    def halt(self) -> None:
        """Stop the thread, for good: what cells ask from then on fails with ENOSYS. Records and counters stay."""
        lib.notify_halt(self._handle)

    def close(self) -> None:
        """Stop the thread; calls of cells that are left fail with ENOSYS from then on. It knows no sandbox any more."""
        self.halt()
        self._handle = lib.notify_none()

    @property
    def alive(self) -> bool:
        """True while the thread runs in this process."""
        return bool(lib.notify_alive(self._handle))

    def add(self, key: int, fd: int, policy: Policy | None, account: Account | None = None) -> None:
        """Serve a listener descriptor, which is the listener's from then on. Without a policy everything continues.

        `account` is charged for what that costs, or one of its own.
        """
        handle = ffi.NULL if policy is None else policy.handle
        charged = ffi.NULL if account is None else account.handle
        _check(lib.notify_add(self._handle, key, fd, handle, charged), "add a sandbox to the notification listener")

    def bind(self, key: int, policy: Policy, own: int | None = None, *, shared: bool = False) -> None:
        """Decide by `policy` from the next call on. Raises OSError (ENOENT) for an unknown key.

        `own`: a descriptor of the sandbox's workspace, which stays the caller's. `shared`: a directory of the host's is
        mounted in it, and there are no sockets in either.
        """
        taken = -1 if own is None else fcntl.fcntl(own, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            _check(
                lib.notify_bind(self._handle, key, policy.handle, taken, shared),
                "bind a policy at the notification listener",
            )
        except OSError:
            if taken >= 0:
                os.close(taken)
            raise

    def lead(self, fd: int, port: int) -> None:
        """Write down whose connections to that port of 127.0.0.1 are, in the table that `fd` is of. Once."""
        check(lib.notify_lead(self._handle, fd, port), "write down connections to the egress proxy")

    def map_asked(self, key: int, fd: int) -> None:
        """Join a sandbox's calls with what its hooks tell in its cell's page (src/asked.h). Once."""
        check(lib.notify_map_asked(self._handle, key, fd), "map an asked page")

    def lend_asked(self, key: int, page: int) -> None:
        """Join a sandbox thread's calls with what its hooks tell in this process's page (`native.audit.own_asked`)."""
        check(lib.notify_lend_asked(self._handle, key, page), "take an asked page")

    def announce(self, key: int) -> int:
        """Say in a sandbox's asked page that its policy was reloaded; return how often it was, 0 without a page."""
        return int(lib.notify_announce(self._handle, key))

    def refusals(self, key: int) -> list[int]:
        """Return how often the guest's broker has refused, by the index of `native.audit.note_refusal`: its word."""
        out = ffi.new("uint64_t[]", lib.ASKED_REFUSALS)
        return list(out) if lib.notify_refusals(self._handle, key, out) == 0 else []

    def stop(self, key: int) -> bool:
        """Decide nothing more for a sandbox; records and counters stay. False where the key is unknown."""
        return bool(lib.notify_stop(self._handle, key) == 0)

    def forget(self, key: int) -> None:
        """Forget a sandbox and close its listener."""
        lib.notify_forget(self._handle, key)

    def counters(self, key: int) -> tuple[list[int], int] | None:
        """Return counts by `capability * VERDICTS + verdict`, and how many records were lost; None if unknown."""
        counters, lost = ffi.new("uint64_t[]", CAPABILITIES * VERDICTS), ffi.new("uint64_t *")
        if lib.notify_counters(self._handle, key, counters, lost):
            return None
        return list(counters), int(lost[0])

    def unlooked(self, key: int) -> int:
        """Return how many of the records that were lost were of look-ups, which nothing decides."""
        return int(lib.notify_unlooked(self._handle, key))

    def spent_s(self, key: int) -> float:
        """Return the processor time that the thread has used for a sandbox (seconds); 0 if unknown."""
        return int(lib.notify_spent(self._handle, key)) / 1e9

    def charge(self, key: int, processor_s: float) -> None:
        """Charge a sandbox for processor time that its records took elsewhere."""
        lib.notify_charge(self._handle, key, int(processor_s * 1e9))

    def next_question(self, timeout_ms: int) -> Question | None:
        """Sleep until a call waits for an answer, the time is up or `stop_asking` is called. One caller at a time."""
        raw = ffi.new("struct notify_question *")
        if not lib.notify_next_question(self._handle, raw, timeout_ms):
            return None
        address = bytes(ffi.buffer(raw.address))
        both = bytes(ffi.buffer(raw.name, raw.name_bytes + raw.other_bytes))
        return Question(
            raw.key, raw.number, raw.pid, raw.tid, raw.capability, raw.family, address, raw.port,
            both[: raw.name_bytes], raw.flags, raw.mode, raw.id, raw.nr, both[raw.name_bytes :],
        )  # fmt: skip

    def stop_asking(self) -> None:
        """End a `next_question`."""
        lib.notify_stop_asking(self._handle)

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer a question, once. Raises OSError where there is no memory for it.

        None, about a file or a program: the kernel decides, as if nothing had been asked.
        """
        said = {None: lib.NOTIFY_SAID_AS_EVER, True: lib.NOTIFY_SAID_YES, False: lib.NOTIFY_SAID_NO}[allow]
        check(lib.notify_reply_to(self._handle, number, said, -1, -1, 0), "answer a question")

    def give(self, number: int, file: int, *, empty: bool) -> bool:
        """Answer a question about a file with yes: the guest is given `file`, emptied once it has it where `empty`.

        Takes `file`, whatever happens. Returns whether the guest has it; waits until its task ran. Raises OSError.
        """
        return self._say(number, lib.NOTIFY_SAID_EMPTY if empty else lib.NOTIFY_SAID_YES, file)

    def begin(self, number: int) -> bool:
        """Say that a call which a question was about is about to be carried out; False where it was given up.

        From then on it is not interrupted, until `done` or `answer`. Raises OSError.
        """
        return self._say(number, lib.NOTIFY_SAID_BEGIN, -1)

    def done(self, number: int, error: int) -> None:
        """Answer a call that was carried out, with its error number, or 0; waits for its record. Raises OSError."""
        self._say(number, lib.NOTIFY_SAID_DONE, -1, error)

    def _say(self, number: int, said: int, file: int, error: int = 0) -> bool:
        left = [file] if file >= 0 else []
        try:
            mine, heard = socket.socketpair()
            left.append(heard.detach())
            with mine:
                _check(lib.notify_reply_to(self._handle, number, said, file, left[-1], error), "answer a question")
                left.clear()
                return mine.recv(1) == b"\1"
        finally:
            for descriptor in left:
                os.close(descriptor)

    def stage(self, key: int, call: int) -> int:
        """Return where a sandbox's call is that a question was about (STAGE_...). Any thread may ask; never waits."""
        return int(lib.notify_stage_of(self._handle, key, call))

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until some sandbox has records, the time is up or `wake` is called; True when there are records."""
        return bool(lib.notify_wait(self._handle, timeout_ms))

    def wake(self) -> None:
        """End a `wait`."""
        lib.notify_wake(self._handle)

    def next(self) -> int:
        """Return the key of a sandbox that has records, or 0; each in turn. One caller at a time."""
        return int(lib.notify_next(self._handle))

    def quiet(self, key: int, lost: int) -> bool:
        """True while no record of a sandbox waits and the number of those that did not fit is `lost`. 0.5 us."""
        return bool(lib.notify_quiet(self._handle, key, lost))

    def pending(self, key: int) -> int:
        """Return how many records of a sandbox wait."""
        return int(lib.notify_pending(self._handle, key))

    def pop(self, key: int, limit: int = _BATCH) -> Popped:
        """Take up to `limit` of a sandbox's records, a batch at most. One caller at a time for one sandbox."""
        limit = min(limit, _BATCH)
        raw = ffi.new("struct notify_record[]", limit)
        records: list[Record] = []
        unread = 0
        taken = int(lib.notify_pop(self._handle, key, raw, limit))
        for place in range(taken):
            try:
                records.append(_record(raw[place]))
            except MemoryError:
                unread += raw[place].count
        return Popped(records, taken, unread)


def _record(raw: Any) -> Record:
    try:
        both = bytes(ffi.buffer(raw.names or raw.text, raw.path_length + raw.other_length))
    finally:
        lib.notify_free(raw.names)
    return Record(
        key=raw.key,
        policy_serial=raw.policy_serial,
        monotonic_ns=raw.monotonic_ns,
        args=tuple(raw.args),
        times=raw.count,
        pid=raw.pid,
        tid=raw.tid,
        number=raw.nr,
        error=raw.error,
        rule=raw.rule,
        presented=raw.presented,
        capability=raw.capability,
        verdict=raw.verdict,
        reason=raw.reason,
        family=raw.family,
        address=bytes(ffi.buffer(raw.address)),
        port=raw.port,
        path=both[: raw.path_length],
        asked=raw.asked,
        slot_capability=raw.slot_capability,
        slot_verdict=raw.slot_verdict,
        other=both[raw.path_length :],
        reply=raw.reply,
        question=raw.question,
        waited_ms=raw.waited_ms,
        file=(raw.device, raw.inode) if raw.inode else None,
        met=raw.met,
    )
