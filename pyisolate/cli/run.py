"""`pyisolate run`: one script in one sandbox, its output streamed, its refusals summed up at the end."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .choosing import choose_policy, policy_options
from .exit_status import STATUS, Outcome, outcome_of, status_of

if TYPE_CHECKING:
    from ..policy import Policy
    from ..sandbox import Result
    from ..telemetry.event import DenialEvent

#: Refusals listed at the end of a run; the rest is counted.
_LISTED = 20

_EPILOG = """\b
Exit status:
  0-255  what the guest gave to sys.exit (0: it ended normally)
  1      the guest raised an exception that nothing caught
  2      wrong command line
  120    a refusal ended the guest, or --fail-on-denial and there was one
  121    a limit ended the guest (time, memory, output ...)
  122    the guest's process died (native crash, killed)
  125    it could not start: the script, the policy, or what this kernel can enforce
"""


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


@click.command(epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@policy_options
@click.option("--monitor", is_flag=True, help="Refuse nothing but the floor; record what would have been refused.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with output, result and refusals.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop after this time (beside limits.wall).")
@click.option("--isolation", type=click.Choice(["process", "thread"]), default="process", show_default=True)
@click.option("--telemetry", type=click.Choice(["default", "full"]), default="default", show_default=True,
              help="full: also record what native code opens.")  # fmt: skip
@click.option("--enforcement", type=click.Choice(["strict", "best_effort"]), default="strict", show_default=True,
              help="best_effort: run even where this kernel cannot enforce a rule, and say so.")  # fmt: skip
@click.option("--env", metavar="KEY=VALUE", multiple=True, help="A variable of the guest's environment. Repeatable.")
@click.option("--cwd", metavar="PATH", help="The guest's working directory (default: /).")
@click.option("--preload", metavar="MODULE", multiple=True, help="Import MODULE before the guest starts. Repeatable.")
@click.option("--audit-log", type=click.Path(dir_okay=False), help="Append refusals to this file; see `events`.")
@click.option("--metrics-port", type=int, metavar="PORT", help="Serve /metrics on 127.0.0.1 while it runs.")
@click.option("--fail-on-denial", is_flag=True, help="Exit with 120 when anything was refused, caught or not.")
@click.option("-q", "--quiet", is_flag=True, help="No summary of refusals on stderr.")
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(script: str, args: tuple[str, ...], **options: Any) -> None:
    """Run SCRIPT (or - for stdin) with ARGS in a sandbox.

    The guest's output streams through; what was refused is summed up on stderr, with the rule that would allow it.
    The script is read here and sent as text: the guest needs no grant for its file. Its stdin is empty.
    """
    try:
        policy = choose_policy(options)
        if options["monitor"]:
            policy = policy.with_mode("monitor")
        source, filename = read_script(script)
        environment = dict(_assignment(text) for text in options["env"])
    except (OSError, ValueError) as error:
        ran = Ran(error=error)
        _report(ran, None, script, options)
        raise SystemExit(STATUS[ran.outcome]) from None
    ran = _run(policy, source, filename, args, environment, options)
    status = _status(ran, options)
    _report(ran, policy, script, options, status)
    raise SystemExit(status)


def read_script(script: str) -> tuple[str, str]:
    """Return a script's text, by its own encoding declaration, and the name it shall have."""
    import io
    import tokenize

    data = sys.stdin.buffer.read() if script == "-" else Path(script).read_bytes()
    name = "<stdin>" if script == "-" else str(Path(script).absolute())
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding), name
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"read {script}: not Python source text: {error}") from None


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"--env {text!r}: write KEY=VALUE.")
    return key, value


def _run(
    policy: Policy,
    source: str,
    filename: str,
    args: tuple[str, ...],
    environment: dict[str, str],
    options: dict[str, Any],
) -> Ran:
    ran = Ran()
    started = time.monotonic()
    callbacks = {} if options["as_json"] else {"on_stdout": _write(sys.stdout), "on_stderr": _write(sys.stderr)}
    try:
        with ExitStack() as stack:
            sandbox = _spawn(stack, policy, filename, environment, options)
            ran.enforcement = sandbox.enforcement
            try:
                _take_result(ran, _execute(sandbox, source, filename, args, options["timeout"], callbacks))
            finally:
                ran.denials = sandbox.get_denial_events()
                ran.stats = sandbox.stats
    except (Exception, KeyboardInterrupt) as error:
        ran.outcome, ran.error = outcome_of(error), error
        ran.stdout, ran.stderr = getattr(error, "stdout", ""), getattr(error, "stderr", "")
    ran.duration_s = time.monotonic() - started
    return ran


