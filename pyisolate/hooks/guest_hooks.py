"""`GuestHooks`: what asks the broker on behalf of guest code, reports refusals and raises them.

It lives in the guest's interpreter, so a hostile guest can find and change it. It is never the boundary.
"""

from __future__ import annotations

import builtins
import errno
import functools
import logging
import os
import time
from _thread import get_ident, get_native_id
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from ..capability import CATALOGUE, Capability
from ..choices import Isolation
from ..decision import Decision, DenialCode, Mode, Verdict
from ..errors import PolicyError, RefusalFields, RefusedImport, RefusedProgram, described, undescribed
from ..policy.asking import WRITES
from ..policy.broker import is_asked_about
from ..policy.compiled import CompiledPolicy
from ..policy.standard_library import is_builtin_ctypes
from ..policy.suggest import suggestion_unseen
from ..records import ALSO_LIMIT, BrokerRecord, SandboxContext
from ..telemetry.event import DenialEvent
from ..telemetry.merge import merge
from ..telemetry.sanitize import hide_user_information, show_target
from . import answer_codes as answers
from . import frames, paths
from .attribution import LastAllowed, is_os_error, number_of, raised_by_guest, stood_for
from .coalesce import Coalescer
from .deduplicate import ANNOUNCED, Announcements
from .importing import ImportRule, ShadowedImports, checked_import
from .operation import DoneWithout, Operation
from .operations import ASKED_ABOUT, OF_INTERPRETER, OPERATIONS
from .pinned_hosts import PinnedHosts
from .suspended import Suspended
from .whole_call import with_all_of_call

_log = logging.getLogger("pyisolate.hooks")
_RECORD = "_pyisolate_record"
_REPORTED = "_pyisolate_reported"
_REFUSED = os.strerror(errno.EACCES)
#: A guest may be denied the random numbers that an id takes; the host's event replaces this one.
_PRELIMINARY = "00000000-0000-7000-8000-000000000000"
#: First number of operations that have no audit event; well below the wire's limit of 2**63
_WRAPPED = 1 << 62


class Asked(Protocol):
    """The part of the broker that hooks use."""

    def decide(self, capability: Capability, target: str, **facts: Any) -> Decision:
        """Return the decision on one operation."""
        ...


class Shadow:
    """A policy that refuses nothing: what it would say is reported beside what the one in force does."""

    def __init__(self, broker: Asked, compiled: CompiledPolicy) -> None:
        self._broker, self.compiled = broker, compiled

    def peek(self, capability: Capability, target: str, **facts: Any) -> Decision:
        """Return the shadow policy's own decision; a broker that fails says nothing."""
        try:
            return self._broker.decide(capability, target, **facts)
        except (RecursionError, MemoryError):
            raise
        except Exception:
            _log.debug("shadow broker failed", exc_info=True)
            return Decision(verdict=Verdict.ALLOW, capability=capability, target=target)

    def would_refuse(self, capability: Capability, target: str, facts: dict[str, Any]) -> Decision | None:
        """Return its refusal as one that is only recorded; None for what it grants, and for the floor."""
        decision = self.peek(capability, target, **facts)
        if decision.verdict is Verdict.ALLOW or decision.code is DenialCode.ALWAYS_DENIED:
            return None
        return replace(decision, verdict=Verdict.WOULD_DENY)


