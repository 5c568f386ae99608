"""A guest in a cell, as the host serves it: its requests, what it sends on its own, its limits and its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..cell import values, wire
from ..cell.channel import Answer, Channel
from ..cell.outbox import Backlog
from ..errors import LimitExceeded, MessagesExceeded, SandboxClosed, SandboxDied, SandboxError
from ..kernel.own_permissions import refused_by_mode, user_of
from ..limits.monitor import SandboxLimits
from ..native.channel import Plain
from ..telemetry.guest_records import InvalidRecord
from .failed import as_kept, keep_traceback
from .hints import error_of_death
from .process_end import wait_for_the_end
from .program_places import ProgramPlaces
from .request import Work, encode, is_callers
from .result import OutputCallback, Result, Stats
from .running import ProgramSession
from .session import INTERRUPT_GRACE_S
from .stdin import Feeding
from .workspace import Workspace

if TYPE_CHECKING:
    from ..cell.described import Description
    from ..cell.reactor import Reactor
    from ..kernel.binding import KernelBinding
    from ..kernel.prepared import Prepared
    from ..limits.cgroup import CgroupLease
    from ..limits.usage import Filling, Usage
    from ..limits.watchdog import Watchdog
    from ..policy import Policy
    from ..records import BrokerRecord, SandboxContext
    from ..telemetry.event import DenialEvent
    from ..telemetry.pipeline import SandboxTelemetry
    from .host import Host
    from .running import RunningProgram

_LAST_WORDS_BYTES = 4096
#: Grace for a killed cell to be reaped before the host stops waiting (seconds).
_REAP_TIMEOUT_S = 5.0
#: The pipes of a dying cell close before it is reaped (seconds).
_LOST_TIMEOUT_S = 1.0


class CellSession(ProgramSession):
    """A guest in a cell: the host's end of it. Owns its channel's frames, its control group and its limits."""

    isolation = "process"

    def __init__(
        self,
        host: Host,
        policy: Policy,
        prepared: Prepared,
        context: SandboxContext,
        telemetry: SandboxTelemetry,
        kernel: KernelBinding,
        *,
        channel: Channel,
        reactor: Reactor,
        watchdog: Watchdog,
        lease: CgroupLease | None,
        standby: bool = False,
    ) -> None:
        super().__init__(host, policy, prepared, context, telemetry, kernel)
        self.channel, self._reactor = channel, reactor
        self.programs, self.places = set(), ProgramPlaces()
        self.control = SandboxLimits(self, watchdog, lease)
        self._host_used_s = 0.0
        self.calls.charge = self.charge
        #: its cell is confined, and no `spawn` has taken it yet
        self.standby = standby
        #: the guest's environment, as the hand-out of a standby cell gave it
        self.environment: dict[str, str] | None = None
        self._last_words = bytearray()
        #: what its guest may write, where its policy has one
        self.workspace: Workspace | None = None
        telemetry.by_mode = self._refused_by_mode

    def adopt_identity(self, context: SandboxContext, policy: Policy) -> None:
        """A standby cell is spawned: from now on it is the sandbox that `context` names."""
        self.context, self.policy, self.started = context, policy, time.monotonic()
        self.denials.set_context(context)
        self.state, self.standby = "idle", False
        if self.workspace is not None:
            self.workspace.name = context.sandbox

    @property
    def pid(self) -> int:
        """Process id of the guest."""
        return self.channel.pid

    @property
    def init_pid(self) -> int:
        """Process id of the cell's init, the guest's parent, as the host sees it. All of the cell is below it."""
        return self.channel.init

    def host_used_s(self) -> float:
        """Return the processor time of the host for it.

        For its frames, but the one that ends a request; its calls at the listener and the egress proxy, their records,
        files that it may be asked about; host functions: arguments, refused calls; output of programs.
        """
        spent_s = self.channel.turn.spent_s + self.kernel.spent_s() + self.waiting.spent_s + self.waiting.at_proxy_s()
        self._host_used_s = max(self._host_used_s, spent_s)
        return self._host_used_s

    @property
    def host_held_s(self) -> float:
        """How long its guest was kept waiting, past its budget of the host's time."""
        return self.channel.turn.account.held_s

    def stats(self) -> Stats:
        """Return current readings, also how long its guest was kept waiting: a thread's budget is its limit alone."""
        return msgspec.structs.replace(super().stats(), host_held_s=self.host_held_s)

    def charge(self, processor_s: float) -> float:
        """Charge the guest's turn: its frames wait, as after frames that cost the same. Return how long they do."""
        self.channel.turn.used(processor_s)
        return self.channel.turn.rest_s()

    def usage(self) -> Usage | None:
        """Return what the cell's processes use now, None when they are gone."""
        return self.control.usage()

    def diagnose(self, failure: wire.Failed) -> LimitExceeded | None:
        """Return the limit that an uncaught OSError or MemoryError of the guest stands for, or None."""
        return self.control.diagnose(failure)

    # -- requests -------------------------------------------------------------------------------------------

    def submit(
        self,
        work: Work,
        timeout: float | None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Result:
        """Send a request and read the cell until its answer."""
        self.check_caller()
        frame = encode(work, self.policy)
        try:
            if work.stdin is None:
                return self._serve(frame, work.pipes, timeout, on_stdout, on_stderr)
            with Feeding(work.stdin) as descriptors:
                return self._serve(frame, descriptors, timeout, on_stdout, on_stderr)
        except SandboxClosed:
            wait_for_the_end()
            raise

    def _serve(
        self,
        frame: wire.Request,
        descriptors: Sequence[int],
        timeout: float | None,
        on_stdout: OutputCallback | None,
        on_stderr: OutputCallback | None,
    ) -> Result:
        channel, reactor = self.channel, self._reactor
        try:  # armed last, as by `ChannelGuard`: the reactor would pass over a channel that is still held
            with channel.lock:
                reactor.disarm(channel)
                if self.state != "idle" or self.ending is not None or channel.ended is not None:
                    self._check_idle()
                self.control.set_frozen(False)
                try:
                    with self.request(on_stdout, on_stderr):
                        return self._run(frame, descriptors, timeout)
                finally:
                    if self.compiled.limits.between_requests == "freeze":
                        self._stand_still()
        finally:
            reactor.arm(channel)

    def _check_idle(self) -> None:
        self.check_open()
        if self.state == "running":  # a callback for output asks, in the middle of a request
            raise SandboxError(f"run in {self.name!r}: a request is running", hint="one request at a time")

    def _stand_still(self) -> None:
        """Let the guest stand still until the next request, as `limits.between_requests` says; not a program."""
        if not self.programs:
            self.control.set_frozen(True)

    def program_ended(self, program: RunningProgram) -> None:
        """Forget a program that `popen` had started. What it left running may stay until its deadline."""
        with self.state_lock:
            self.programs.discard(program)
        self.control.request_ended(program.deadline, took_s=time.monotonic() - program.began)
        if self.limits.between_requests == "freeze":
            with self._reactor.borrow(self.channel):
                self._stand_still()

    def program_lost(self) -> None:
        """A program's pipes are closed, as those of a dead cell: one that lives has let go of it, and is ended."""
        if not self.channel.exited.wait(_LOST_TIMEOUT_S):
            self.end("its guest let go of a program that popen had started")

    def why_lost(self) -> SandboxError:
        """Return how the cell ended."""
        with self._reactor.borrow(self.channel):  # a request that ran then has the first word, and the output
            return self._wait_ended() if self.ending is None or not self.closed else self.ending

    def _run(self, frame: wire.Request, descriptors: Sequence[int], timeout: float | None) -> Result:
        """Send a request, read the cell until its answer, and return what it means, or raise."""
        budget, began = self.budget(timeout), time.monotonic()
        deadline = None if budget is None else began + budget
        try:
            frame.id, frame.line_buffered = self.channel.conversation.start_request(), self.streaming
            answer = self.channel.ask(frame, descriptors, deadline)
            late = answer is None and self.channel.ended is None
            if late and budget == timeout:
                answer = self._interrupted_answer(began)
        except (Backlog, wire.WireError) as error:
            self.channel.conversation.cancel_request()
            self.state = "idle"
            raise SandboxError(f"run in {self.name!r}: {error}") from None
        except BaseException as error:  # Ctrl-C, or a callback for output that raised: no caller reads the answer
            if self.running:
                self._abandon_request(error, began, frame)
            raise
        finally:
            self.control.request_ended(deadline, took_s=time.monotonic() - began)
        if late and answer is not None and self.ending is None:
            raise self._interrupted(answer, budget, frame)
        return self._conclude(answer, budget, timeout)

    def _interrupted_answer(self, began: float) -> Answer | None:
        """Raise KeyboardInterrupt in the guest, and give it a moment to end its request; `limits.wall` still holds."""
        until, wall = time.monotonic() + INTERRUPT_GRACE_S, self.limits.wall_s
        self.interrupt()
        return self.channel.wait_answer(until if wall is None else min(until, began + wall))

    def _interrupted(self, answer: Answer, timeout: float | None, request: wire.Request) -> SandboxError:
        """Return the error of a request that was out of time and ended when it was interrupted."""
        self.denials.settle()
        self.state = "idle"
        hint = "the sandbox and its state live on; pass a larger timeout=, or make the guest do less"
        error = self.time_limit(timeout, timeout, "it was interrupted", hint)
        self.give_output(error)
        _show_where(error, answer, request)
        return error

    def _abandon_request(self, error: BaseException, began: float, request: wire.Request) -> None:
        """End a request whose answer no caller reads. Ctrl-C interrupts the guest first, and shows where it was."""
        answer: Answer | None = None
        try:
            if isinstance(error, KeyboardInterrupt) and not self.channel.torn:
                answer = self._interrupted_answer(began)
        finally:  # a second Ctrl-C does not wait
            if answer is not None and self.ending is None:
                _show_where(error, answer, request)
                self.state = "idle"
                self.take_written()
            else:
                self.end(f"its request was abandoned: {type(error).__name__}")

    def _conclude(self, answer: Answer | None, budget: float | None, timeout: float | None) -> Result:
        self.denials.settle()
        if answer is not None and self.ending is not None:
            raise self._wait_ended()  # a limit, or the host, ended it while its answer was on the way
        if isinstance(answer, (Plain, wire.Done)):
            self.state = "idle"
            return self._result(answer)
        if isinstance(answer, wire.Failed):
            self.state = "idle"
            raise self.failure(answer)
        if self.channel.ended is None:
            longer = "pass a larger timeout=" if is_callers(budget, timeout) else "raise limits.wall"
            hint = f"{longer}, or make the guest do less"
            self.end_with(self.time_limit(budget, timeout, "it was killed", hint))
        raise self._wait_ended()

    def _result(self, answer: Plain | wire.Done) -> Result:
        decode = wire.decode_plain if isinstance(answer, Plain) else wire.decode_value
        value = self.decode(answer.encoded, "run in", decode)
        return Result(
            **self.take_written(),
            value=value,
            duration=answer.duration_s,
            denials=self.denials.of_request(),
            value_is_repr=answer.is_repr,
            exit_code=answer.exit_code,
        )

    def post(self, obj: Any) -> None:
        """Send plain data to the guest's `recv`."""
        try:
            encoded, _ = values.encode(obj)
        except (TypeError, ValueError) as error:
            raise type(error)(f"post to {self.name!r}: {type(obj).__name__}: {error}") from None
        self.check_open()
        try:  # without the channel: a request may hold it, whose guest waits for this very message
            self.channel.send(wire.HostMessage(encoded=encoded))
        except (Backlog, wire.WireError) as error:
            raise MessagesExceeded(
                f"post to {self.name!r}: {error}", limit="messages", hint="the guest must call recv()"
            ) from None

    def define(self, descriptions: tuple[Description, ...]) -> None:
        """Let the guest see functions of the host."""
        self.check_open()
        frame = wire.Functions(functions=descriptions)
        try:
            if self.requests:
                self.channel.send(frame)
            else:
                self.channel.send_with_next(frame)  # the guest has nothing that could call before
        except (Backlog, wire.WireError) as error:
            raise SandboxError(f"functions of {self.name!r}: {error}", hint="the guest must read its channel") from None

    def answer_call(self, answer: wire.HostAnswer) -> None:
        """Send the guest what came of its call of a function of the host."""
        if self.channel.ended is not None:
            return
        try:
            self.channel.send(answer)
        except (Backlog, wire.WireError) as error:
            self.end(f"answers of host functions: {error}")

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest, by SIGINT."""
        self.control.let_notice()
        self.channel.signal(signal.SIGINT)

    # -- the end --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Kill the cell and all that it started: its init's end ends all that is below it (pid_namespaces(7))."""
        self.control.hurry()
        if not self.channel.signal(signal.SIGKILL) or "namespaces" not in self.channel.steps:
            self.control.kill()

    def release_lease(self) -> None:
        """Its cell is reaped: the control group is about to be another sandbox's, and not this one's to kill."""
        with self.state_lock:
            self.control.lease = None

    def close(self) -> None:
        """Stop the guest for good, and let its workspace go."""
        super().close()
        if self.workspace is not None:
            self.workspace.close()

    def abandon(self) -> None:
        """In a forked child of the host: forget the control group, which is the parent's."""
        super().abandon()
        if self.workspace is not None:
            self.workspace.abandon()
        self.control.lease = None

    def check_open(self) -> None:
        """Raise why nothing runs here any more, if so."""
        if self.channel.ended is not None and not self.closed:
            self._wait_ended()
        super().check_open()

    def ended_error(self) -> SandboxError:
        """Return what was given as the reason, or how the cell died by itself."""
        if self.ending is None and self.state == "ended":
            return self._wait_ended()
        return super().ended_error()

    def _wait_ended(self) -> SandboxError:
        """Return why the cell is gone, once it is reaped and its exit status known."""
        self.channel.exited.wait(_REAP_TIMEOUT_S)
        if self.channel.read_rest() and self.channel.exited.is_set():  # who else reads it records this later
            self.denials.flush_unreported()
        self.state = "ended"
        error = self.ending or self.control.what_killed(self.channel.exit_status) or self.death()
        self.give_output(error)
        self.ending = error
        return error

    def death(self) -> SandboxDied:
        """Return the error that says how the cell died by itself."""
        return error_of_death(self.name, self.channel, bytes(self._last_words))

    # -- ChannelOwner ---------------------------------------------------------------------------------------

    def on_denial(self, frame: wire.Denial) -> None:
        """Record what the guest's broker refused."""
        try:
            # A guest knows its own pid namespace only; children of the first process differ by tid.
            self.denials.guest(msgspec.structs.replace(frame.record, pid=self.pid))
        except InvalidRecord as error:
            raise wire.WireError(str(error)) from None

    def on_message(self, frame: wire.GuestMessage) -> None:
        """Queue an object that the guest posted."""
        self.take_message(frame.encoded)

    def on_shown(self, frame: wire.Shown) -> None:
        """Keep what the guest displays."""
        self.take_shown(frame)

    def on_host_call(self, frame: wire.HostCall | wire.GaveUp) -> None:
        """Have a function of the host run for the guest, or stop it."""
        if isinstance(frame, wire.HostCall):
            self.calls.take_next(frame)
        else:
            self.calls.give_up(frame.id)

    def on_output(self, stream: str, data: bytes) -> None:
        """Collect output, and the last of stderr for `SandboxDied`."""
        if stream == "stderr" and self.ending is None:
            self._last_words += data
            del self._last_words[:-_LAST_WORDS_BYTES]
        self.take_output(stream, data)

    def on_ended(self, reason: str) -> None:
        """Wake receivers: no message will come."""
        if self.state != "closed":
            self.state = "ended"
        self.calls.close()
        self.questions.close()
        self.mailbox.wake()

    # -- Limited (what `SandboxLimits` needs) ---------------------------------------------------------------

    @property
    def allow_fork(self) -> bool:
        """True where the policy lets the guest start processes."""
        return self.compiled.allow_fork

    @property
    def running(self) -> bool:
        """True while a request runs."""
        return self.state == "running"

    def filling(self) -> Filling | None:
        """How full its workspace is, None where it has none."""
        found = None if self.workspace is None else self.workspace.filling()
        return found and msgspec.structs.replace(found, granted=self.compiled.workspace_bytes or 0)

    def record_limit(
        self, capability: Any, target: str, reason: str, reported: DenialEvent | None = None
    ) -> DenialEvent:
        """Record that a limit was reached, as the host saw it. The guest's word may have made an event of it."""
        return self.denials.limit(capability, target, reason, reported)

    def recorded_limit(self, capability: Any) -> DenialEvent | None:
        """Return the newest event of a limit that this request met and the kernel's side recorded."""
        seen = [one for one in self.denials.of_request() if one.kernel_enforcer and one.kernel_errno]
        return next((one for one in reversed(seen) if one.capability is capability), None)

    def record_reported_limit(self, record: Any) -> DenialEvent | None:
        """Record that a limit was reached, as the guest reports it."""
        return self.denials.guest(record)

    def _refused_by_mode(self, record: BrokerRecord) -> bool:
        own = None if self.workspace is None else self.workspace.holding
        return refused_by_mode(record, self.compiled, own, user_of(self.pid))


def _show_where(error: BaseException, answer: Answer, request: wire.Request) -> None:
    """Put the guest's traceback on an error; not that of code which waits for a program."""
    if isinstance(answer, wire.Failed) and request.kind != "command":
        keep_traceback(error, as_kept(answer))
