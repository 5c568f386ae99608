"""Thread isolation: a guest on a thread of the host process, confined by per-thread Landlock and seccomp.

A guard rail, not a boundary. The kernel confines the system calls of this thread and of every thread and process it
starts, but memory is shared: a finalizer that the host's garbage collector runs, a patched builtin, or a returned
object's method runs the guest's code on a host thread, unconfined. Use it for code you wrote and want to keep
honest; use process isolation for everything else. What a C loop does cannot be stopped here, and memory and
processes are the host's own.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import ctypes
import functools
import io
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import hooks
from .asynchronous import AsyncCalls
from .broker import Broker
from .errors import EnforcementError, GuestError, PolicyError, SandboxClosed, SandboxError, TimeoutError
from .kernel import seccomp as seccomp_programs
from .native import audit, landlock, process, seccomp
from .result import OutputCallback, Result, Stats
from .telemetry.event import BrokerRecord, DenialEvent, KernelRecord, SandboxContext

if TYPE_CHECKING:
    from .kernel.enforcer import EnforcementReport
    from .kernel.plan import Prepared
    from .policy import Policy
    from .policy.compiled import Limits
    from .supervisor import Supervisor

_STOP = object()
#: In the queue of posted objects: look again at what changed.
_LOOK = object()


class SandboxThread(AsyncCalls):
    """One guest on one thread of this process; the same requests as `Sandbox`."""

    isolation = "thread"

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        policy: Policy,
        prepared: Prepared,
        context: SandboxContext,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> None:
        self.name, self.id = name, context.sandbox_id
        self._supervisor, self._policy, self._prepared, self._context = supervisor, policy, prepared, context
        self.prepared = prepared
        self._on_stdout, self._on_stderr = on_stdout, on_stderr
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # of C: an exception raised in the guest from outside cannot leave a lock of it held
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._put_backs: deque[Any] = deque()
        self._steps: list[str] = []
        self._failed: list[tuple[str, str]] = []
        self._state = "starting"
        self._started = time.monotonic()
        self._requests = 0
        self._hooks: hooks.GuestHooks | None = None
        self._request_events: dict[str, DenialEvent] = {}
        self._events_by_sequence: dict[int, DenialEvent] = {}
        self._report: EnforcementReport | None = None
        self.tid = 0
        self._host = supervisor.hostside()
        self.telemetry = supervisor.telemetry_of(context)
        self.telemetry.watch(prepared.shadow)
        self._thread = threading.Thread(target=self._main, name=f"sandbox-{name}", daemon=True)
        self._confined = threading.Event()
        self._descriptor: int | None = None
        self._slots = supervisor.plan.open_sandbox(self.id, prepared)
        self._thread.start()
        self._confined.wait()
        self._attach()
        if self._failed:
            self._stop()
            raise EnforcementError(
                f"spawn {name!r}: " + "; ".join(f"{step}: {why}" for step, why in self._failed),
                hint="run `pyisolate doctor`",
            )
        self._state = "idle"

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The host's own process id: a sandbox thread has no process of its own."""
        import os

        return os.getpid()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def limits(self) -> Limits:
        """The limits of the policy; on a thread only wall, output and messages can be kept."""
        return self._prepared.compiled.limits

    @property
    def closed(self) -> bool:
        """True once nothing can run here any more."""
        return self._state == "closed"

    @property
    def enforcement(self) -> EnforcementReport:
        """Who enforces what on this thread; says that it is a guard rail."""
        if self._report is None:
            steps, failed = tuple(self._steps), tuple(self._failed)
            self._report = self._supervisor.plan.report(
                self._prepared, "thread", "strict", steps, failed, cgroup_reason="shared process"
            )
        return self._report

    @property
    def stats(self) -> Stats:
        """Current readings; a thread has no memory or processes of its own."""
        return Stats(
            state=self._state,
            uptime_s=time.monotonic() - self._started,
            cpu_s=None,
            memory_bytes=None,
            memory_peak_bytes=None,
            processes=None,
            requests=self._requests,
            output_bytes=0,
            messages=0,
            denials=self.telemetry.store.total,
            events_lost=self.telemetry.store.lost,
        )

    # -- the thread -----------------------------------------------------------------------------------------

    def _main(self) -> None:
        self.tid = threading.get_native_id()
        try:
            self._confine()
        except Exception as error:
            self._failed.append(("confine", f"{type(error).__name__}: {error}"))
        finally:
            self._confined.set()
        if self._failed:
            return
        namespace: dict[str, Any] = {
            "__builtins__": builtins if self._hooks is None else self._hooks.builtins(),
            "__name__": f"<{self.name}>",
            "post": self._outbox.put,
            "recv": self._guest_recv,
        }
        while (job := self._jobs.get()) is not _STOP:
            function, reply = job
            try:
                answer = (True, function(namespace))
            except BaseException as error:
                if self._hooks is not None:
                    self._hooks.observe(error)  # here: what the broker allowed last is remembered by thread
                answer = (False, error)
            if self._hooks is not None:
                self._hooks.flush()
            reply.put(answer)
            del answer
        self._detach_hooks()

    def _confine(self) -> None:
        """Last of all the filter: until the host's thread has attached it, this one makes no call that it notifies."""
        if self._slots is not None:
            descriptor, page = self._slots
            self._step("broker slots", lambda: audit.set_slot(descriptor, page=page))
        compiled, watched = self._prepared.compiled, self._prepared.shadow
        shadow = None if watched is None else hooks.Shadow(Broker(watched), watched)
        self._hooks = hooks.install(
            Broker(compiled), self._on_broker_record, compiled, process_wide=False, shadow=shadow
        )
        with self._hooks.suspended():
            self._step("no_new_privs", process.set_no_new_privs)
            if self._prepared.ruleset is not None:
                ruleset = self._prepared.ruleset.fd
                self._step("landlock", lambda: landlock.restrict_self(ruleset))
            if self._supervisor.plan.listener is not None:
                self._step("seccomp", self._install_filter)

    def _install_filter(self) -> None:
        # The descriptor is installed by this thread into the table that all threads share: no passing needed.
        self._descriptor = seccomp.install(seccomp_programs.thread_program(), notify=True)

    def _attach(self) -> None:
        """On the host's thread: have the filter's notifications answered, and the BPF programs decide."""
        listener = self._supervisor.plan.listener
        if self._descriptor is not None and listener is not None:
            prepared = self._prepared
            listener.attach(self._descriptor, self.id, prepared.compiled, kind="thread", shadow=prepared.shadow)
        if self._supervisor.plan.attach_task(self.tid, self.id, self._prepared, slot=0):
            self._steps.append("bpf-lsm")

    def _step(self, name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            self._failed.append((name, str(error)))
        else:
            self._steps.append(name)

    def _detach_hooks(self) -> None:
        if self._hooks is not None:
            self._hooks.close()

    def _guest_recv(self, timeout: float | None = None) -> Any:
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("recv: no message from the host in time", limit="timeout") from None

    def _on_broker_record(self, record: BrokerRecord) -> None:
        self._host.do(functools.partial(self._take_record, record))

    def _take_record(self, record: BrokerRecord) -> None:
        """On a thread that is not confined: audit log, sinks and the kernel's tables are out of the guest's reach."""
        events = self.telemetry.guest(record)
        self.note_events(events)
        if events:
            if len(self._events_by_sequence) > 256:
                self._events_by_sequence.pop(next(iter(self._events_by_sequence)))
            self._events_by_sequence[record.sequence] = events[-1]

    def on_kernel_record(self, record: KernelRecord) -> list[DenialEvent]:
        """Record what an enforcer refused; return the events that are complete now."""
        events = self.telemetry.kernel(record)
        self.note_events(events)
        return events

    def note_events(self, events: list[DenialEvent]) -> None:
        """Remember events for the running request; one that was completed replaces what was known before."""
        if len(self._request_events) < 1000:
            self._request_events.update([(event.event_id, event) for event in events])

    # -- requests -------------------------------------------------------------------------------------------

    def exec(
        self,
        source: str,
        *,
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        filename: str | None = None,
    ) -> Result:
        """Run statements on the sandbox thread; see `Sandbox.exec`. A timeout raises at the next bytecode."""
        started = time.perf_counter()
        output = _Capture(on_stdout or self._on_stdout)
        run = functools.partial(self._execute, source, filename or f"<{self.name}>", output)
        value, is_repr = self._run(run, timeout)
        return Result(
            stdout=output.getvalue(),
            stderr="",
            value=value,
            duration=time.perf_counter() - started,
            denials=tuple(self._request_events.values()),
            value_is_repr=is_repr,
        )

    def eval(self, expression: str, *, timeout: float | None = None) -> Any:
        """Return the value of an expression. The object is the guest's own: see the module's warning."""
        code = compile(expression, f"<{self.name}>", "eval")
        return self._run(lambda namespace: eval(code, namespace), timeout)

    def call(self, function: str | Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a callable, "module.function", or a name defined by `exec`, on the sandbox thread."""

        def run(namespace: dict[str, Any]) -> Any:
            if not isinstance(function, str):
                return function(*args, **kwargs)
            if function in namespace:
                return namespace[function](*args, **kwargs)
            module, _, attribute = function.rpartition(".")
            return getattr(__import__(module, namespace, None, [attribute]), attribute)(*args, **kwargs)

        return self._run(run, timeout)

    def _execute(self, source: str, filename: str, output: _Capture, namespace: dict[str, Any]) -> tuple[Any, bool]:
        tree = ast.parse(source, filename)
        last = tree.body.pop().value if tree.body and isinstance(tree.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
        namespace["print"] = functools.partial(print, file=output)
        exec(compile(tree, filename, "exec"), namespace)
        if last is None:
            return None, False
        value = eval(compile(ast.Expression(last), filename, "eval"), namespace)
        plain = isinstance(value, str | int | float | bool | bytes | list | dict | type(None))
        return (value, False) if plain else (repr(value)[:4096], True)

    def _run(self, function: Callable[[dict[str, Any]], Any], timeout: float | None) -> Any:
        if self.closed:
            raise SandboxClosed(f"sandbox {self.name!r} is closed")
        self._request_events = {}
        self._requests += 1
        self._state = "running"
        reply: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._jobs.put((function, reply))
        budget = min((t for t in (timeout, self.limits.wall_s) if t is not None), default=None)
        try:
            succeeded, outcome = reply.get(timeout=budget)
        except queue.Empty:
            self._raise_in_guest(TimeoutError)
            raise TimeoutError(
                f"run in {self.name!r}: not done after {budget} s; native code does not hear that it shall stop",
                limit="timeout",
                used=budget,
                allowed=budget,
                hint="use process isolation, which can kill it",
            ) from None
        finally:
            self._state = "idle" if not self.closed else "closed"
            self._supervisor.settle(self)
        if succeeded:
            return outcome
        raise self._failure(outcome)

    def _failure(self, error: BaseException) -> SandboxError:
        record = self._hooks.attribute(error) if self._hooks is not None else None
        if isinstance(error, PolicyError):
            event = self._events_by_sequence.get(record.sequence) if record is not None else error.denial_event
            return PolicyError(str(error), denial_event=event or error.denial_event)
        if isinstance(error, OSError) and error.errno in (1, 13):
            for event in reversed(self._request_events.values()):
                return PolicyError(f"{event.capability}, on {event.target}: refused by the kernel", denial_event=event)
        text = "".join(traceback.format_exception(error))
        return GuestError(type(error).__qualname__, str(error), text)

    # -- messages and control -------------------------------------------------------------------------------

    def post(self, obj: Any) -> None:
        """Send an object to the guest's `recv`."""
        self._inbox.put(obj)

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next object that the guest posted. Raises TimeoutError."""
        return self._take(timeout)

    def _take(self, timeout: float | None, given_up: threading.Event | None = None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if given_up is not None and given_up.is_set():
                raise asyncio.CancelledError
            if self._put_backs:
                return self._put_backs.popleft()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                # nobody posts once it is closed: what is there is there
                message = self._outbox.get(not self.closed, left)
            except queue.Empty:
                if self.closed:
                    self._wake()  # the next one who waits
                    raise SandboxClosed(f"sandbox {self.name!r} is closed") from None
                raise TimeoutError(f"recv from {self.name!r}: no message within {timeout} s", limit="timeout") from None
            if message is not _LOOK:
                return message

    def _put_back(self, message: Any) -> None:
        self._put_backs.append(message)
        self._wake()

    def _wake(self) -> None:
        self._outbox.put(_LOOK)

    def _received(self, message: Any) -> Any:
        return message

    def _is_open(self) -> bool:
        return not self.closed

    def get_denial_events(self) -> list[DenialEvent]:
        """Return the stored denials, oldest first."""
        self._supervisor.settle(self)
        return self.telemetry.store.events()

    def denials(self, timeout: float | None = None) -> Iterator[DenialEvent]:
        """Iterate over denials as they come."""
        return self.telemetry.store.follow(timeout=timeout)

    def reload_policy(self, policy: Policy, token: str | None = None) -> None:
        """Refused: a thread's Landlock and seccomp stay for its life."""
        raise EnforcementError(
            f"reload policy of {self.name!r}: a sandbox thread keeps its kernel policy for life",
            hint="close it and spawn another",
        )

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest at its next bytecode."""
        self._raise_in_guest(KeyboardInterrupt)

    def _raise_in_guest(self, kind: type[BaseException]) -> None:
        if self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(kind))

    def kill(self, token: str | None = None, *, reason: str = "killed by the host") -> None:
        """Tell the guest to stop. Native code that never returns keeps the thread: threads cannot be killed.

        Raises PolicyAuthError where `set_policy_token` guards it and `token` is another.
        """
        self._supervisor.check_token(self, token, "kill")
        self.end(reason)

    def end(self, reason: str) -> None:
        """Stop the guest on the runtime's own account."""
        self._raise_in_guest(SystemExit)
        self.close()

    def close(self) -> None:
        """Stop accepting requests and end the thread when the guest returns."""
        if self._state == "closed":
            return
        self._state = "closed"
        self._stop()
        self._wake()
        self._supervisor.plan.unbind(self.id)
        self._supervisor.forget_thread(self.id)

    def abandon(self) -> None:
        """In a forked child of the host: the thread does not exist here."""
        self._state = "closed"

    def _stop(self) -> None:
        self._jobs.put(_STOP)
        self._thread.join(timeout=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Capture(io.StringIO):
    """Collects what the guest prints, and passes it on where somebody listens."""

    def __init__(self, callback: OutputCallback | None) -> None:
        super().__init__()
        self._callback = callback

    def write(self, text: str) -> int:
        if self._callback is not None:
            with contextlib.suppress(ValueError):
                self._callback(text)
        return super().write(text)


__all__ = ["SandboxThread"]