def _spawn(
    stack: ExitStack, policy: Policy, filename: str, environment: dict[str, str], options: dict[str, Any]
) -> Any:
    from ..supervisor import Supervisor

    recorder = _recorder(stack, options)
    preload, telemetry = options["preload"], options["telemetry"]
    supervisor = stack.enter_context(Supervisor(pool_size=0, preload=preload, telemetry=telemetry, recorder=recorder))
    if options["metrics_port"] is not None:
        from .. import serve_metrics

        stack.callback(serve_metrics(options["metrics_port"]).close)
    name = "stdin" if filename == "<stdin>" else Path(filename).stem
    return stack.enter_context(
        supervisor.spawn(
            name,
            policy,
            isolation=options["isolation"],
            enforcement=options["enforcement"],
            env=environment,
            cwd=options["cwd"],
        )
    )


def _recorder(stack: ExitStack, options: dict[str, Any]) -> Any:
    if not options["audit_log"]:
        return None
    from ..telemetry.audit import AuditLog
    from ..telemetry.recorder import Recorder

    log = AuditLog(options["audit_log"])
    stack.callback(log.close)
    return Recorder(audit=log)


def _execute(
    sandbox: Any, source: str, filename: str, args: tuple[str, ...], timeout: float | None, callbacks: dict[str, Any]
) -> Result:
    result: Result
    if hasattr(sandbox, "run_script"):
        result = sandbox.run_script(source, filename=filename, argv=args, timeout=timeout, **callbacks)
    else:  # a sandbox thread shares this process, and so its sys.argv
        sys.argv[:] = [filename, *args]
        result = sandbox.exec(source, filename=filename, timeout=timeout, **callbacks)
    return result


def _take_result(ran: Ran, result: Result) -> None:
    ran.exit_code = result.exit_code
    ran.outcome = Outcome.SUCCESS if not result.exit_code else Outcome.EXIT
    ran.stdout, ran.stderr = result.stdout, result.stderr


def _write(stream: Any) -> Any:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


def _status(ran: Ran, options: dict[str, Any]) -> int:
    if options["fail_on_denial"] and ran.denials and ran.outcome in (Outcome.SUCCESS, Outcome.EXIT):
        return STATUS[Outcome.POLICY]
    return status_of(ran.outcome, ran.exit_code)


# -- what is said afterwards ----------------------------------------------------------------------------------


def _report(ran: Ran, policy: Policy | None, script: str, options: dict[str, Any], status: int = 125) -> None:
    if options["as_json"]:
        click.echo(json.dumps(_document(ran, policy, script, status), indent=2, ensure_ascii=False, default=str))
        return
    from .terminal import stderr

    if ran.error is not None:
        _say_error(ran)
    if options["quiet"]:
        return
    console = stderr()
    if ran.enforcement is not None:
        for line in ran.enforcement.missing:
            console.print(f"pyisolate: not enforced: {line}", style="yellow", markup=False)
    if ran.denials:
        console.print(_summary(ran.denials), markup=False)


def _say_error(ran: Ran) -> None:
    from ..errors import GuestError
    from .terminal import complain

    error = ran.error
    if isinstance(error, GuestError):
        click.echo(error.traceback.rstrip(), err=True)  # what the interpreter itself would have printed
        return
    for note in getattr(error, "__notes__", ()):
        click.echo(str(note).rstrip(), err=True)
    assert error is not None
    complain("interrupted" if isinstance(error, KeyboardInterrupt) else error)


def _summary(denials: list[DenialEvent]) -> str:
    from .terminal import refused_by, suggestion_text

    total = sum(event.count for event in denials)
    word = "would have been refused" if all(event.would_deny for event in denials) else "refused"
    lines = [f"pyisolate: {total} operation{'s' if total != 1 else ''} {word}:"]
    for event in denials[:_LISTED]:
        times = f" x{event.count}" if event.count > 1 else ""
        where = f", at {event.origin}" if event.origin else ""
        lines.append(f"  {event.capability} {event.target}{times}  [{refused_by(event)}: {event.code}]{where}")
        if event.suggestion is not None:
            lines.append(f"      to allow it, add:  {suggestion_text(event.suggestion)}")
        elif event.code == "ALWAYS_DENIED":
            lines.append("      no policy can allow it")
    if len(denials) > _LISTED:
        lines.append(f"  ... and {len(denials) - _LISTED} more (--json lists them all)")
    return "\n".join(lines)


def _document(ran: Ran, policy: Policy | None, script: str, status: int) -> dict[str, Any]:
    import msgspec

    from ..errors import describe

    report = ran.enforcement
    return {
        "script": script,
        "outcome": str(ran.outcome),
        "exit_status": status,
        "guest_exit_code": ran.exit_code,
        "error": None if ran.error is None else describe(ran.error),
        "duration_s": round(ran.duration_s, 6),
        "stdout": ran.stdout,
        "stderr": ran.stderr,
        "policy": None if policy is None else {"name": policy.name, "version": policy.version, "mode": policy.mode},
        "denials": [event.to_dict() for event in ran.denials],
        "stats": None if ran.stats is None else msgspec.to_builtins(ran.stats),
        "enforcement": None
        if report is None
        else {"complete": report.complete, "missing": list(report.missing), "notes": list(report.notes)},
    }
