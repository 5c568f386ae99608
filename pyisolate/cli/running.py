"""One script in one sandbox: what `run` and `policy learn` share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_status import Outcome, outcome_of

if TYPE_CHECKING:
    from ..policy import Policy
    from ..result import Result
    from ..telemetry.event import DenialEvent

STDIN = "<stdin>"


@dataclass(frozen=True)
class Script:
    """What to run: its text, the name it shall have, its arguments."""

    source: str
    filename: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run it. `streamed`: output passes through as it comes; otherwise it is collected."""

    isolation: str = "process"
    enforcement: str = "strict"
    telemetry: str = "default"
    shadow: Policy | None = None
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    preload: tuple[str, ...] = ()
    timeout: float | None = None
    audit_log: str | None = None
    metrics_port: int | None = None
    streamed: bool = True
    #: distinct refusals kept; None is the store's own default
    capacity: int | None = None


@dataclass
class Ran:
    """One finished run: how it ended and what was seen."""

    outcome: Outcome = Outcome.COULD_NOT_START
    exit_code: int | None = None
    error: BaseException | None = None
    duration_s: float = 0.0
    stdout: str = ""
    stderr: str = ""
    denials: list[DenialEvent] = field(default_factory=list)
    stats: Any = None
    enforcement: Any = None


def read_script(script: str, args: tuple[str, ...] = ()) -> Script:
    """Read a script here, by its own encoding declaration; `-` is stdin. Raises OSError, ValueError."""
    import io
    import tokenize

    data = sys.stdin.buffer.read() if script == "-" else Path(script).read_bytes()
    name = STDIN if script == "-" else str(Path(script).absolute())
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return Script(data.decode(encoding), name, args)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"read {script}: not Python source text: {error}") from None


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
            sandbox = _spawn(stack, policy, script, settings)
            ran.enforcement = sandbox.enforcement
            try:
                _take_result(ran, _execute(sandbox, script, settings))
            finally:
                ran.denials = sandbox.get_denial_events()
                ran.stats = sandbox.stats
    except (Exception, KeyboardInterrupt) as error:
        ran.outcome, ran.error = outcome_of(error), error
        ran.stdout, ran.stderr = getattr(error, "stdout", ""), getattr(error, "stderr", "")
    ran.duration_s = time.monotonic() - started
    return ran


def _terminated(number: int, frame: Any) -> None:
    """End by the way of every `with`, so that no cell and no control group stays behind."""
    raise SystemExit(128 + number)


def _spawn(stack: ExitStack, policy: Policy, script: Script, settings: Settings) -> Any:
    from ..supervisor import Supervisor

    supervisor = stack.enter_context(
        Supervisor(
            pool_size=0,  # one guest: a second warm cell would never be used
            preload=settings.preload,
            telemetry=settings.telemetry,
            recorder=_recorder(stack, settings),
        )
    )
    if settings.metrics_port is not None:
        from .. import serve_metrics

        stack.callback(serve_metrics(settings.metrics_port).close)
    return stack.enter_context(
        supervisor.spawn(
            "stdin" if script.filename == STDIN else Path(script.filename).stem,
            policy,
            isolation=settings.isolation,
            enforcement=settings.enforcement,
            shadow=settings.shadow,
            env=settings.env,
            cwd=settings.cwd,
        )
    )


def _recorder(stack: ExitStack, settings: Settings) -> Any:
    if settings.audit_log is None and settings.capacity is None:
        return None
    from ..telemetry.audit import AuditLog
    from ..telemetry.recorder import Recorder

    log = None
    if settings.audit_log is not None:
        log = AuditLog(settings.audit_log)
        stack.callback(log.close)
    return Recorder(audit=log) if settings.capacity is None else Recorder(audit=log, capacity=settings.capacity)


def _execute(sandbox: Any, script: Script, settings: Settings) -> Result:
    callbacks = {}
    if settings.streamed:
        callbacks = {"on_stdout": _writer(sandbox, sys.stdout), "on_stderr": _writer(sandbox, sys.stderr)}
    if not hasattr(sandbox, "run_script"):
        return _execute_on_thread(sandbox, script, settings, callbacks)
    result: Result = sandbox.run_script(
        script.source, filename=script.filename, argv=script.args, timeout=settings.timeout, **callbacks
    )
    return result


def _execute_on_thread(sandbox: Any, script: Script, settings: Settings, callbacks: dict[str, Any]) -> Result:
    """Run a script on a sandbox thread, which shares this process, and so its sys.argv and sys.exit."""
    from ..errors import GuestError
    from ..result import Result

    sys.argv[:] = [script.filename, *script.args]
    sandbox.exec(f"__name__, __file__ = '__main__', {script.filename!r}")
    try:
        result: Result = sandbox.exec(script.source, filename=script.filename, timeout=settings.timeout, **callbacks)
        return result
    except GuestError as error:
        if error.type_name != "SystemExit":
            raise
        code = int(error.message) if error.message.lstrip("-").isdigit() else int(error.message not in ("", "None"))
        output = (getattr(error, "stdout", ""), getattr(error, "stderr", ""))
        return Result(stdout=output[0], stderr=output[1], value=None, duration=0.0, exit_code=code)


def _take_result(ran: Ran, result: Result) -> None:
    ran.exit_code = result.exit_code
    ran.outcome = Outcome.SUCCESS if not result.exit_code else Outcome.EXIT
    ran.stdout, ran.stderr = result.stdout, result.stderr


def _writer(sandbox: Any, stream: Any) -> Callable[[str], None]:
    def write(text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            # As with any program whose reader goes away (`| head`); flushing at exit must not complain again.
            sandbox.end("nobody reads its output any more")
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    return write