class GuestHooks:
    """Asks the broker about each operation of guest code. One per sandbox; thread-safe.

    `report` receives every refusal before it is raised; exact repeats are coalesced (see `flush`). `shadow` is a
    second policy: what it would refuse is reported and goes on. `tell` takes the answers (see `answers`) about
    operations that have no audit event, `note` each refusal before it is reported.
    """

    def __init__(
        self,
        broker: Asked,
        report: Callable[[BrokerRecord], None],
        *,
        mode: Mode = Mode.ENFORCE,
        compiled: CompiledPolicy | None = None,
        shadow: Shadow | None = None,
        isolation: Isolation = "process",
        sequence: Callable[[], int] | None = None,
        detach: Callable[[], None] | None = None,
        tell: Callable[[int, object], None] | None = None,
        note: Callable[[int], None] | None = None,
    ) -> None:
        self.mode = mode
        self._isolation, self._detach, self._tell = isolation, detach, tell
        self._reports = Coalescer(report, note=note)
        self._last = LastAllowed()
        self._announced = Announcements()
        self._shadow = shadow
        self._busy: set[int] = set()
        self._event_sequence, self._count = sequence or self._own_sequence, 0
        self.replace(broker, compiled)

    # -- life -----------------------------------------------------------------------------------------------

    def replace(self, broker: Asked, compiled: CompiledPolicy | None = None) -> None:
        """Ask a reloaded policy from now on."""
        self._broker, self._compiled = broker, compiled
        if compiled is not None:
            self.mode = compiled.mode
        self._policy_context = self._context()
        self.imports: ImportRule | ShadowedImports = ImportRule(self._ask_own, self.peek)
        self.hosts = PinnedHosts(compiled.pinned_hosts if compiled is not None else {}, self.ask)
        self.random_asked = self.random_denied = compiled is not None and not compiled.allow_random
        if compiled is not None and compiled.mode_of("random") is Mode.MONITOR:
            self.random_denied = False
        if (shadow := self._shadow) is not None:
            self.imports = ShadowedImports(self.imports, ImportRule(self._ask_shadow, shadow.peek))
            self.random_asked = self.random_asked or not shadow.compiled.allow_random

    def flush(self) -> None:
        """Report what still waits as a count of repeats. Call when a request ends, or repeats may be lost."""
        self._reports.flush()

    def close(self) -> None:
        """Take the hooks off the calling thread (thread isolation) and report what still waits."""
        if self._detach is not None:
            self._detach()
        self.flush()

    def after_fork(self) -> None:
        """Start afresh in a child of the guest: what the parent has to report stays the parent's."""
        self._reports.forget()
        self._announced.forget()
        self._busy.clear()

    def builtins(self) -> dict[str, Any]:
        """Return builtins whose `__import__` asks first, for the globals of a guest on a host thread."""
        return {**vars(builtins), "__import__": checked_import(lambda: self.imports)}

    def suspended(self) -> Suspended:
        """Ask nothing on this thread: for the runtime's own operations in the guest's process."""
        return Suspended(self._busy)

    # -- operations -----------------------------------------------------------------------------------------

    def callback(self, event: str, args: tuple[Any, ...]) -> int:
        """Decide one audit event: return what `answers` makes of it (0: nothing to say) or raise PolicyError."""
        found = OPERATIONS.get(event)
        ident = get_ident()
        if ident in self._busy:
            return 0
        self._busy.add(ident)
        try:
            if self._reports.waiting:
                self._reports.tick()
            if found is None:
                return self._own(event, args)
            try:
                operations = found[0](args)
            except DoneWithout as instead:
                raise instead.error from None
            except (RecursionError, MemoryError):
                raise  # a guest at the end of its stack must not get round the question
            except Exception:  # arguments of a shape that the call itself will refuse; else the kernel decides
                return answers.nothing_asked(event)
            done = self._decide_all(operations, args, found[1], 0, event)
            return OF_INTERPRETER.get(id(operations), done)
        finally:
            self._busy.discard(ident)

    def ask_all(
        self, operations: Sequence[Operation], args: tuple[Any, ...] = (), syscall: str = "", hook: str = "ask"
    ) -> int:
        """Decide operations that raise no audit event (`wrappers`), maybe none; `hook`: who asks (`announced`)."""
        ident = get_ident()
        if ident in self._busy:
            return 0
        self._busy.add(ident)
        try:
            answer = self._decide_all(operations, args, syscall, self._own_sequence(), hook)
            if answer and self._tell is not None:
                self._tell(answer, args[0] if args else None)
            return answer
        finally:
            self._busy.discard(ident)

    def ask(self, capability: Capability, target: str, **facts: Any) -> int:
        """Decide one operation. Raises PolicyError."""
        return self.ask_all(((capability, target, facts),))

    def _ask_own(self, capability: Capability, target: str, **facts: Any) -> int:
        """Decide one operation by the policy in force alone. Raises PolicyError."""
        with self.suspended() as fresh:
            decision = self.peek(capability, target, **facts)
            if fresh and decision.verdict is not Verdict.ALLOW:
                self._refuse(decision, "", self._own_sequence())
            self._last.forget()
            return 0

    def _ask_shadow(self, capability: Capability, target: str, **facts: Any) -> int:
        """Report what the shadow policy would say to one operation."""
        with self.suspended() as fresh:
            if fresh:
                self._consult_shadow(((capability, target, facts),), "", self._own_sequence(), "ask")
            return 0

    def peek(self, capability: Capability, target: str, **facts: Any) -> Decision:
        """Return the broker's decision without reporting or raising. A broker that fails refuses."""
        try:
            return self._broker.decide(capability, target, **facts)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:
            return Decision(
                verdict=Verdict.WOULD_DENY if self.mode is Mode.MONITOR else Verdict.DENY,
                capability=capability,
                target=target,
                code=DenialCode.INTERNAL,
                reason=f"the broker failed ({type(error).__name__})",
            )

    def _own(self, event: str, args: tuple[Any, ...]) -> int:
        if event == "import":
            if args[1] is None and not is_builtin_ctypes(args[0]):
                return 0  # a search for a module; who may name it is decided where it is named
            operations = self.imports.native(args[0], args[1])
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            operations = self.hosts.operations(args[0], args[1] if event == "socket.getaddrinfo" else None)
        else:
            return 0
        return answers.loading(event, self._decide_all(operations, args, "", 0, event))

    def _decide_all(
        self, operations: Sequence[Operation], args: tuple[Any, ...], syscall: str, sequence: int, hook: str
    ) -> int:
        if not operations:
            self._last.forget()
            return answers.nothing_asked(hook)
        verdict, asks, reported, foreseen = answers.ALLOW, False, False, False
        for index, (capability, target, facts) in enumerate(operations):
            if self._shadow is not None and not foreseen:
                foreseen = self._consult_shadow(operations, syscall, sequence, hook, index=index)
            decision = self.peek(capability, target, **facts)
            if decision.verdict is not Verdict.ALLOW:
                verdict = answers.WOULD_DENY
                if self._asked_elsewhere(decision, hook):
                    asks = True
                    continue  # the listener asks the host, and records what comes of it
                if reported and not decision.refused:
                    continue  # enforcing would have ended the call before: one call, one event, which names the rest
                reported = capability.family == "fs"
                if decision.refused or not self._counted(capability, target, hook, False):
                    also = self._also(operations[index + 1 :]) if len(operations) > 1 else ()
                    also = with_all_of_call(also, operations, index, hook)
                    self._refuse(decision, syscall, sequence or self._event_sequence(), also=also)
        if asks:
            self._last.forget()  # what the kernel refuses of it, the broker had not allowed
        else:
            self._last.remember(operations, args, syscall, sequence)
        return answers.asked(hook, operations[0][0], verdict)

    def _asked_elsewhere(self, decision: Decision, hook: str) -> bool:
        """Tell whether the listener asks the host about a call: made or not, of what it names."""
        compiled = self._compiled
        if compiled is None or not compiled.ask or (decision.capability.family == "fs" and hook not in ASKED_ABOUT):
            return False
        if hook != "open" or decision.capability not in WRITES:
            return is_asked_about(compiled, decision)
        return any(is_asked_about(compiled, replace(decision, capability=one)) for one in WRITES)

    def _also(self, operations: Sequence[Operation]) -> tuple[tuple[Capability, str], ...]:
        """Return what else a call about files needs and is not granted, so that one advice serves all of it."""
        files = [one for one in operations if one[0].family == "fs"]
        found = [(one[0], one[1]) for one in files if self.peek(one[0], one[1], **one[2]).code is not None]
        return tuple(dict.fromkeys(found))[:ALSO_LIMIT]

    def _consult_shadow(
        self, operations: Sequence[Operation], syscall: str, sequence: int, hook: str, *, index: int = 0
    ) -> bool:
        """Report what the shadow policy would refuse of one operation; tell whether that is all of its call."""
        assert self._shadow is not None
        (capability, target, facts), *others = operations[index:]
        decision = self._shadow.would_refuse(capability, target, facts)
        if decision is not None and not self._counted(capability, target, hook, True):
            also = tuple([one[:2] for one in others if self._shadow.would_refuse(*one) is not None])[:ALSO_LIMIT]
            also = with_all_of_call(also, operations, index, hook)
            self._refuse(decision, syscall, sequence or self._event_sequence(), shadow=True, also=also)
        return decision is not None and capability.family == "fs"

    def _counted(self, capability: Capability, target: str, hook: str, shadow: bool) -> bool:
        return capability in ANNOUNCED and self._announced.counted((capability, target, shadow), hook)

    def _own_sequence(self) -> int:
        """Number what has no audit event, apart from those that have."""
        self._count += 1
        return _WRAPPED + self._count

    # -- refusals -------------------------------------------------------------------------------------------

    def _refuse(
        self,
        decision: Decision,
        syscall: str,
        sequence: int,
        *,
        shadow: bool = False,
        also: tuple[tuple[Capability, str], ...] = (),
    ) -> None:
        """Report a refusal; raise it unless it is a would-be one."""
        origin = frames.origin()
        record = BrokerRecord(
            sequence=sequence,
            capability=decision.capability,
            target=decision.target,
            verdict=decision.verdict,
            code=decision.code,
            reason=decision.reason,
            rule=decision.rule,
            presented=decision.presented,
            origin=origin,
            tid=get_native_id(),
            monotonic_ns=time.monotonic_ns(),
            syscall=syscall or None,
            also=also,
            of_link=paths.is_unfollowing(),
            shadow=shadow,
        )
        kind = (decision.capability, decision.target, decision.verdict, decision.code, origin, shadow)
        self._reports.add(kind, record)
        if not decision.refused:
            return
        describe = functools.partial(_description, self._policy_context, decision, record)
        error = undescribed(_class_of(decision), describe, errno.EACCES, _REFUSED)
        if isinstance(error, RefusedImport):
            described(error).name = decision.target  # `msg` is a member of ImportError: nothing can stand for it
        elif decision.capability.family == "fs":
            error.filename = decision.target
        error.__dict__[_RECORD] = record
        raise error

    def _context(self) -> SandboxContext:
        compiled = self._compiled
        return SandboxContext(
            sandbox="",
            sandbox_id="",
            policy=compiled.name if compiled is not None else "",
            policy_version=compiled.version if compiled is not None else "",
            policy_generation=compiled.generation if compiled is not None else 0,
            isolation=self._isolation,
            mode=self.mode,
            reasons=compiled.reasons if compiled is not None else {},
            files=compiled.fs if compiled is not None else (),
            unresolved=compiled.unresolved() if compiled is not None else (),
            denied_modules=compiled.denied_modules() if compiled is not None else (),
        )

    # -- what the kernel refused ----------------------------------------------------------------------------

    def attribute(self, error: BaseException) -> BrokerRecord | None:
        """Return the record of the operation that raised an exception: the broker's refusal, or what it had allowed and
        the kernel refused (`errno` is set). None when the error is about something else.

        Reports nothing: see `observe` and `reported`.
        """
        error = stood_for(error)
        known = _notes(error).get(_RECORD)
        if isinstance(known, BrokerRecord):
            return known
        if not is_os_error(error) or isinstance(error, PolicyError) or raised_by_guest(error):
            return None
        if (matched := self._last.match(error)) is None:
            return None
        (capability, target, _facts), syscall, sequence, also = matched
        if self._compiled is not None and self._compiled.mode_of(CATALOGUE[capability].group) is Mode.MONITOR:
            return None  # no enforcer refuses here, so it was the file's own permissions, or the like
        record = BrokerRecord(
            sequence=sequence or self._event_sequence(),
            capability=capability,
            target=target,
            verdict=Verdict.ALLOW,
            reason="allowed by the policy",
            origin=frames.origin() or _raised_at(error),
            tid=get_native_id(),
            monotonic_ns=time.monotonic_ns(),
            errno=number_of(error),
            syscall=syscall or None,
            also=also,
        )
        _notes(error)[_RECORD] = record
        return record

    def made_no_process(self, error: BaseException) -> bool:
        """Tell whether the kernel refused, for the time being, a process that the broker had allowed."""
        return self._last.made_no_process(error)

    def reported(self, error: BaseException) -> bool:
        """Tell whether the record of an exception has been reported already."""
        error = stood_for(error)
        return isinstance(error, (PolicyError, RefusedImport)) or _notes(error).get(_REPORTED) is True

    def observe(self, error: BaseException) -> BrokerRecord | None:
        """Attribute an exception and report it once: repeats and re-raises of the same object count once."""
        if (ident := get_ident()) in self._busy:
            return None
        self._busy.add(ident)
        try:
            record = self.attribute(error)
            if record is not None and not self.reported(error):
                _notes(stood_for(error))[_REPORTED] = True
                self._reports.add((record.capability, record.target, record.errno, record.origin), record)
            return record
        finally:
            self._busy.discard(ident)


