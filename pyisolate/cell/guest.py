"""What runs in a cell: reads requests, runs guest code, answers. Trusted only until the first request.

The guest shares this interpreter and may corrupt any of it; nothing here is a boundary. The kernel confines the
process and `wire.Conversation` on the host checks every frame.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import linecache
import os
import pickle  # host to guest only: this side is confined
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import cloudpickle  # noqa: F401 - loaded while warm, so that no file has to be read for it later
import msgspec

from .. import hooks
from ..broker import Broker
from ..capability import Capability
from ..decision import Decision, Verdict
from ..native import audit, process
from ..policy.compiled import CompiledPolicy, FsRight, FsRule
from ..telemetry.event import BrokerRecord
from . import wire
from .confine import Steps, confine_at_handout

_REPR_LIMIT_CHARS = 4096
_TRACEBACK_LIMIT_CHARS = 16 << 10
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


class HostGone(BaseException):
    """The supervisor closed the channel; nothing may run on."""


class Inbox:
    """Frames from the host. One reader at a time; who reads sorts messages and reloads for the others."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = wire.FrameBuffer(wire.MAX_HOST_FRAME_BYTES)
        self._descriptors: list[int] = []
        self._lock = threading.RLock()
        self._poller = select.poll()
        self._poller.register(channel, select.POLLIN)
        self.messages: deque[Any] = deque()
        self.requests: deque[wire.Request | wire.Init | wire.Begin] = deque()
        self.reloads: deque[tuple[wire.Reload, list[int]]] = deque()

    def take_descriptors(self, count: int) -> list[int]:
        """Return the oldest `count` received descriptors."""
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    def read(self, timeout_s: float | None) -> bool:
        """Wait for and sort at least one frame; False when none came in time. Raises HostGone at end of file."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            while True:
                if (payload := self._buffer.next_payload()) is not None:
                    self._sort(wire.decode_host(payload))
                    return True
                if deadline is not None and not self._readable(deadline - time.monotonic()):
                    return False
                data, descriptors, _flags, _address = socket.recv_fds(self._channel, 1 << 16, 8)
                if not data:
                    raise HostGone
                self._descriptors += descriptors
                self._buffer.feed(data)

    def _readable(self, timeout_s: float) -> bool:
        return bool(self._poller.poll(max(0, int(timeout_s * 1000))))

    def sort_waiting(self) -> None:
        """Sort what has arrived, without waiting: for it, or for a thread that reads already."""
        if self._lock.acquire(blocking=False):
            try:
                while self._readable(0) and self.read(0):
                    pass
            finally:
                self._lock.release()

    def _sort(self, frame: wire.HostFrame) -> None:
        if isinstance(frame, wire.HostMessage):
            self.messages.append(frame.data)
        elif isinstance(frame, wire.Reload):
            self.reloads.append((frame, self.take_descriptors(len(frame.descriptors))))
        else:
            self.requests.append(frame)


class CurrentBroker:
    """The broker of the policy in force: before it refuses, it looks whether a reload has arrived."""

    def __init__(self, guest: Guest, broker: Broker) -> None:
        self._guest, self.broker = guest, broker

    def decide(self, capability: Capability, target: str, **facts: Any) -> Decision:
        """Decide as `Broker.decide` does."""
        decision = self.broker.decide(capability, target, **facts)
        if decision.verdict is not Verdict.ALLOW and self._guest.catch_up():
            decision = self.broker.decide(capability, target, **facts)
        return decision


class Guest:
    """One cell's interpreter side: namespace, inbox, hooks."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.inbox = Inbox(channel)
        self._send_lock = threading.Lock()
        self._hooks: hooks.GuestHooks | None = None
        self._broker: CurrentBroker | None = None
        module = types.ModuleType("__main__")
        module.__dict__.update(__builtins__=builtins, post=self.post, recv=self.recv)
        self.module = module

    # -- the guest's own functions --------------------------------------------------------------------------

    def post(self, obj: Any) -> None:
        """Send plain data to the host's `recv`. Raises TypeError for anything else, ValueError for too much of it."""
        try:
            encoded = wire.encode_value(obj)
        except ValueError as error:
            raise ValueError(f"post: {type(obj).__name__}: {error}") from None
        except (TypeError, msgspec.MsgspecError, RecursionError, OverflowError) as error:
            raise TypeError(f"post: {type(obj).__name__}: not plain data ({error})") from None
        self.send(wire.GuestMessage(encoded=encoded))

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next object the host posted. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.inbox.messages:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("recv: no message from the host in time")
            self.inbox.read(left)
        return self.inbox.messages.popleft()

    # -- channel --------------------------------------------------------------------------------------------

    def send(self, frame: wire.GuestFrame) -> None:
        """Send one frame whole; threads of the guest never interleave."""
        data = wire.encode(frame, limit=wire.MAX_GUEST_FRAME_BYTES)
        with self._send_lock:
            self._channel.sendall(data)

    def report(self, record: BrokerRecord) -> None:
        """Send a denial record, before the refusal is raised."""
        self.send(wire.Denial(record=record))

    # -- life -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer the host until it goes away."""
        while True:
            while self.inbox.reloads:
                self.apply_reload()
            if not self.inbox.requests:
                try:
                    self.inbox.read(None)
                except KeyboardInterrupt:
                    pass  # interrupt() that arrived after its request had ended
                continue
            frame = self.inbox.requests.popleft()
            if isinstance(frame, wire.Request):
                self.run(frame)
            elif isinstance(frame, wire.Init):
                self.hand_out(frame)
            else:
                _begin(frame.sandbox, frame.environment)

    def hand_out(self, frame: wire.Init) -> None:
        """Confine for the policy, then tell the host; no guest code has run before."""
        steps = Steps()
        named = dict(zip(frame.descriptors, self.inbox.take_descriptors(len(frame.descriptors)), strict=True))
        if (slots := named.pop("slots", None)) is not None:
            steps.run("broker slots", lambda: audit.set_page(slots, frame.slot_page))
            os.close(slots)
        confine_at_handout(named, frame.rlimits, frame.working_directory, steps)
        _begin(frame.sandbox, frame.environment)
        self._broker = CurrentBroker(self, Broker(frame.policy))
        shadow = None if frame.shadow is None else hooks.Shadow(Broker(frame.shadow), frame.shadow)
        self._hooks = hooks.install(self._broker, self.report, frame.policy, process_wide=True, shadow=shadow)
        sys.modules["__main__"] = self.module
        self.send(wire.Ready(steps=tuple(steps.done), failed=tuple(steps.failed)))

    def apply_reload(self) -> None:
        """Switch the broker to a reloaded policy, tightening Landlock where a ruleset came along."""
        frame, received = self.inbox.reloads.popleft()
        steps = Steps()
        confine_at_handout(dict(zip(frame.descriptors, received, strict=True)), (), os.getcwd(), steps)
        if self._hooks is not None and self._broker is not None:
            self._broker.broker = Broker(frame.policy)
            with self._hooks.suspended():
                self._hooks.replace(self._broker, frame.policy)
        self.send(wire.Reloaded(id=frame.id, failed=tuple(steps.failed)))

    def catch_up(self) -> bool:
        """Apply reloads that have arrived; True when there was one."""
        self.inbox.sort_waiting()
        if not self.inbox.reloads:
            return False
        while self.inbox.reloads:
            self.apply_reload()
        return True

    def run(self, request: wire.Request) -> None:
        """Run one request and answer it exactly once."""
        started = time.perf_counter()
        answer: wire.Done | wire.Failed
        try:
            answer = self._evaluate(request)
        except SystemExit as error:
            code = _exit_code(error)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)  # noqa: T201 - what the interpreter itself does, on the guest's stderr
            answer = wire.Done(id=request.id, exit_code=code)
        except HostGone:
            raise
        except BaseException as error:
            answer = self._failure(request, error)
        if self._hooks is not None:
            self._hooks.flush()
        _flush_streams()
        self.send(msgspec.structs.replace(answer, duration_s=time.perf_counter() - started))

    def _evaluate(self, request: wire.Request) -> wire.Done:
        if request.line_buffered:
            _line_buffer()
        namespace = self.module.__dict__
        if request.kind == "call":
            args, kwargs = pickle.loads(request.payload)
            value = _resolve(request.source)(*args, **kwargs)
            return wire.Done(id=request.id, encoded=_plain(value, request.source))
        if request.kind == "function":
            function, args, kwargs = pickle.loads(request.payload)
            return wire.Done(id=request.id, encoded=_plain(function(*args, **kwargs), "call"))
        if request.kind == "eval":
            code = compile(request.source, request.filename, "eval")
            return wire.Done(id=request.id, encoded=_plain(eval(code, namespace), "eval"))
        if request.argv:
            sys.argv[:] = request.argv
        if request.kind == "script":
            namespace["__name__"] = "__main__"
            namespace["__file__"] = request.filename
        _remember_source(request)
        return self._execute(request, namespace)

    def _execute(self, request: wire.Request, namespace: dict[str, Any]) -> wire.Done:
        code, last = _compile(request)
        if code is not None:
            exec(code, namespace)
        if last is None:
            return wire.Done(id=request.id)
        value = eval(last, namespace)
        try:
            return wire.Done(id=request.id, encoded=wire.encode_value(value))
        except ValueError as error:
            raise ValueError(f"the last expression is {type(value).__name__}: {error}") from None
        except (TypeError, msgspec.MsgspecError, RecursionError, OverflowError):
            return wire.Done(id=request.id, encoded=wire.encode_value(repr(value)[:_REPR_LIMIT_CHARS]), is_repr=True)

    def _failure(self, request: wire.Request, error: BaseException) -> wire.Failed:
        # What the kernel refused though the broker had let it through is reported here, by its errno.
        record = self._hooks.observe(error) if self._hooks is not None else None
        with self._unwatched():
            try:
                message = str(error)
            except BaseException:
                message = "<the exception's own text raised>"
            text = _traceback_text(error)
        return wire.Failed(
            id=request.id,
            type_name=type(error).__qualname__[:200],
            message=_clean(message)[:_REPR_LIMIT_CHARS],
            traceback=_clean(text)[-_TRACEBACK_LIMIT_CHARS:],
            sequence=record.sequence if record is not None else None,
            errno=error.errno if isinstance(error, OSError) and isinstance(error.errno, int) else None,
        )

    def _unwatched(self) -> contextlib.AbstractContextManager[object]:
        """The runtime's own file reads (source lines of a traceback) are no operations of the guest."""
        return self._hooks.suspended() if self._hooks is not None else contextlib.nullcontext()


