"""What runs for one handle, whatever its isolation: state, output, messages, limits of both, errors, the end.

A handle (`Sandbox`, `SandboxThread`) is what users hold; its session is what the supervisor and the cell's channel
talk to. `CellSession` and `ThreadSession` add how guest code is reached and how it is stopped.
"""

from __future__ import annotations

import abc
import copy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from ..actor import Caller, current_caller
from ..capability import Capability
from ..cell import wire
from ..cell.described import stub_text
from ..choices import Isolation
from ..errors import (
    GuestError,
    LimitExceeded,
    MessagesExceeded,
    OutputExceeded,
    SandboxClosed,
    SandboxDied,
    SandboxError,
    TimeoutError,
)
from ..telemetry.policy_error import policy_error
from .ask import Questions
from .denials import Denials
from .failed import as_kept, keep_traceback
from .hints import hint_of_failure, hint_of_refusal
from .host_function import HostCalls
from .mailbox import Mailbox
from .observe import Observation
from .received import Sink
from .request import check_seconds, is_callers
from .result import Output, OutputCallback, Result, Stats, check_callbacks, take_all
from .rich import RichOutput
from .waiting import WaitingCalls

if TYPE_CHECKING:
    import asyncio

    from ..cell.described import Description
    from ..decision import DenialCode
    from ..enforcement import EnforcementReport
    from ..kernel.binding import KernelBinding
    from ..kernel.prepared import Prepared
    from ..limits.usage import Usage
    from ..policy import Policy
    from ..policy.compiled import CompiledPolicy, Limits
    from ..records import AskAnswer, SandboxContext
    from ..telemetry.event import DenialEvent
    from ..telemetry.pipeline import SandboxTelemetry
    from ..telemetry.recorder import Recorder
    from .host import Host
    from .host_function import Offer, Outcome
    from .request import Work

State = Literal["starting", "idle", "running", "ended", "closed"]

#: A guest that was interrupted has so long to end its request; then its cell is killed (seconds).
INTERRUPT_GRACE_S = 0.5
#: What a guest may have posted and the host has not received yet (encoded bytes); the host keeps it.
_MAX_WAITING_BYTES = 64 << 20


