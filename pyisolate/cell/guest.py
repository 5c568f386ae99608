"""What runs in a cell: reads requests, runs guest code, answers. Trusted only until the first request.

The guest shares this interpreter and may corrupt any of it; nothing here is a boundary. The kernel confines the
process and `wire.Conversation` on the host checks every frame.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import itertools
import os
import signal
import socket
import sys
import threading
import time
import types
from os import getpid  # the function itself: a guest may put another in its place
from typing import Any, NamedTuple, NoReturn

import cloudpickle  # noqa: F401 - loaded while warm, so that no file has to be read for it later

from .. import hooks
from ..capability import Capability
from ..choices import STANDBY
from ..decision import Decision, Mode, Verdict
from ..hooks import paths
from ..hooks.interrupts import INTERRUPTS
from ..native import audit, process, quiet
from ..native.frames import call_apart, untraced
from ..policy.broker import Broker
from ..policy.compiled import CompiledPolicy
from ..records import BrokerRecord
from . import values, wire
from .answers import done, failed
from .commands import run_command
from .confine import Steps, confine_at_handout
from .described import error_of, stub
from .display import Display, watch_pyplot
from .follow import Follower
from .inbox import FOREVER_S, HostGone, Inbox
from .launched import Programs
from .own_builtins import Restored
from .packages import find_modules
from .pickled import reader_of
from .source import (
    Awaiting,
    Caller,
    Cells,
    compile_guest,
    forget_last_value,
    resolve,
)
from .streams import GivenStdin, OpenFiles, exit_code, finish_script, flush_streams
from .tracebacks import call_excepthook, keep_last, print_errors_of_threads

#: Frames of a rehearsal: what a spare gets first, and the request that is gone through.
_BEGIN = wire.encode(wire.Begin(sandbox=STANDBY))
_REQUEST = wire.encode(wire.Request(id=0, kind="exec", source="1"))
REHEARSED = _REQUEST[wire.HEADER.size :]


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


class Ahead(NamedTuple):
    """A policy with what asks it."""

    policy: CompiledPolicy
    broker: CurrentBroker
    hooks: hooks.GuestHooks
    #: where a guest starts, and whether it finds modules there
    directory: str
    searched: bool


class Guest:
    """One cell's interpreter side: namespace, inbox, hooks.

    It is made in the zygote, once for all cells, because what a cell makes or changes it pays for by page; `open` is
    the cell's own part.
    """

    #: from `open` on
    _channel: socket.socket
    _pid: int

    def __init__(self) -> None:
        self.inbox = Inbox()
        self._programs = Programs()
        self._send_lock = threading.Lock()
        self._hooks: hooks.GuestHooks | None = None
        self._broker: CurrentBroker | None = None
        #: what a policy zygote has made of its policy, for its cells to enter
        self._ahead: Ahead | None = None
        self._shadowed = False
        self._display = Display(self.send)
        module = types.ModuleType("__main__")
        own = (untraced(one) for one in (self.post, self.recv, self._display.display))
        module.__dict__.update(__builtins__=builtins, **{one.__name__: one for one in own})
        self.module, self._caller = module, Caller(module.__dict__)
        self.inbox.on_functions = self._define
        self._follower = Follower(self.inbox, self.send, self.apply_reload)
        self._numbers = itertools.count(1)
        self._cells, self._awaiting, self._files, self._stdin = Cells(), Awaiting(), OpenFiles(), GivenStdin()
        self._running, self._shown, self._read = False, False, reader_of("")
        #: what a tracer or profiler that guest code leaves set sees nothing of: `call_apart` lets it see that code
        self.serve_untraced = untraced(self.serve)

    def open(self, channel: socket.socket, pid: int) -> None:
        """In a fresh cell, or ahead of it: process `pid` is the guest, and `channel` leads to its host."""
        self._channel, self._pid = channel, pid
        self._follower.open(pid)
        self.inbox.open(channel)

    # -- the guest's own functions --------------------------------------------------------------------------

    def post(self, obj: Any) -> None:
        """Send plain data to the host's `recv`. Raises TypeError for anything else, ValueError for too much of it."""
        try:
            encoded, _ = values.encode(obj)
        except (TypeError, ValueError) as error:
            raise type(error)(f"post: {type(obj).__name__}: {error}") from None
        self.send(wire.GuestMessage(encoded=encoded))

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next object the host posted. Raises TimeoutError after `timeout` seconds, ValueError below 0."""
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"recv: timeout {timeout!r}: must be 0 or more seconds, or None for no bound")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = FOREVER_S if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.inbox.wait(lambda: self.inbox.messages, left):
                raise TimeoutError("recv: no message from the host in time")
            with contextlib.suppress(IndexError):  # another thread of the guest took it
                return values.decode(self.inbox.messages.popleft())

    def call_host(self, name: str, timeout_s: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have the host run one of its functions, and return or raise what comes of it."""
        if getpid() != self._pid:
            raise RuntimeError(f"{name}: only the process that the sandbox began with can call functions of the host")
        try:
            arguments, _ = values.encode([list(args), kwargs])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: arguments: {error}") from None
        number, calls = next(self._numbers), self.inbox.calls
        calls[number] = None
        try:
            self.send(wire.HostCall(id=number, name=name, arguments=arguments))
            if not self.inbox.wait(lambda: calls[number] is not None, FOREVER_S if timeout_s is None else timeout_s):
                raise TimeoutError(f"{name}: no answer within {timeout_s} s")
            answer = calls[number]
        except HostGone:
            raise
        except BaseException:
            self.send(wire.GaveUp(id=number))
            raise
        finally:
            del calls[number]
        if isinstance(answer, wire.Returned):
            return values.decode(answer.encoded)
        assert answer is not None
        raise error_of(name, answer.type_name, answer.message, answer.errno)

    def _define(self, frame: wire.Functions) -> None:
        for described in frame.functions:
            self.module.__dict__[described.name] = stub(described, self.call_host)

    def settle(self) -> None:
        """Take SIGINT, show figures of matplotlib, find the guest's classes (`inspect`), print its threads' errors.

        In the zygote, where no request runs: it takes no notice of SIGINT.
        """
        # In the place of the default handler, by which programs and asyncio know that no other is set.
        handler = signal.default_int_handler = untraced(self.on_interrupt)
        signal.signal(signal.SIGINT, handler)
        watch_pyplot(self._display)
        self._cells.find_classes()
        print_errors_of_threads()

    def make_ahead(self, policy: CompiledPolicy, init: wire.Init) -> None:
        """In a policy zygote: make once what each of its cells would make of its policy at hand-out."""
        directory = init.working_directory
        broker = CurrentBroker(self, Broker(policy))
        made = hooks.make(broker, self.report, policy)
        self._ahead = Ahead(policy, broker, made, directory, _is_searched(directory, broker.broker))
        _show_file_calls(policy)
        self._take_place(init)

    def rehearse_ahead(self, init: wire.Init) -> None:
        """In a policy zygote: go through what each of its cells does from its hand-out on, and undo it."""
        try:
            self._enter_hooks(init, for_good=False)
            self._files.begin()
            self._rehearse(init)
        finally:
            hooks.leave()
            self._broker = self._hooks = None

    def _take_place(self, init: wire.Init) -> None:
        sys.modules["__main__"] = self.module
        self._read = reader_of(init.host_tag)

    @property
    def made_ahead(self) -> bool:
        """True in a policy zygote, and in its cells."""
        return self._ahead is not None

    # -- channel --------------------------------------------------------------------------------------------

    def send(self, frame: wire.GuestFrame) -> None:
        """Send one frame whole; threads of the guest never interleave."""
        data = wire.encode(frame, limit=wire.MAX_GUEST_FRAME_BYTES)
        if self._running:
            with INTERRUPTS, self._send_lock:
                self._channel.sendall(data)
        else:  # no interrupt is raised then
            with self._send_lock:
                self._channel.sendall(data)

    def report(self, record: BrokerRecord) -> None:
        """Send a denial record, before the refusal is raised."""
        self.send(wire.Denial(record=record))

    # -- life -----------------------------------------------------------------------------------------------

    def on_interrupt(self, number: int, frame: types.FrameType | None) -> None:
        """Handle SIGINT: raises KeyboardInterrupt where guest code runs, and not in the midst of an answer."""
        if self._running and not INTERRUPTS.put_off():
            raise KeyboardInterrupt

    def serve(self) -> None:
        """Answer the host until it goes away."""
        inbox = self.inbox
        while True:
            if inbox.reloads:
                self._follower.apply_waiting()
            if not inbox.requests:
                try:
                    inbox.wait_idle()
                except KeyboardInterrupt:
                    pass  # an interrupt() may arrive after its request has ended
                continue
            frame = inbox.requests.popleft()
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
        self.enter(frame, steps)

    def enter(self, frame: wire.Init, steps: Steps | None = None) -> None:
        """Be under the policy that this cell is confined for, and say so. Without `steps`: where C has said so."""
        if steps is not None:
            _begin(frame.sandbox, frame.environment)
            self._take_place(frame)
        policy, searched = self._enter_hooks(frame)
        find_modules(policy, frame.working_directory, searched=searched)
        self._files.begin()
        if steps is not None:
            self.send(wire.Ready(steps=tuple(steps.done), failed=tuple(steps.failed)))
        if frame.ahead:
            with contextlib.suppress(MemoryError):  # where the policy leaves no room, the first request says so
                self._rehearse(frame)

    def _rehearse(self, frame: wire.Init) -> None:
        """Go through a request and its answer, which is not sent: the pages that it writes are then this cell's own."""
        self.inbox.rehearse(_BEGIN)
        request = self.inbox.rehearse(_REQUEST)
        _begin(frame.sandbox, None)
        assert isinstance(request, wire.Request)
        with self._unwatched():
            self._display.begin()
            answer = self.execute(request, {"__builtins__": builtins}, request.filename)
            self._display.figures()
        if self._hooks is not None:
            self._hooks.flush()
        forget_last_value()
        flush_streams()
        self._files.flush()
        wire.encode(answer, limit=wire.MAX_GUEST_FRAME_BYTES)
        with self._send_lock, contextlib.suppress(BrokenPipeError):  # a policy zygote has no host at the other end
            self._channel.sendall(b"")

    def _enter_hooks(self, frame: wire.Init, *, for_good: bool = True) -> tuple[CompiledPolicy, bool]:
        """Put this cell under the policy that came, or under that of its zygote where none did.

        Returns it, and whether modules are found in the working directory.
        """
        directory, ahead = frame.working_directory, self._ahead
        if frame.policy is not None:
            broker = self._broker = CurrentBroker(self, Broker(frame.policy))
            shadow = None if frame.shadow is None else hooks.Shadow(Broker(frame.shadow), frame.shadow)
            self._hooks = hooks.install(broker, self.report, frame.policy, process_wide=True, shadow=shadow)
            self._shadowed = shadow is not None
            _show_file_calls(frame.policy, shadowed=self._shadowed)
            return frame.policy, _is_searched(directory, broker.broker)
        if ahead is None or frame.shadow is not None:
            raise RuntimeError("hand-out without a policy: this cell's zygote has none")
        self._broker, self._hooks = ahead.broker, ahead.hooks
        hooks.enter(ahead.hooks, ahead.policy, for_good=for_good)
        known = directory == ahead.directory
        return ahead.policy, ahead.searched if known else _is_searched(directory, ahead.broker.broker)

    def apply_reload(self, frame: wire.Reload, received: list[int]) -> None:
        """Switch the broker to a reloaded policy, tightening Landlock where a ruleset came along."""
        steps = Steps()
        confine_at_handout(dict(zip(frame.descriptors, received, strict=True)), (), os.getcwd(), steps)
        if self._hooks is not None and self._broker is not None:
            self._broker.broker = Broker(frame.policy)
            with self._hooks.suspended():
                self._hooks.replace(self._broker, frame.policy)
            _show_file_calls(frame.policy, shadowed=self._shadowed)
        self.send(wire.Reloaded(id=frame.id, failed=tuple(steps.failed)))

    def catch_up(self) -> bool:
        """Apply reloads that have arrived or were announced; True when there was one."""
        return self._follower.catch_up()

    def run(self, request: wire.Request) -> None:
        """Run one request and answer it exactly once."""
        started = time.perf_counter()
        answer: wire.Done | wire.Failed
        try:
            if request.stdin:
                self._stdin.give(self.inbox.stdins.popleft())
            self._running, self._shown = True, False
            self._display.begin()
            answer = self._evaluate(request)
            self._display.figures()
            self._running = False
        except SystemExit as error:
            self._running = False
            code = exit_code(error)
            self._stdin.reopen()
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)  # noqa: T201 - what the interpreter itself does, on the guest's stderr
            answer = wire.Done(id=request.id, exit_code=code)
        except HostGone:
            raise
        except BaseException as error:
            self._running = False
            answer = self._failure(request, error)
            if request.kind in ("exec", "eval"):
                keep_last(error)
        if getpid() != self._pid:
            _end_child(answer)
        if not isinstance(answer, wire.Done) or answer.exit_code is not None:
            self._display.figures()
        if self._hooks is not None:
            self._hooks.flush()
        flush_streams()
        self._files.flush()
        if request.stdin:
            self._stdin.take_back()
        answer.duration_s = time.perf_counter() - started
        self.send(answer)

    def _evaluate(self, request: wire.Request) -> wire.Done:
        if request.kind == "call":
            args, kwargs = self._read(request.payload) if request.payload else (request.args, request.kwargs)
            return done(
                request,
                self._awaiting.result(
                    self._caller.call(resolve(request.source, sys.modules["__main__"].__dict__), args, kwargs)
                ),
            )
        if request.kind == "function":
            function, args, kwargs = self._read(request.payload)
            return done(request, self._awaiting.result(self._caller.call(function, args, kwargs)))
        if request.kind == "command":
            flush_streams()
            with Restored():
                return done(request, run_command(*self._read(request.payload)))
        if request.kind == "launch":
            with Restored():
                launched = self._programs.launch(self.inbox.launches.popleft(), *self._read(request.payload))
            return done(request, launched)
        namespace = self.module.__dict__
        filename = self._cells.remember(request.source, request.filename)
        if request.kind == "eval":
            return done(
                request, self._awaiting.evaluate(self._cells.compile_expression(request.source, filename), namespace)
            )
        if request.argv:
            sys.argv[:] = request.argv
        if request.kind == "script":
            return self._run_script(request, namespace)
        return self.execute(request, namespace, filename)

    def _run_script(self, request: wire.Request, namespace: dict[str, Any]) -> wire.Done:
        namespace.update(__name__="__main__", __file__=request.filename)
        try:
            call_apart(exec, (compile_guest(request.source, request.filename, "exec"), namespace))
        except BaseException as error:
            self._shown = call_excepthook(error)
            raise
        finally:
            finish_script(self._display.figures)  # pyplot closes them at exit
        return wire.Done(id=request.id)

    def execute(self, request: wire.Request, namespace: dict[str, Any], filename: str) -> wire.Done:
        """Run the source of a request, and return what its last expression is worth."""
        code, last = self._cells.compile(request.source, filename)
        if code is not None:
            awaits = last is not None and bool(last.co_flags & inspect.CO_COROUTINE)
            self._awaiting.evaluate(code, namespace, awaits=awaits)
        if last is None:
            return wire.Done(id=request.id)
        value = self._awaiting.evaluate(last, namespace)
        if sys.displayhook is not sys.__displayhook__:
            call_apart(sys.displayhook, (value,))
        elif value is not None:
            builtins._ = value  # type: ignore[attr-defined] # as the interactive interpreter does
            self._display.result(value)
        return done(request, value)

    def _failure(self, request: wire.Request, error: BaseException) -> wire.Failed:
        # What the kernel refused though the broker had let it through is reported here, by its errno.
        record = self._hooks.observe(error) if self._hooks is not None else None
        sequence = None if record is None else record.sequence
        full = self._hooks is not None and self._hooks.made_no_process(error)
        with self._unwatched():
            return failed(request, error, sequence, shown=self._shown, made_no_process=full)

    def _unwatched(self) -> contextlib.AbstractContextManager[object]:
        """The runtime's own file reads (source lines of a traceback) are no operations of the guest."""
        return self._hooks.suspended() if self._hooks is not None else contextlib.nullcontext()


