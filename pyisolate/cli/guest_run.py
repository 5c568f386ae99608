"""One script in one sandbox: what `run` and `policy learn` share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from .ask import TerminalAsker
from .exit_status import Outcome, OutputLost, outcome_of
from .guest_files import WORKSPACE, Changes, Copied
from .project import STDIN, Script, find_modules

if TYPE_CHECKING:
    from ..choices import Enforcement, Isolation, Telemetry
    from ..policy import Policy
    from ..sandbox.commit import FileChange
    from ..sandbox.process import Sandbox
    from ..sandbox.result import BytesCallback, Result
    from ..sandbox.rich import RichOutput
    from ..sandbox.thread import SandboxThread
    from ..telemetry.event import DenialEvent

#: A person reads and thinks; `limits.wall` goes on (seconds).
_ASK_TIMEOUT_S = 120.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to run it. `streamed`: output passes through as it comes; otherwise it is collected."""

    isolation: Isolation = "process"
    enforcement: Enforcement = "strict"
    telemetry: Telemetry = "default"
    shadow: Policy | None = None
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str | None = None
    #: ask at the terminal, or at this socket, about connections that no rule speaks of
    ask: bool = False
    ask_socket: str | None = None
    #: what to put into its workspace, by name, and the directory for what it made there
    files: dict[str, Path] = msgspec.field(default_factory=dict)
    out: str | None = None
    #: the directory that is its workspace
    workspace: str | None = None
    #: the directory that its workspace is a copy of, and whether its changes are written back
    copy_on_write: str | None = None
    commit: bool = False
    preload: tuple[str, ...] = ()
    timeout: float | None = None
    audit_log: str | None = None
    metrics_port: int | None = None
    streamed: bool = True
    #: distinct refusals kept; None is the store's own default
    capacity: int | None = None

    def __post_init__(self) -> None:
        if self.commit and self.copy_on_write is None:
            raise click.UsageError("--commit: there is nothing to commit to: name it by --copy-on-write DIR.")

    @property
    def fills_workspace(self) -> bool:
        """True where there is something to put into a workspace, or to take from it."""
        return bool(self.files or self.out or self.copy_on_write)


class Ran(msgspec.Struct):
    """One finished run: how it ended and what was seen."""

    outcome: Outcome = Outcome.COULD_NOT_START
    exit_code: int | None = None
    error: BaseException | None = None
    duration_s: float = 0.0
    stdout: str = ""
    stderr: str = ""
    outputs: tuple[RichOutput, ...] = ()
    denials: list[DenialEvent] = msgspec.field(default_factory=list)
    stats: Any = None
    enforcement: Any = None
    copied: Copied = msgspec.field(default_factory=Copied)
    #: what differs from the directory that its workspace is a copy of, and whether it was written there
    changes: list[FileChange] = msgspec.field(default_factory=list)
    committed: bool = False
    #: the policy with what was answered by `always`
    answered: Policy | None = None


