"""The host's handle to one sandbox, in process isolation."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import cloudpickle
import msgspec

from .asynchronous import AsyncCalls
from .capability import Capability
from .cell import wire
from .cell.channel import Backlog, Channel
from .decision import Verdict
from .errors import (
    GuestError,
    MessagesExceeded,
    OutputExceeded,
    SandboxClosed,
    SandboxDied,
    SandboxError,
    TimeoutError,
)
from .limits.usage import TreeReader
from .mailbox import Mailbox
from .result import Output, OutputCallback, Result, Stats
from .telemetry.event import DenialEvent, KernelRecord, SandboxContext
from .telemetry.refusal import policy_error
from .telemetry.untrusted import InvalidRecord

if TYPE_CHECKING:
    from .kernel.enforcer import EnforcementReport
    from .kernel.plan import Prepared
    from .kernel.trace import Tracer
    from .limits.cgroup import CgroupLease
    from .policy import Policy
    from .policy.compiled import CompiledPolicy, Limits
    from .supervisor import Supervisor

_log = logging.getLogger("pyisolate.sandbox")
_LAST_WORDS_BYTES = 4096
#: What a guest may have posted and nobody received yet (bytes on the wire); the host keeps it.
_MAX_WAITING_BYTES = 64 << 20
#: Grace for a killed cell to be reaped before the host stops waiting (seconds).
_REAP_TIMEOUT_S = 5.0


class Sandbox(AsyncCalls):
    """One guest with its policy, in a cell of its own. Made by `spawn`; a context manager that kills on exit.

    Methods may be called from any thread; requests of one sandbox run one after the other.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        policy: Policy,
        prepared: Prepared,
        context: SandboxContext,
        channel: Channel,
        lease: CgroupLease | None,
        *,
        spare: bool = False,
    ) -> None:
        self.name, self.id = context.sandbox, context.sandbox_id
        self.isolation = "process"
        self._supervisor = supervisor
        self._policy, self._context = policy, context
        self._compiled: CompiledPolicy = prepared.compiled
        #: its cell is confined, and nobody has asked for it yet
        self.spare = spare
        self._channel, self._lease = channel, lease
        self._report: EnforcementReport | None = None
        self._outputs = {"stdout": Output(), "stderr": Output()}
        self._stream_callbacks: dict[str, OutputCallback | None] = {"stdout": None, "stderr": None}
        self._last_words = bytearray()
        self._mailbox = Mailbox()
        self._state = "starting"
        self._ending: SandboxError | None = None
        self._state_lock = threading.Lock()
        self.forgotten = threading.Event()
        #: set once nothing can be told of it any more
        self.finished = threading.Event()
        self.reload_lock = threading.Lock()
        #: the policy's kernel tables, kept while this sandbox lives
        self.prepared: Prepared | None = prepared
        self._started = time.monotonic()
        self._requests = self._output_bytes = self._message_count = 0
        self._fresh_events: dict[int, DenialEvent] = {}
        self._request_events: dict[str, DenialEvent] = {}
        self._deadline: float | None = None
        self.telemetry = supervisor.telemetry_of(context)
        self.telemetry.watch(prepared.shadow)

    def become(self, context: SandboxContext, policy: Policy) -> None:
        """A spare is spawned: from now on it is the sandbox that `context` names."""
        self.name, self._context, self.telemetry.context = context.sandbox, context, context
        self._policy, self._started = policy, time.monotonic()
        self._state, self.spare = "idle", False

    def stream_to(self, on_stdout: OutputCallback | None, on_stderr: OutputCallback | None) -> None:
        """Call these with what the guest writes, unless a request brings its own."""
        self._stream_callbacks = {"stdout": on_stdout, "stderr": on_stderr}

    def __repr__(self) -> str:
        return f"<Sandbox {self.name!r} {self._state} policy={self._context.policy} pid={self.pid}>"

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the cell, as the host sees it."""
        return self._channel.pid

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def enforcement(self) -> EnforcementReport:
        """Who enforces what here, and everything that is missing. The guest has no say in it."""
        assert self._report is not None
        return self._report

    @property
    def closed(self) -> bool:
        """True once nothing can run here any more."""
        return self._state in ("closed", "ended")

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self._compiled.limits

    @property
    def stats(self) -> Stats:
        """Current readings."""
        usage = self._supervisor.usage_of(self)
        return Stats(
            state=self._state,
            uptime_s=time.monotonic() - self._started,
            cpu_s=None if usage is None else usage.cpu_s,
            memory_bytes=None if usage is None else usage.memory_bytes,
            memory_peak_bytes=None if usage is None else usage.memory_peak_bytes,
            processes=None if usage is None else usage.processes,
            requests=self._requests,
            output_bytes=self._output_bytes,
            messages=self._message_count,
            denials=self.telemetry.store.total,
            events_lost=self.telemetry.store.lost,
        )

    @functools.cached_property
    def tree(self) -> TreeReader:
        """Readings of the cell's process tree, where no control group sums them."""
        return TreeReader(self.pid, memory_limit_bytes=self._compiled.limits.memory_bytes)

    # -- running --------------------------------------------------------------------------------------------

    def exec(
        self,
        source: str,
        *,
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        filename: str | None = None,
    ) -> Result:
        """Run statements; names they define persist. `Result.value` is the last expression's value.

        `timeout` (seconds) bounds this request beside `limits.wall`. Raises PolicyError, GuestError, LimitExceeded
        (TimeoutError, MemoryExceeded ...), SandboxDied, SandboxClosed.
        """
        filename = filename or f"<{self.name}>"
        request = functools.partial(wire.Request, kind="exec", source=source, filename=filename)
        return self._request(request, timeout, on_stdout, on_stderr)

    def run_script(
        self,
        source: str,
        *,
        filename: str,
        argv: tuple[str, ...] = (),
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Result:
        """Run a whole script as `__main__` with `sys.argv`; `Result.exit_code` is what it gave to `sys.exit`."""
        request = functools.partial(
            wire.Request, kind="script", source=source, filename=filename, argv=(filename, *argv)
        )
        return self._request(request, timeout, on_stdout, on_stderr)

    def eval(self, expression: str, *, timeout: float | None = None) -> Any:
        """Return the value of an expression, which must be plain data."""
        request = functools.partial(wire.Request, kind="eval", source=expression, filename=f"<{self.name}>")
        return self._request(request, timeout).value

    def call(self, function: str | Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call "module.function", a name defined by `exec`, or a callable of the host's, sent by value.

        Arguments travel by cloudpickle (host to guest only); the result comes back as plain data.
        """
        if isinstance(function, str):
            payload = cloudpickle.dumps((args, kwargs))
            request = functools.partial(wire.Request, kind="call", source=function, payload=payload)
        else:
            payload = _pickle_by_value(function, args, kwargs)
            request = functools.partial(wire.Request, kind="function", payload=payload)
        return self._request(request, timeout).value

    def post(self, obj: Any) -> None:
        """Send plain data to the guest's `recv`."""
        with self._own_channel():
            self._check_open()
            try:
                self._channel.send(wire.HostMessage(data=obj))
            except (Backlog, wire.WireError) as error:
                raise MessagesExceeded(
                    f"post to {self.name!r}: {error}", limit="messages", hint="the guest must call recv()"
                ) from None

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next object that the guest posted. Raises TimeoutError after `timeout` seconds."""
        return self._received(self._take(timeout))

    def _take(self, timeout: float | None, given_up: threading.Event | None = None) -> bytes:
        encoded = self._mailbox.take(timeout, lambda: self._closed_error() if self.closed else None, given_up)
        if encoded is None:
            raise TimeoutError(f"recv from {self.name!r}: no message within {timeout} s", limit="timeout")
        return encoded

    def _put_back(self, encoded: bytes) -> None:
        self._mailbox.put_back(encoded)

    def _wake(self) -> None:
        self._mailbox.wake()

    def _received(self, encoded: bytes) -> Any:
        return self._decode(encoded, "recv from")

    def _is_open(self) -> bool:
        return self._state != "closed"

    def _decode(self, encoded: bytes, what: str) -> Any:
        try:
            return wire.decode_value(encoded)
        except wire.WireError as error:
            self.end(f"protocol violation: {error}")
            raise SandboxDied(f"{what} {self.name!r}: the cell was killed: {error}") from None

    def _request(
        self,
        make: Callable[..., wire.Request],
        timeout: float | None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Result:
        with self._own_channel():
            self._check_open()
            self._begin(on_stdout, on_stderr)
            streaming = self._outputs["stdout"].callback is not None or self._outputs["stderr"].callback is not None
            wall = self._compiled.limits.wall_s
            budget = min((limit for limit in (timeout, wall) if limit is not None), default=None)
            self._deadline = None if budget is None else time.monotonic() + budget
            try:
                self._ask(make, streaming)
                answer = self._channel.wait_answer(self._deadline)
            except SandboxError:
                raise
            except BaseException as error:  # Ctrl-C, or a callback for output that raised: nobody reads the answer
                self.end(f"its request was abandoned: {type(error).__name__}")
                raise
            finally:
                self._supervisor.watch.request_ended(self, self._deadline)
            return self._conclude(answer, budget, timeout)

    def _ask(self, make: Callable[..., wire.Request], streaming: bool) -> None:
        conversation = self._channel.conversation
        try:
            number = conversation.start_request()
        except wire.WireError as error:  # a callback for output asks, in the middle of a request
            raise SandboxError(f"run in {self.name!r}: {error}", hint="one request at a time") from None
        try:
            self._channel.send(make(id=number, line_buffered=streaming))
        except (Backlog, wire.WireError) as error:
            conversation.cancel_request()
            self._state = "idle"
            raise SandboxError(f"run in {self.name!r}: {error}") from None

    def _begin(self, on_stdout: OutputCallback | None, on_stderr: OutputCallback | None) -> None:
        self._outputs["stdout"].callback = on_stdout or self._stream_callbacks["stdout"]
        self._outputs["stderr"].callback = on_stderr or self._stream_callbacks["stderr"]
        self._request_events = {}
        self._requests += 1
        self._state = "running"

    def _conclude(self, answer: wire.GuestFrame | None, budget: float | None, timeout: float | None) -> Result:
        self._supervisor.settle(self)
        if answer is not None and self._ending is not None:
            raise self._wait_ended()  # a limit, or the host, ended it while its answer was on the way
        if isinstance(answer, wire.Done):
            self._state = "idle"
            return self._result(answer)
        if isinstance(answer, wire.Failed):
            self._state = "idle"
            raise self._guest_failure(answer)
        if self._channel.ended is None:
            self._timed_out(budget, timeout)
        raise self._wait_ended()

    def _result(self, answer: wire.Done) -> Result:
        value = self._decode(answer.encoded, "run in")
        return Result(
            stdout=self._outputs["stdout"].take(),
            stderr=self._outputs["stderr"].take(),
            value=value,
            duration=answer.duration_s,
            denials=tuple(self._request_events.values()),
            value_is_repr=answer.is_repr,
            exit_code=answer.exit_code,
        )

    def _guest_failure(self, answer: wire.Failed) -> SandboxError:
        event = self._fresh_events.get(answer.sequence) if answer.sequence is not None else None
        if event is None and (answer.type_name == "PolicyError" or answer.errno in (1, 13)):
            event = self._event_behind(answer)
        error: SandboxError
        if event is not None:
            error = policy_error(event)
        elif (limited := self._supervisor.limit_behind(self, answer)) is not None:
            error = limited
        elif self._ending is not None:
            return self._wait_ended()  # a limit ended it since: what was read just now is what that left
        else:
            error = GuestError(answer.type_name, answer.message, answer.traceback)
        error.stdout = self._outputs["stdout"].take()
        error.stderr = self._outputs["stderr"].take()
        if not isinstance(error, GuestError):
            error.add_note(answer.traceback)
        return error

    def _event_behind(self, answer: wire.Failed) -> DenialEvent | None:
        """The last refusal of this request that fits an exception which no record names."""
        for event in reversed(self._request_events.values()):
            if answer.type_name == "PolicyError" and event.broker_decision is Verdict.DENY:
                return event
            if event.kernel_decision is Verdict.DENY and event.kernel_errno == answer.errno:
                return event
        return None

    def _timed_out(self, budget: float | None, timeout: float | None) -> None:
        limit = "timeout" if timeout is not None and timeout == budget else "wall"
        event = self._supervisor.record_limit(
            self, Capability.LIMIT_WALL, f"{budget} s", f"{limit} of {budget} s passed"
        )
        self._end_with(
            TimeoutError(
                f"run in {self.name!r}: it was killed after {budget} s ({limit})",
                limit=limit,
                used=budget,
                allowed=budget,
                denial_event=event,
                hint="raise limits.wall or pass a larger timeout=, or make the guest do less",
            )
        )

    # -- denials --------------------------------------------------------------------------------------------

    def get_denial_events(self) -> list[DenialEvent]:
        """Return the stored denials, oldest first, up to the newest that the host can know of."""
        if self._state == "closed":
            self.finished.wait(_REAP_TIMEOUT_S)
        self._supervisor.settle(self)
        return self.telemetry.store.events()

    def denials(self, timeout: float | None = None) -> Iterator[DenialEvent]:
        """Iterate over denials as they come; ends when the sandbox does, or after `timeout` quiet seconds."""
        return self.telemetry.store.follow(timeout=timeout)

    # -- control --------------------------------------------------------------------------------------------

    def reload_policy(self, policy: Policy, token: str | None = None) -> None:
        """Put another policy in force, without a moment under neither or half of one.

        Raises PolicyAuthError for a wrong token, EnforcementError where the kernel cannot loosen (Landlock).
        """
        self._supervisor.reload_sandbox(self, policy, token)

    def trace(self) -> Tracer:
        """Count this sandbox's system calls and their latencies while the returned tracer is open; see `report`.

        A context manager, by bcc (Debian's python3-bpfcc). Raises TraceUnavailable where bcc, headers or the
        privilege are missing. Source: bcc's raw tracepoints.
        """
        from .kernel.trace import Tracer

        cgroup = self._lease.v2_path if self._lease is not None else None
        return Tracer([self.pid], cgroup=cgroup)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest; native code that never returns does not notice."""
        self._channel.signal(signal.SIGINT)

    def kill(self, token: str | None = None, *, reason: str = "killed by the host") -> None:
        """End the sandbox at once, with every process in it. Safe from any thread, and twice.

        Raises PolicyAuthError where `set_policy_token` guards it and `token` is another; `close` is always free.
        """
        self._supervisor.check_token(self, token, "kill")
        self.end(reason)

    def end(self, reason: str) -> None:
        """Kill the sandbox on the runtime's own account; requests say why."""
        self._end_with(SandboxClosed(f"sandbox {self.name!r}: {reason}"))

    def close(self) -> None:
        """End the sandbox: every process in it is killed. Stored events stay readable.

        Returns at once; the kernel takes a cell apart in about a millisecond, and `Supervisor.close` waits for all.
        """
        if self._state == "closed":
            return
        self._end_with(SandboxClosed(f"sandbox {self.name!r} is closed"))
        self._state = "closed"
        self._supervisor.forget(self)
        self._mailbox.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_with(self, error: SandboxError) -> None:
        """Kill the cell; the first reason given is the one that callers see."""
        with self._state_lock:
            if self._ending is None:
                self._ending = error
            self._channel.signal(signal.SIGKILL)
            if self._lease is not None:
                try:
                    self._lease.kill()
                except OSError as trouble:
                    # The cell is the init of its pid namespace: its death alone ends every process in it.
                    _log.warning("ending the control group of %s: %s", self.name, trouble)

    def let_go(self) -> None:
        """Its cell is reaped: the control group is about to be another sandbox's, and not this one's to kill."""
        with self._state_lock:
            self._lease = None

    def abandon(self) -> None:
        """In a forked child of the host: this is a copy of a sandbox that the parent runs."""
        self._state_lock, self._mailbox = threading.Lock(), Mailbox()
        self._ending = SandboxClosed(
            f"sandbox {self.name!r}: it belongs to the process that was forked", hint="spawn one in this process"
        )
        self._state, self._lease = "closed", None
        self.finished.set()

    def _wait_ended(self) -> SandboxError:
        """Return why the cell is gone, once it is reaped and its exit status known."""
        self._channel.exited.wait(_REAP_TIMEOUT_S)
        self._channel.read_rest()
        self.tell_untold()
        self._state = "ended"
        error = self._ending or self._supervisor.watch.limit_that_killed(self) or self._death()
        error.stdout = self._outputs["stdout"].take()
        error.stderr = self._outputs["stderr"].take()
        self._ending = error
        return error

    def _death(self) -> SandboxDied:
        status = self._channel.exit_status
        last_words = self._last_words.decode("utf-8", "backslashreplace")[-_LAST_WORDS_BYTES:]
        number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        why = self._channel.ended or (
            f"signal {signal.Signals(number).name}" if number else f"exit status {code}" if status is not None else ""
        )
        hint = "native code crashed, or the guest ended its own process" if not self._channel.ended else None
        return SandboxDied(
            f"sandbox {self.name!r} died: {why or 'the zygote died, and its cells with it'}",
            exit_status=code,
            signal=number,
            last_words=last_words,
            hint=hint,
        )

    def _check_open(self) -> None:
        if self._channel.ended is not None and not self.closed:
            self._wait_ended()
        if self.closed or self._ending is not None:
            raise self._closed_error()

    def _closed_error(self) -> SandboxError:
        """Return why nothing runs here any more: what was given as the reason, or how the cell died by itself."""
        if self._ending is None and self._state == "ended":
            return self._wait_ended()
        return self._ending or SandboxClosed(f"sandbox {self.name!r} is closed")

    def _own_channel(self) -> _Owned:
        return _Owned(self._supervisor, self._channel)

    # -- ChannelOwner ---------------------------------------------------------------------------------------

    def on_denial(self, frame: wire.Denial) -> None:
        """Record what the guest's broker refused."""
        try:
            # A guest knows its own pid namespace only; children of the first process are told apart by tid.
            events = self.telemetry.guest(msgspec.structs.replace(frame.record, pid=self.pid))
        except InvalidRecord as error:
            raise wire.WireError(str(error)) from None
        self.note_events(events)
        if events:
            if len(self._fresh_events) > 256:
                self._fresh_events.pop(next(iter(self._fresh_events)))
            self._fresh_events[frame.record.sequence] = events[-1]

    def on_kernel_record(self, record: KernelRecord) -> list[DenialEvent]:
        """Record what an enforcer or the supervisor refused; return the events that are complete now."""
        events = self.telemetry.kernel(record)
        self.note_events(events)
        return events

    def tell_untold(self) -> None:
        """Its cell is dead: record what the guest had been refused and had not reported."""
        if self._channel.exited.is_set():
            for what, count in self._supervisor.plan.take_untold(self.id):
                self.note_events([self.telemetry.untold(what.capability, what.verdict, count, self.pid)])

    def note_events(self, events: list[DenialEvent]) -> None:
        """Remember events for the running request; one that was completed replaces what was known before."""
        if len(self._request_events) < 1000:
            self._request_events.update([(event.event_id, event) for event in events])

    def on_message(self, frame: wire.GuestMessage) -> None:
        """Queue an object that the guest posted; too many end the sandbox."""
        allowed = self._compiled.limits.messages
        self._message_count += 1
        if allowed is not None and self._message_count > allowed:
            self._too_many_messages(f"{allowed} messages", self._message_count, allowed)
            return
        wire.check_value(frame.encoded)  # decoded by whoever receives it: until then it takes what it took on the wire
        self._mailbox.put(frame.encoded)
        if (waiting := self._mailbox.waiting_bytes) > _MAX_WAITING_BYTES:
            self._too_many_messages(f"{_MAX_WAITING_BYTES} bytes", waiting, _MAX_WAITING_BYTES)

    def _too_many_messages(self, limit: str, used: int, allowed: int) -> None:
        if self._ending is not None:
            return
        event = self._supervisor.record_limit(
            self, Capability.LIMIT_MESSAGES, limit, f"more than {limit} were posted and not received"
            if limit.endswith("bytes") else f"more than {limit} were posted"
        )  # fmt: skip
        hint = "receive them, or post less" if limit.endswith("bytes") else "raise limits.messages or post less often"
        self._end_with(
            MessagesExceeded(
                f"post in {self.name!r}: more than {limit}",
                limit="messages",
                used=used,
                allowed=allowed,
                denial_event=event,
                hint=hint,
            )
        )

    def on_output(self, stream: str, data: bytes) -> None:
        """Collect output; too much ends the sandbox."""
        if self._ending is not None:
            return
        allowed = self._compiled.limits.output_bytes
        self._output_bytes += len(data)
        if stream == "stderr":
            self._last_words += data
            del self._last_words[:-_LAST_WORDS_BYTES]
        if allowed is not None and self._output_bytes > allowed:
            event = self._supervisor.record_limit(
                self, Capability.LIMIT_OUTPUT, f"{allowed} bytes", f"{self._output_bytes} bytes were written"
            )
            self._end_with(
                OutputExceeded(
                    f"output of {self.name!r}: {self._output_bytes} bytes",
                    limit="output",
                    used=self._output_bytes,
                    allowed=allowed,
                    denial_event=event,
                    hint="raise limits.output, or write results to a granted file",
                )
            )
            return
        self._outputs[stream].feed(data)

    def on_ended(self, reason: str) -> None:
        """Wake whoever waits for a message that will not come."""
        if self._state != "closed":
            self._state = "ended"
        self._mailbox.wake()


class _Owned:
    """Holds a channel for the calling thread; the reactor serves it again afterwards."""

    __slots__ = ("_channel", "_supervisor")

    def __init__(self, supervisor: Supervisor, channel: Channel) -> None:
        self._supervisor, self._channel = supervisor, channel

    def __enter__(self) -> None:
        self._channel.lock.acquire()
        self._supervisor.reactor.disarm(self._channel)

    def __exit__(self, *_exception: object) -> None:
        # In this order: the reactor is told once, and would pass over a channel that is still owned.
        self._channel.lock.release()
        self._supervisor.reactor.arm(self._channel)


def _pickle_by_value(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a host function with its code: the guest cannot read the module it is defined in."""
    import sys

    module = sys.modules.get(getattr(function, "__module__", "") or "")
    standard = module is None or module.__name__.partition(".")[0] in sys.stdlib_module_names
    if standard or module is None:
        return bytes(cloudpickle.dumps((function, args, kwargs)))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps((function, args, kwargs)))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