def _show_file_calls(policy: CompiledPolicy, *, shadowed: bool = False) -> None:
    """In monitor mode what would be refused succeeds, and with a shadow policy what that one would refuse: the listener
    is then to see all file calls, not the failing ones."""
    monitored = policy.mode_of("fs") is Mode.MONITOR
    quiet.tell_all(monitored or shadowed)
    paths.open_own_descriptors(quiet.address() is not None and not monitored)


def _is_searched(directory: str, broker: Broker) -> bool:
    """Tell whether modules are found in the working directory: where the guest may read it; not in all of "/"."""
    return directory != "/" and not broker.decide(Capability.FS_READ, directory, listing=True).refused


def _begin(name: str, environment: dict[str, str] | None) -> None:
    # For ps and `pyisolate trace`, which look at the zygote's children only; the guest may change it.
    process.set_name(name)
    sys.argv[:] = [f"<{name}>"]
    if (platform := sys.modules.get("platform")) is not None:
        platform._uname_cache = None  # type: ignore[attr-defined]  # noqa: SLF001 - the host's name was in it
    if environment is not None:
        replace_environment(environment)


def _end_child(answer: wire.Done | wire.Failed) -> NoReturn:
    """End a process that guest code forked and that came to the request's end: only the first one answers.

    What a script's process does at its end: the traceback to stderr, its buffers written, its exit status.
    """
    status = 1
    if isinstance(answer, wire.Failed):
        with contextlib.suppress(Exception):
            sys.stderr.write(answer.traceback)
    else:
        status = (answer.exit_code or 0) & 0xFF
    flush_streams()
    os._exit(status)


def replace_environment(environment: dict[str, str]) -> None:
    """Give this process exactly this environment; nothing is written where it has it already."""
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