class Session(abc.ABC):
    """One guest with its policy. Requests run one after the other; everything else may come from any thread."""

    isolation: ClassVar[Isolation]

    def __init__(
        self,
        host: Host,
        policy: Policy,
        prepared: Prepared,
        context: SandboxContext,
        telemetry: SandboxTelemetry,
        kernel: KernelBinding,
    ) -> None:
        self.id = context.sandbox_id
        self.host = host
        self.policy, self.context = policy, context
        #: the policy's kernel tables, kept while this sandbox lives
        self.prepared = prepared
        self.compiled: CompiledPolicy = prepared.compiled
        #: this sandbox at every enforcer
        self.kernel = kernel
        self.denials = Denials(telemetry, kernel, lambda: self.pid)
        self.denials.watch(prepared.shadow)
        self.report: EnforcementReport | None = None
        self.mailbox = Mailbox()
        self.outputs = {"stdout": Output(), "stderr": Output()}
        self._shown: list[RichOutput] = []
        self._shown_bytes = 0
        self._own_callbacks: dict[str, OutputCallback | None] = {"stdout": None, "stderr": None}
        self.state: State = "starting"
        #: why it was ended: the first reason is the one that callers see
        self.ending: SandboxError | None = None
        self.state_lock = threading.Lock()
        self.reload_lock = threading.Lock()
        #: set by the supervisor: no request, `close` has given the session back
        self.released = threading.Event()
        #: set once no more events can come
        self.finished = threading.Event()
        self.started = time.monotonic()
        self.requests = self.output_bytes = self.messages = 0
        #: a callback reads the output of the request that runs
        self.streaming = False
        #: where this sandbox's events are recorded
        self.recorder: Recorder = telemetry.recorder
        #: the functions of the host that the guest may call
        self.calls = HostCalls(self)
        #: what the host is asked about, and the calls that wait for it
        self.questions = Questions(self)
        self.waiting = WaitingCalls(self, self.questions.take, self.questions.forget_file)
        self._descriptions: dict[str, Description] = {}
        self._own_loop: asyncio.AbstractEventLoop | None = None

    # -- what each isolation has of its own -----------------------------------------------------------------

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """Process id that events bear, as the host sees it."""

    @abc.abstractmethod
    def submit(
        self,
        work: Work,
        timeout: float | None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Result:
        """Run one request and return its result, or raise."""

    @abc.abstractmethod
    def post(self, obj: Any) -> None:
        """Send an object to the guest's `recv`."""

    @abc.abstractmethod
    def define(self, descriptions: tuple[Description, ...]) -> None:
        """Let the guest see functions of the host, which `calls` knows already."""

    @abc.abstractmethod
    def answer_call(self, answer: wire.HostAnswer) -> None:
        """Send the guest what came of its call of a function of the host."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stop the guest now, or as soon as this isolation can. Called under `state_lock`, maybe twice."""

    @abc.abstractmethod
    def usage(self) -> Usage | None:
        """Return what the guest uses now, None where there is no such reading."""

    def host_used_s(self) -> float | None:
        """Return the processor time of the host for what the guest sent and asked; None: the guest runs in it."""
        return None

    def wait_stopped(self) -> None:  # noqa: B027 - nothing to wait for where the kernel ends the guest
        """Wait for what must have stopped before the session is given back."""

    def diagnose(self, failure: wire.Failed) -> LimitExceeded | None:
        """Return the limit that an exception which the guest did not catch stands for, or None."""
        return None

    def ended_error(self) -> SandboxError:
        """Return why nothing runs here any more. The first reason counts."""
        return self.ending or SandboxClosed(f"sandbox {self.name!r} is closed")

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that `spawn` was given."""
        return self.context.sandbox

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.compiled.limits

    @property
    def closed(self) -> bool:
        """True once nothing can run here any more."""
        return self.state in ("closed", "ended")

    def stats(self) -> Stats:
        """Return current readings."""
        usage = self.usage()
        return Stats(
            state=self.state,
            uptime_s=time.monotonic() - self.started,
            cpu_s=None if usage is None else usage.cpu_s,
            memory_bytes=None if usage is None or usage.source == "thread" else usage.memory_bytes,
            memory_peak_bytes=None if usage is None or usage.source == "thread" else usage.memory_peak_bytes,
            processes=None if usage is None or usage.source == "thread" else usage.processes,
            requests=self.requests,
            output_bytes=self.output_bytes,
            messages=self.messages,
            denials=self.denials.total,
            events_lost=self.denials.lost,
            host_cpu_s=self.host_used_s(),
        )

    def adopt_policy(self, policy: Policy, prepared: Prepared, compiled: CompiledPolicy) -> None:
        """Take another policy, whose kernel tables are in force already."""
        self.policy, self.compiled, self.prepared = policy, compiled, prepared
        self.context = msgspec.structs.replace(
            self.context,
            policy=policy.name,
            policy_version=policy.version,
            policy_generation=compiled.generation,
            mode=compiled.mode,
            reasons=compiled.reasons,
            files=compiled.fs,
            unresolved=compiled.unresolved(),
            denied_modules=compiled.denied_modules(),
        )
        self.denials.set_context(self.context)

    # -- requests -------------------------------------------------------------------------------------------

    def stream_to(self, on_stdout: OutputCallback | None, on_stderr: OutputCallback | None) -> None:
        """Call these with what the guest writes, unless a request brings its own."""
        self._own_callbacks = {"stdout": on_stdout, "stderr": on_stderr}

    def begin(self, on_stdout: OutputCallback | None, on_stderr: OutputCallback | None) -> None:
        """Note that a request starts, and who reads its output. Raises TypeError."""
        if on_stdout is not None or on_stderr is not None:
            check_callbacks(on_stdout, on_stderr)
        self.outputs["stdout"].callback = out = on_stdout or self._own_callbacks["stdout"]
        self.outputs["stderr"].callback = err = on_stderr or self._own_callbacks["stderr"]
        self.streaming = out is not None or err is not None
        self.denials.begin_request()
        self.requests += 1
        self.state = "running"

    def request(self, on_stdout: OutputCallback | None, on_stderr: OutputCallback | None) -> Observation:
        """Begin a request, to be run in what is returned."""
        self.begin(on_stdout, on_stderr)
        return Observation(self)

    def set_traceparent(self, value: str | None) -> None:
        """Let events bear the trace context of the request that runs."""
        if value != self.context.traceparent:
            self.context = msgspec.structs.replace(self.context, traceparent=value)
            self.denials.set_context(self.context)

    def budget(self, timeout: float | None) -> float | None:
        """Return the seconds that a request may take: `timeout` or `limits.wall`, the smaller; None is no bound."""
        wall = self.compiled.limits.wall_s
        if timeout is None or wall is None:
            return timeout if wall is None else wall
        return min(timeout, wall)

    def time_limit(self, budget: float | None, timeout: float | None, outcome: str, hint: str) -> TimeoutError:
        """Record that a request's time is up, and return the error for it."""
        limit = "timeout" if is_callers(budget, timeout) else "wall"
        event = self.denials.limit(Capability.LIMIT_WALL, f"{budget} s", f"{limit} of {budget} s passed")
        return TimeoutError(
            f"run in {self.name!r}: {outcome} after {budget} s ({limit})",
            limit=limit,
            used=budget,
            allowed=budget,
            denial_event=event,
            hint=hint,
        )

    def failure(self, answer: wire.Failed) -> SandboxError:
        """Return the error for an exception that the guest did not catch."""
        answer = as_kept(answer)
        event = self.denials.of_failure(answer)
        error: SandboxError
        if event is not None:
            error = policy_error(event, hint_of_refusal(self.prepared, event))
        elif (limited := self.diagnose(answer)) is not None:
            error = limited
        elif self.ending is not None:
            return self.ended_error()  # a limit ended it since: what was read just now is what that left
        else:
            hint = hint_of_failure(self.prepared, answer) or self.denials.hint_of(answer)
            error = GuestError(answer.type_name, answer.message, answer.traceback, shown=answer.shown, hint=hint)
        self.give_output(error)
        keep_traceback(error, answer)
        return error

    def give_output(self, error: SandboxError) -> None:
        """Put on an error what the guest wrote in this request, and what it was refused."""
        error.denials = self.denials.of_request()
        for name, taken in self.take_written().items():
            setattr(error, name, taken)

    # -- functions of the host ------------------------------------------------------------------------------

    def offer(self, offer: Offer) -> None:
        """Let the guest call these functions from now on."""
        self._own_loop = self._own_loop or offer.loop
        self.calls.add(offer if offer.loop is not None else replace(offer, loop=self._own_loop))
        self._descriptions.update((one.name, one) for one in offer.descriptions)
        self.define(offer.descriptions)

    def function_stubs(self) -> str:
        """Return the functions that the guest may call, as type stubs."""
        return "\n\n".join(stub_text(one) for one in self._descriptions.values())

    def caller(self) -> Caller:
        """Return this sandbox as guards know it."""
        return self

    def attach(self, event: DenialEvent) -> None:
        """Show an event among those of the request that runs."""
        self.denials.attach([event])

    def refuse(self, capability: Capability, target: str, code: DenialCode, reason: str) -> DenialEvent:
        """Record what the host refused the guest."""
        return self.denials.host(capability, target, code, reason)

    def count_call(self, outcome: Outcome) -> None:
        """Count a call of a function of the host."""
        self.recorder.metrics.host_calls.add((self.context.policy, outcome))

    def call_in(self, seconds: float, call: Callable[[], None]) -> None:
        """Run a short call after a while."""
        self.recorder.timer.call_in(seconds, call)

    def count_question(self, answer: AskAnswer) -> None:
        """Count a question."""
        self.recorder.metrics.questions.add((self.context.policy, answer))

    def start_call(self, call: Callable[[], None]) -> None:
        """Run a call of a function of the host on a thread of the supervisor."""
        self.host.start_call(call)

    def start_look(self, call: Callable[[], None]) -> None:
        """Run a look at a file that a question is to be about on a thread of the supervisor."""
        self.host.start_look(call)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the supervisor's own event loop."""
        return self.host.event_loop()

    def check_caller(self) -> None:
        """Raise SandboxError in a function that its guest called, or in its `on_ask`: its request waits for them."""
        called = "a function that its own guest called" if current_caller() is self else ""
        if self.questions.are_answered_here() and self.state == "running":
            called = "on_ask, whose answer its own request may wait for"
        if called:
            raise SandboxError(
                f"run in {self.name!r}: called from {called}",
                hint="one request at a time: return what the guest needs, or run it in another sandbox",
            )

    def may_wait_for_host(self) -> bool:
        """Tell whether the request that runs may wait for this very call: it asked, or called a function."""
        return self.questions.is_put or current_caller() is self

    # -- output and messages --------------------------------------------------------------------------------

    def take_output(self, stream: str, data: bytes) -> None:
        """Collect output of the guest's; too much ends the sandbox."""
        self.feed(self.outputs[stream], data)

    def feed(self, sink: Output | Sink, data: bytes) -> None:
        """Give a sink what the guest wrote, as far as `limits.output` goes. More ends the sandbox."""
        if self.ending is not None:
            return
        allowed = self.limits.output_bytes
        with self.state_lock:  # programs that run beside a request write, too
            self.output_bytes += len(data)
            written = self.output_bytes
        over = 0 if allowed is None else max(0, written - allowed)
        if fits := data[:-over] if over else data:
            sink.feed(fits)
        if over and allowed is not None:
            event = self.denials.limit(Capability.LIMIT_OUTPUT, f"{allowed} bytes", f"{written} bytes were written")
            hint = "raise limits.output, or write results to a granted file"
            self._too_much(f"{written} bytes", written, allowed, event, hint)

    def take_message(self, encoded: bytes) -> None:
        """Queue an object that the guest posted; too many, or too large a sum, end the sandbox."""
        allowed = self.limits.messages
        self.messages += 1
        if allowed is not None and self.messages > allowed:
            self._too_many(f"{allowed} messages", "were posted", self.messages, allowed, "post less often")
            return
        wire.check_value(encoded)  # decoded by its receiver: until then it takes what it took on the wire
        self.mailbox.put(encoded)
        if (waiting := self.mailbox.waiting_bytes) > _MAX_WAITING_BYTES:
            what = "were posted and not received"
            self._too_many(f"{_MAX_WAITING_BYTES} bytes", what, waiting, _MAX_WAITING_BYTES, "receive them")

    def take_shown(self, frame: wire.Shown) -> None:
        """Keep what the guest displays until its request ends; too much ends the sandbox."""
        output = RichOutput(kind=frame.kind, data={**frame.text, **frame.data}, metadata=frame.metadata)
        self._shown.append(output)
        self._shown_bytes += output.size_bytes
        if len(self._shown) <= wire.MAX_SHOWN and self._shown_bytes <= 2 * wire.MAX_SHOWN_BYTES:
            return
        what = f"{len(self._shown)} outputs of {self._shown_bytes} bytes"
        event = self.denials.limit(Capability.LIMIT_OUTPUT, f"{wire.MAX_SHOWN} outputs", f"{what} were displayed")
        hint, allowed = "display less, or write results to a granted file", 2 * wire.MAX_SHOWN_BYTES
        self._too_much(f"{what} displayed in one request", self._shown_bytes, allowed, event, hint)

    def _too_much(self, what: str, used: int, allowed: int, event: DenialEvent, hint: str) -> None:
        text = f"output of {self.name!r}: {what}"
        self.end_with(OutputExceeded(text, limit="output", used=used, allowed=allowed, denial_event=event, hint=hint))

    def take_written(self) -> dict[str, Any]:
        """Take what the request wrote and displayed, as fields of a `Result`, and start anew."""
        taken = take_all(self.outputs)
        if self._shown:
            taken["outputs"] = tuple(self._shown)
            self._shown, self._shown_bytes = [], 0
        return taken

    def _too_many(self, limit: str, what: str, used: int, allowed: int, hint: str) -> None:
        if self.ending is not None:
            return
        event = self.denials.limit(Capability.LIMIT_MESSAGES, limit, f"more than {limit} {what}")
        self.end_with(
            MessagesExceeded(
                f"post in {self.name!r}: more than {limit}",
                limit="messages",
                used=used,
                allowed=allowed,
                denial_event=event,
                hint=f"{hint}, or raise limits.messages" if limit.endswith("messages") else f"{hint}, or post less",
            )
        )

    def take(self, timeout: float | None, given_up: threading.Event | None = None) -> bytes:
        """Wait for a message and take it, encoded. Raises TimeoutError, CancelledError where `given_up` is set."""
        check_seconds("recv: timeout", timeout)
        encoded = self.mailbox.take(timeout, lambda: copy.copy(self.ended_error()) if self.closed else None, given_up)
        if encoded is None:
            raise TimeoutError(f"recv from {self.name!r}: no message within {timeout} s", limit="timeout")
        return encoded

    def decode(self, encoded: bytes, what: str, decode: Callable[[bytes], Any] = wire.decode_value) -> Any:
        """Decode a value of the guest's; one that breaks the protocol ends the sandbox."""
        try:
            return decode(encoded)
        except wire.WireError as error:
            self.end(f"protocol violation: {error}")
            raise SandboxDied(f"{what} {self.name!r}: the cell was killed: {error}") from None

    # -- the end --------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise why nothing runs here any more, if so."""
        if self.closed or self.ending is not None:
            raise copy.copy(self.ended_error())  # each raise adds its frames, and threads may raise at once

    def end(self, reason: str) -> None:
        """Stop the guest on the runtime's own account; requests say why."""
        self.end_with(SandboxClosed(f"sandbox {self.name!r}: {reason}"))

    def end_with(self, error: SandboxError) -> None:
        """Stop the guest; the first error given is the one that callers see."""
        with self.state_lock:
            if self.ending is None:
                self.ending = error
            self.stop()
        self.calls.close()
        self.questions.close()
        self.waiting.close()

    def close(self) -> None:
        """Stop the guest for good. Stored events stay readable. Idempotent."""
        if self.state == "closed":
            return
        self.end_with(SandboxClosed(f"sandbox {self.name!r} is closed"))
        self.wait_stopped()
        self.state = "closed"
        self.host.release(self.id)
        self.mailbox.wake()

    def abandon(self) -> None:
        """In a forked child of the host: this is a copy of a sandbox that the parent runs."""
        self.state_lock, self.mailbox = threading.Lock(), Mailbox()
        self.ending = SandboxClosed(
            f"sandbox {self.name!r}: it belongs to the process that was forked", hint="spawn one in this process"
        )
        self.waiting.abandon()
        self.state = "closed"
        self.finished.set()