def _begin(name: str, environment: dict[str, str]) -> None:
    # For ps and `pyisolate trace`, which look at the zygote's children only; the guest may change it.
    process.set_name(name)
    _replace_environment(environment)


def _compile(request: wire.Request) -> tuple[types.CodeType | None, types.CodeType | None]:
    """Return the code of a source's statements, and that of its last one where it is an expression."""
    source, filename = request.source, request.filename
    if request.kind == "script":
        return compile(source, filename, "exec"), None
    try:  # a single expression needs no syntax tree, whose node types alone are 40 pages
        return None, compile(source, filename, "eval")
    except SyntaxError:
        tree = ast.parse(source, filename)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    code = compile(tree, filename, "exec") if tree.body else None
    return code, None if last is None else compile(ast.Expression(last.value), filename, "eval")  # type: ignore[attr-defined]


def _exit_code(error: SystemExit) -> int:
    """Return what the process would have ended with; one that is no C int is -1 (Python/pylifecycle.c)."""
    if not isinstance(error.code, int):
        return 0 if error.code is None else 1
    code = int(error.code)
    return code if -(1 << 31) <= code < 1 << 31 else -1


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any, what: str) -> bytes:
    try:
        return wire.encode_value(value)
    except ValueError as error:
        raise ValueError(f"{what}: result is {type(value).__name__}: {error}") from None
    except (TypeError, msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise TypeError(f"{what}: result is {type(value).__name__}, not plain data ({error})") from None


def _resolve(dotted: str) -> Any:
    """Find "module.function", or a name that earlier `exec` calls defined."""
    head, _, rest = dotted.partition(".")
    main = sys.modules["__main__"].__dict__
    if head in main:
        found = main[head]
        for part in rest.split(".") if rest else ():
            found = getattr(found, part)
        return found
    if not rest:
        return getattr(builtins, head)
    module_name, _, attribute = dotted.rpartition(".")
    module = builtins.__import__(module_name, main, None, [attribute])
    return getattr(module, attribute)


def _remember_source(request: wire.Request) -> None:
    lines = request.source.splitlines(keepends=True)
    linecache.cache[request.filename] = (len(request.source), None, lines, request.filename)


def _traceback_text(error: BaseException) -> str:
    """Format a traceback without this package's own frames."""
    summary = traceback.TracebackException.from_exception(error, lookup_lines=False, compact=True)
    kept = [frame for frame in summary.stack if not frame.filename.startswith(_PACKAGE)]
    summary.stack = traceback.StackSummary.from_list(kept)
    return "".join(summary.format())


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the guest closed or replaced it; what it lost is its own


def _line_buffer() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def open_streams() -> None:
    """Give the guest text streams over descriptors 0, 1 and 2."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    sys.__dict__.update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


class Rehearsal:
    """What a cell plays through while it waits, so that hand-out and a first request find their pages its own.

    Made once in the zygote. A fault costs 2 to 5 us and a page of the cell's own memory, so it holds the common path
    and no more: no refusal, no traceback.
    """

    def __init__(self) -> None:
        self.policy = CompiledPolicy(name="warm", version="0", fs=(FsRule(path="/warm", allow=FsRight.READ),))
        init = wire.Init(
            sandbox="warm",
            policy=self.policy,
            descriptors=(),
            environment=dict(os.environ),
            working_directory="/",
            rlimits=((resource.RLIMIT_CORE, 0, 0),),
        )
        request = wire.Request(id=0, kind="exec", source="1")
        self._init, self._request = (wire.encode(frame)[wire.HEADER.size :] for frame in (init, request))

    def play(self, guest: Guest) -> None:
        """Go through hand-out and one request without leaving a trace."""
        init = wire.decode_host(self._init)
        assert isinstance(init, wire.Init)
        confine_at_handout({}, init.rlimits, "/", Steps(), rehearsal=True)
        _replace_environment(init.environment)
        with hooks.rehearsal(Broker(init.policy), guest.report, init.policy):
            wire.encode(wire.Ready(steps=("warm",)))
        request = wire.decode_host(self._request)
        assert isinstance(request, wire.Request)
        wire.encode(guest._execute(request, {"__builtins__": builtins}))


def _replace_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def main(channel: socket.socket, rehearsal: Rehearsal, finish_confinement: Callable[[], None]) -> int:
    """Rehearse, finish the confinement (which reports to the host), serve until the host goes; return the status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    guest = Guest(channel)
    rehearsal.play(guest)
    finish_confinement()
    try:
        guest.serve()
    except (HostGone, ConnectionError, BrokenPipeError):
        return 0
    return 0
