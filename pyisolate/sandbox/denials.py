"""The refusals of one sandbox: its records become events, its failures are tied to the refusal that raised them."""

from __future__ import annotations

import errno
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..policy.asking import CARRIED
from ..policy.suggest import crosses
from ..records import Asked, BrokerRecord, Evaluation, KernelRecord, RefusedOperation, SandboxContext
from ..telemetry.event import DenialEvent
from ..telemetry.policy_error import policy_error
from ..telemetry.store import coalesce

if TYPE_CHECKING:
    from ..cell.wire import Failed
    from ..policy.compiled import CompiledPolicy
    from ..telemetry.pipeline import SandboxTelemetry
    from ..telemetry.recorder import Recorder
    from .host import KernelRecords

#: What the listener says of look-ups that found no place among its records: any of them could be an event.
_NOT_LOOKED_INTO = (Capability.FS_LOOKUP, Evaluation.COUNTED, Verdict.ALLOW)
#: Events that one `Result` holds at most; the store has the rest.
_MAX_PER_REQUEST = 1000
#: Broker records whose event a failure may still name.
_MAX_BY_SEQUENCE = 256
#: What clients of HTTP raise where their proxy refuses: urllib, http.client, requests and urllib3, httpx.
_HTTP_FAILURES = frozenset(
    ("HTTPError", "URLError", "OSError", "ProxyError", "SSLError", "ConnectError", "HTTPStatusError", "MaxRetryError",
     "ConnectionError", "ConnectionResetError", "RemoteDisconnected", "RemoteProtocolError", "SSLEOFError",
     "IncompleteRead", "ReadError", "ClientHttpProxyError")
)  # fmt: skip
#: What a guest raises by itself, without an errno, where it has looked for a file.
_MISSING = ("FileNotFoundError", "NotADirectoryError")
#: What the guest's hooks raise.
_OF_BROKER = ("PolicyError", "RefusedImport", "RefusedProgram")
#: errno values by which a Linux security mechanism refuses: EPERM, EACCES (errno(3)).
_REFUSALS = (1, 13)
#: How a root view refuses: what is not granted is absent, what may not be written is a read-only mount, and what leads
#: from one mount to another is no rename and no link.
_BY_VIEW = (errno.ENOENT, errno.EROFS, errno.EXDEV)
#: What changes an open file, whose errors name none.
_BY_DESCRIPTOR = frozenset(("fchmod", "fchown", "fsetxattr", "fremovexattr", "utimensat"))
#: The words that a library puts into an error of its own where it keeps no errno (strerror(3)).
_WORDS = {os.strerror(one): one for one in (*_BY_VIEW, *_REFUSALS)}
_QUOTED = re.compile(r"""(["'])(.*?)\1""")
#: Errors of libraries for what the system refused, which are no OSError.
_LIBRARY_FAILURES = frozenset(
    ("OperationalError", "DatabaseError", "IOException", "ReadError", "XMLSyntaxError", "ComputeError", "ArrowInvalid",
     "ZipImportError", "BadZipFile", "LibsndfileError")
)  # fmt: skip


def _refused_by_view(event: DenialEvent, failure: Failed) -> bool:
    """Tell whether an error of a file call is what a refusal by the root view looks like: it names that very file.

    Or the script whose interpreter it is. A nameless one is left alone, but of a call on an open file: it may be about
    another file, after a refusal that the guest caught.
    """
    runs = event.capability is Capability.PROCESS_EXEC
    if not (event.capability.family == "fs" or runs) or event.kernel_decision is not Verdict.DENY:
        return False
    said = failure.errno if failure.errno is not None else _errno_in(failure)
    if said not in _BY_VIEW and not (said in _REFUSALS and failure.errno is None):
        return False
    name = event.target.rpartition("/")[2]
    quoted = [text for _, text in _QUOTED.findall(failure.message)]
    if not quoted:
        return said == errno.EROFS and event.syscall in _BY_DESCRIPTOR
    if runs and any(text.startswith("/") and event.kernel_reason.startswith(f"{text} names it") for text in quoted):
        return True
    return event.target in failure.message or any(text.rpartition("/")[2] == name for text in quoted)