def _notes(error: BaseException) -> dict[str, Any]:
    """Return what hooks remember on an exception: its own dictionary, as exceptions take no weak references."""
    found = object.__getattribute__(error, "__dict__")
    return found if type(found) is dict else {}


def _raised_at(error: BaseException) -> str | None:
    """Return the innermost guest frame of a traceback."""
    trace, found = error.__traceback__, None
    while trace is not None:
        if frames.is_guest(trace.tb_frame):
            code = trace.tb_frame.f_code
            found = f"{code.co_filename}:{trace.tb_lineno or 0} in {code.co_qualname}"
        trace = trace.tb_next
    return found


def _class_of(decision: Decision) -> type[PolicyError | RefusedImport]:
    """Return the class of a refusal's error: what is not in sight is absent to a program."""
    if decision.capability.family == "import":
        return RefusedImport
    absent = decision.capability is Capability.PROCESS_EXEC and not paths.present(decision.target)
    return RefusedProgram if absent else PolicyError


def _description(context: SandboxContext, decision: Decision, record: BrokerRecord) -> RefusalFields:
    """Return what the guest may know of a refusal, with a preliminary event, which the host's own replaces."""
    event: DenialEvent | None = None
    try:
        event = merge(context, record, None, suggest=suggestion_unseen, event_id=_PRELIMINARY)
        since_s = (time.monotonic_ns() - event.monotonic_ns) / 1e9
        event = replace(event, time=event.time - since_s)  # when it was refused, and not when it is described
    except Exception:  # a refusal is raised whether or not it can be described
        _log.debug("denial event failed", exc_info=True)
    return {
        "operation": decision.capability.value,
        "subject": show_target(decision.target),
        "cause": (decision.reason or "not granted") + (event.said if event is not None else ""),
        "denial_event": event,
        "hint": hint(decision, None if event is None else event.suggestion),
        "errno": errno.EACCES,
    }


def hint(decision: Decision, suggested: dict[str, Any] | None) -> str | None:
    """Return what to do next: the rule that decides, or the piece of policy that would allow it."""
    if decision.code is DenialCode.ALWAYS_DENIED:
        return "no policy can grant this"
    if decision.code is DenialCode.EXPLICIT_DENY and decision.rule is not None:
        return f"remove or narrow the rule {decision.rule}"
    if hide_user_information(decision.target) != decision.target:
        return None  # a rule would hold a password
    if suggested is None:
        return None
    if decision.capability is Capability.IMPORT_MODULE and "native" in suggested["import"]:
        plain = {"import": {"allow": suggested["import"]["native"]}}  # a guest does not see what is installed
        return (
            f"if it is installed, add to the policy: {_json(plain)}, "
            f"or, where it has or requires native code: {_json(suggested)}"
        )
    return f"add to the policy: {_json(suggested)}"


def _json(piece: dict[str, Any]) -> str:
    """Return a piece of policy as text: in C, which needs no builtins that a guest may have replaced."""
    return msgspec.json.format(msgspec.json.encode(piece), indent=0).decode()