def assignment(text: str) -> tuple[str, str]:
    """Return the parts of KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"--env {text!r}: write KEY=VALUE.")
    return key, value


def run_guest(policy: Policy, script: Script, settings: Settings) -> Ran:
    """Run a script under a policy in a supervisor of its own. What goes wrong is in the answer, not raised."""
    ran = Ran()
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminated))
            asker = _asker(stack, settings)
            sandbox = _spawn(stack, policy, script, settings, asker)
            ran.enforcement = sandbox.enforcement
            find_modules(sandbox, script)
            changes = None if settings.out is None else Changes(sandbox)
            try:
                _take_result(ran, _execute(sandbox, script, settings, _writers(asker) if settings.streamed else {}))
            finally:
                ran.denials = sandbox.get_denial_events()
                ran.stats = sandbox.stats
                ran.answered = sandbox.answered_policy
                if changes is not None and settings.out is not None:
                    ran.copied = changes.copy(settings.out)
                if settings.copy_on_write is not None:
                    ran.changes = cast("Sandbox", sandbox).files.diff()
            if settings.commit and ran.outcome is Outcome.SUCCESS:
                ran.changes = cast("Sandbox", sandbox).files.commit()
                ran.committed = True
    except (Exception, KeyboardInterrupt) as error:
        ran.outcome, ran.error = outcome_of(error), error
        ran.stdout, ran.stderr = getattr(error, "stdout", ""), getattr(error, "stderr", "")
        ran.outputs = getattr(error, "outputs", ())
    ran.duration_s = time.monotonic() - started
    return ran


def _terminated(number: int, frame: Any) -> None:
    """End by the way of every `with`, so that no cell and no control group is left."""
    raise SystemExit(128 + number)


def _spawn(stack: ExitStack, policy: Policy, script: Script, settings: Settings, asker: Any) -> Sandbox | SandboxThread:
    from ..supervisor.supervisor import Supervisor

    supervisor = stack.enter_context(
        Supervisor(
            pool_size=0,  # one guest: a second warm cell would never be used
            preload=settings.preload,
            telemetry=settings.telemetry,
            recorder=_recorder(stack, settings),
        )
    )
    if settings.metrics_port is not None:
        from ..metrics import serve_metrics

        stack.callback(serve_metrics(settings.metrics_port).close)
    sandbox = supervisor.spawn(
        Path(script.filename).stem.strip("<>-"),
        policy,
        isolation=settings.isolation,
        enforcement=settings.enforcement,
        shadow=settings.shadow,
        env=settings.env or None,
        cwd=settings.cwd,
        workspace=_workspace(policy, settings),
        files=settings.files or None,
        copy_on_write=settings.copy_on_write,
        on_ask=asker,
        ask_timeout=_ASK_TIMEOUT_S,
    )
    stack.callback(sandbox.close)
    return sandbox


def _workspace(policy: Policy, settings: Settings) -> str | Path | None:
    if settings.workspace is not None:
        return Path(settings.workspace)
    return WORKSPACE if policy.workspace is None and settings.fills_workspace else None


def _asker(stack: ExitStack, settings: Settings) -> Any:
    if settings.ask_socket is not None:
        from ..sandbox.ask_socket import AskSocket

        socket = AskSocket(settings.ask_socket, timeout=_ASK_TIMEOUT_S)
        stack.callback(socket.close)
        return socket
    if not settings.ask:
        return None
    try:
        terminal = TerminalAsker(timeout=_ASK_TIMEOUT_S)
    except OSError as error:
        raise ValueError(f"--ask: there is no terminal to ask at ({error.strerror}). Hint: --ask-socket") from None
    stack.callback(terminal.close)
    return terminal


def _recorder(stack: ExitStack, settings: Settings) -> Any:
    if settings.audit_log is None and settings.capacity is None:
        return None
    from ..telemetry.recorder import Recorder
    from ..telemetry.sinks.audit import AuditLog

    log = None
    if settings.audit_log is not None:
        log = AuditLog(settings.audit_log)
        stack.callback(log.close)
    return Recorder(audit=log) if settings.capacity is None else Recorder(audit=log, capacity=settings.capacity)


def _execute(sandbox: Sandbox | SandboxThread, script: Script, settings: Settings, callbacks: dict[str, Any]) -> Result:
    if script.command:
        given = _stdin(script, settings)
        done = cast("Sandbox", sandbox).run(script.command, input=given, timeout=settings.timeout, **callbacks)
        return _result_of(done)
    if sandbox.isolation == "thread":
        return _execute_on_thread(sandbox, script, settings, callbacks)
    return cast("Sandbox", sandbox).run_script(
        script.source,
        filename=script.filename,
        argv=script.args,
        program=script.program or None,
        timeout=settings.timeout,
        stdin=_stdin(script, settings),
        **callbacks,
    )


def _result_of(done: subprocess.CompletedProcess[Any]) -> Result:
    from ..sandbox.result import Result

    written = {"stdout": done.stdout.decode("utf-8", "backslashreplace"), "stderr": ""}
    return Result(**written, value=None, duration=0.0, exit_code=done.returncode)


def _execute_on_thread(
    sandbox: Sandbox | SandboxThread, script: Script, settings: Settings, callbacks: dict[str, Any]
) -> Result:
    """Run a script on a sandbox thread, which shares this process, and so its sys.argv and sys.exit."""
    sys.argv[:] = [script.program or script.filename, *script.args]
    sandbox.exec(f"__name__, __file__ = '__main__', {script.filename!r}")
    return sandbox.exec(
        script.source, filename=script.filename, timeout=settings.timeout, stdin=_stdin(script, settings), **callbacks
    )


def _stdin(script: Script, settings: Settings) -> int | None:
    """Return the descriptor that the guest's stdin is read from; None where the script itself came from there.

    A terminal is read in the foreground only: in the background the kernel would stop this process for it; and not
    with `--ask`, whose answers are typed there.
    """
    if script.filename == STDIN:
        return None
    try:
        os.fstat(0)
        return None if os.isatty(0) and (settings.ask or os.tcgetpgrp(0) != os.getpgrp()) else 0
    except OSError:  # closed, or no terminal of this session
        return None


def _take_result(ran: Ran, result: Result) -> None:
    ran.exit_code = result.exit_code
    ran.outcome = Outcome.SUCCESS if not result.exit_code else Outcome.EXIT
    ran.stdout, ran.stderr, ran.outputs = result.stdout, result.stderr, result.outputs


def _writers(asker: Any) -> dict[str, Any]:
    """Return what passes the guest's output on; a stream that is closed here (`>&-`) gets none, as in any program."""
    streams = {"on_stdout": sys.stdout, "on_stderr": sys.stderr}
    return {name: _writer(stream, asker) for name, stream in streams.items() if stream is not None}


def _writer(stream: Any, asker: Any) -> BytesCallback:
    from ..sandbox.result import BytesCallback

    def write(data: bytes) -> None:
        try:
            stream.buffer.write(data)
            stream.flush()
        except OSError as error:  # no reader any more (`| head`), or a full disk; flushing at exit must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            raise OutputLost(f"write {stream.name.strip('<>')}: {error.strerror}") from error

    at_terminal = isinstance(asker, TerminalAsker) and stream.isatty()
    return BytesCallback(asker.beside(write) if at_terminal else write)