def _of_libc(event: DenialEvent) -> int | None:
    """Return the errno that the C library makes of a refusal's: nice(3) says EPERM where setpriority(2) says EACCES."""
    is_nice = event.syscall == "setpriority" and event.kernel_errno == errno.EACCES
    return errno.EPERM if is_nice else event.kernel_errno


def _errno_in(failure: Failed) -> int | None:
    """Return the errno whose words an OSError of native code holds, which carries no number."""
    if failure.type_name not in ("OSError", "FileNotFoundError", "PermissionError"):
        return None
    return next((number for words, number in _WORDS.items() if words in failure.message), None)


class Denials:
    """Takes the records of one sandbox, and keeps the events of the request that runs. Thread-safe as telemetry is.

    `pid` returns the process id that events bear.
    """

    def __init__(self, telemetry: SandboxTelemetry, kernel: KernelRecords, pid: Callable[[], int]) -> None:
        self._telemetry, self._kernel, self._pid = telemetry, kernel, pid
        self._of_request: dict[str, DenialEvent] = {}
        self._by_sequence: dict[int, DenialEvent] = {}
        #: refusals that the guest's broker has reported, repeats counted
        self._reported: Counter[tuple[Capability, Verdict]] = Counter()
        self.shadow: CompiledPolicy | None = None
        self._unlooked = 0
        #: takes in what the egress proxy has refused, where the sandbox is led to it
        self.proxy: Callable[[], None] | None = None
        telemetry.on_due = self.attach

    def watch(self, shadow: CompiledPolicy | None) -> None:
        """Take records of a shadow policy as well. A reload of the one in force leaves it as it is."""
        self.shadow = shadow
        if shadow is None:
            self._telemetry.watch(None)
        else:
            named = shadow.name, shadow.version
            self._telemetry.watch(named, shadow.reasons, shadow.fs, shadow.unresolved(), shadow.denied_modules())

    def set_context(self, context: SandboxContext) -> None:
        """Name sandbox and policy anew for the events from now on."""
        self._telemetry.context = context

    # -- records in -----------------------------------------------------------------------------------------

    def guest(self, record: BrokerRecord) -> DenialEvent | None:
        """Take what the guest's broker reports. Raises InvalidRecord for what breaks the protocol."""
        if record.errno is not None and not self._kernel.quiet(self._pid()):
            self._kernel.drain()  # the call is over: who refused it has recorded it by now, and that goes first
        events, own = self._telemetry.reported(record)
        if not record.shadow:
            self._reported[record.capability, record.verdict] += record.count
        self.attach(events)
        if own is None or not record.sequence:  # the host's own reports have no number
            return own
        if len(self._by_sequence) >= _MAX_BY_SEQUENCE:
            self._by_sequence.pop(next(iter(self._by_sequence)))
        self._by_sequence[record.sequence] = own
        return own

    def kernel(self, record: KernelRecord) -> list[DenialEvent]:
        """Take what an enforcer refused; return the events that are complete now."""
        if (record.capability, record.evaluation, record.verdict) == _NOT_LOOKED_INTO:
            self._unlooked += record.count
            self.recorder.lost("lookup", record.count)
            return []
        events = self._telemetry.kernel(record)
        self.attach(events)
        return events

    def limit(
        self, capability: Capability, target: str, reason: str, reported: DenialEvent | None = None
    ) -> DenialEvent:
        """Record that a limit was reached, as the host saw it.

        `reported` is the event that the guest's word has made of it: it becomes the host's, where the store has it yet.
        """
        record = KernelRecord(
            sandbox_id=self._telemetry.context.sandbox_id,
            enforcer="supervisor",
            hook="limit",
            capability=capability,
            target=target,
            verdict=Verdict.DENY,
            code=DenialCode.LIMIT_EXCEEDED,
            reason=reason,
            pid=self._pid(),
            monotonic_ns=time.monotonic_ns(),
        )
        event = None if reported is None else self._telemetry.confirm(reported, record)
        if event is None:
            return self.kernel(record)[-1]
        self.attach([event])
        return event

    def host(self, capability: Capability, target: str, code: DenialCode, reason: str) -> DenialEvent:
        """Record what the host itself refused the guest."""
        record = BrokerRecord(
            sequence=0,
            capability=capability,
            target=target,
            verdict=Verdict.DENY,
            code=code,
            reason=reason,
            pid=self._pid(),
            monotonic_ns=time.monotonic_ns(),
        )
        event = self._telemetry.supervisor(record)
        self.attach([event])
        return event

    def proxied(self, record: BrokerRecord) -> None:
        """Record what the egress proxy refused the guest."""
        self.attach([self._telemetry.supervisor(msgspec.structs.replace(record, pid=self._pid()))])

    def suggestion(self, asked: Asked) -> dict[str, Any] | None:
        """Return the rules that grant what the host is asked about, as events suggest them.

        How a file is opened is one question. Of a call that changes names, each need is one of its own, and a rule for
        another would be no answer to it.
        """
        also = () if asked.syscall in CARRIED and not crosses(asked.target, asked.also) else asked.also
        return self._telemetry.suggestion(RefusedOperation(asked.capability, asked.target, also))

    @property
    def recorder(self) -> Recorder:
        """Where this sandbox's events are recorded."""
        return self._telemetry.recorder

    def settle(self) -> None:
        """Take in every record up to now: after it, the events are complete as far as the host can know."""
        if self.proxy is not None:
            self.proxy()
        pid = self._pid()
        quiet = self._kernel.quiet(pid)
        if not quiet:
            self._kernel.drain()
        if self._telemetry.waiting:
            self.attach(self._telemetry.settle())
        if not quiet:
            self._kernel.emit_uncounted(pid)

    def drain_kernel(self) -> None:
        """Take in the kernel's records up to now, while a request runs."""
        if self.proxy is not None:
            self.proxy()
        pid = self._pid()
        if not self._kernel.quiet(pid):
            self._kernel.drain()
            self._kernel.emit_uncounted(pid)

    def flush_unreported(self) -> None:
        """Record what the guest of a dead cell had been refused and had not reported, nor the kernel recorded."""
        if left := self._kernel.take_refusals():
            self._kernel.drain()
        for what, count in left:
            unknown = count - self._reported[what.capability, what.verdict]
            if own := self._telemetry.unreported(what.capability, what.verdict, unknown, self._pid()):
                self.attach([own])

    def attach(self, events: list[DenialEvent]) -> None:
        """Keep events for the running request; a completed one replaces what was known before."""
        full = len(self._of_request) >= _MAX_PER_REQUEST
        kept = [(event.event_id, event) for event in events if not full or event.event_id in self._of_request]
        self._of_request.update(kept)

    # -- events out -----------------------------------------------------------------------------------------

    def begin_request(self) -> None:
        """Forget the events of the request before."""
        self._of_request = {}

    def of_request(self) -> tuple[DenialEvent, ...]:
        """Return the events of the request that runs, or ran last, by the ids that the sandbox's store has."""
        if not self._of_request:
            return ()
        found: dict[str, DenialEvent] = {}
        for event in map(self.recorder.named, self._events()):
            before = found.get(event.event_id)
            found[event.event_id] = event if before is None else coalesce(before, event)
        return tuple(found.values())

    def of_failure(self, failure: Failed) -> DenialEvent | None:
        """Return the refusal that raised an exception, or None: a refusal that the guest caught is not it.

        The guest names the record where its hooks know it. Else the exception came out of a call of native code, and
        the last refusal of this request with its errno is the one. Its id is the one in the sandbox's store.
        """
        event = self._refusal_of(failure)
        return None if event is None else self.recorder.named(event)

    def _refusal_of(self, failure: Failed) -> DenialEvent | None:
        event = None if failure.sequence is None else self._by_sequence.get(failure.sequence)
        if event is not None:
            return event
        if failure.raised_by_guest and failure.sequence is None:
            return None
        if failure.type_name == "MemoryError" and not failure.message:
            # libffi has no memory that a callback could run in: nothing was full
            made = [one for one in self._events() if one.capability is Capability.MEMORY_EXEC]
            return next((one for one in reversed(made) if one.kernel_decision is Verdict.DENY), None)
        refused = (event for event in reversed(self._events()) if event.capability is not Capability.FS_LOOKUP)
        newest = next(refused, None)
        if newest is not None and newest.capability is Capability.NET_HTTP and not newest.would_deny:
            # a plain OSError with an errno is a system call's, and not a client's for what its proxy said
            of_call = failure.type_name == "OSError" and failure.errno is not None
            return newest if failure.type_name in _HTTP_FAILURES and not of_call else None
        for event in reversed(self._events()):
            if event.capability is Capability.FS_LOOKUP:
                continue  # it raised nothing that is a refusal
            if failure.type_name in _OF_BROKER and event.broker_decision is Verdict.DENY:
                return event
            if event.kernel_decision is Verdict.DENY and failure.errno in _REFUSALS:
                # Only the newest refusal: after an older one, the guest went on and met something else.
                return event if failure.errno in (event.kernel_errno, _of_libc(event)) else None
        return newest if newest is not None and _refused_by_view(newest, failure) else None

    def hint_of(self, failure: Failed) -> str | None:
        """Return, for an error of the system or of an import, what the request was refused before and caught."""
        if (looked := self._looked_for(failure)) is not None:
            denied = looked.code is DenialCode.EXPLICIT_DENY
            how = f"denies it ({looked.policy_rule})" if denied else f"does not grant it; {policy_error(looked).hint}"
            return f"{looked.target} exists, and the policy {how}"
        of_import = failure.type_name in ("ImportError", "ModuleNotFoundError")
        if failure.errno is None and not of_import and failure.type_name.rpartition(".")[2] not in _LIBRARY_FAILURES:
            return None
        refused = [
            event for event in self._events() if not event.would_deny and event.capability is not Capability.FS_LOOKUP
        ]
        if not refused:
            return None
        first = policy_error(refused[0])
        more = f" and {len(refused) - 1} more (`denials`)" if len(refused) > 1 else ""
        advice = f"; {first.hint}" if first.hint else ""
        return f"it was refused {first.operation} on {first.subject}{more} before{advice}"

    def _looked_for(self, failure: Failed) -> DenialEvent | None:
        """Return the look-up that failed, of what the guest misses: the one that it names, or the last."""
        number = errno.ENOENT if failure.type_name in _MISSING else failure.errno
        if number not in (errno.ENOENT, errno.EACCES):
            return None
        looks = [event for event in self._events() if event.capability is Capability.FS_LOOKUP]
        looked = [event for event in looks if number in (errno.ENOENT, event.kernel_errno)]
        named = [event for event in looked if event.target in failure.message]
        return next(reversed(named or looked), None)

    def _events(self) -> tuple[DenialEvent, ...]:
        """Return the events kept now: other threads may add to them."""
        return tuple(self._of_request.values())

    @property
    def total(self) -> int:
        """Refusals so far, repeats counted."""
        return self._telemetry.store.total

    @property
    def lost(self) -> int:
        """Events that the store could not keep, and look-ups that were not looked into, any of which could be one."""
        return self._telemetry.store.lost + self._unlooked

    def stored(self) -> list[DenialEvent]:
        """Return the stored events, oldest first."""
        return self._telemetry.store.events()

    def follow(self, timeout: float | None) -> Iterator[DenialEvent]:
        """Iterate over events as they come; ends when the sandbox does, or after `timeout` quiet seconds."""
        return self._telemetry.store.follow(timeout=timeout)

    def close(self) -> None:
        """Record what still waits, and end followers. Stored events stay readable."""
        self._telemetry.close()
