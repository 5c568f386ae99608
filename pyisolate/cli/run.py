"""`pyisolate run`: one script in one sandbox, its output streamed, its refusals summed up at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .choosing import choose_policy, load_policy, policy_options
from .exit_status import STATUS, Outcome, status_of
from .running import Ran, Settings, assignment, read_script, run_guest

if TYPE_CHECKING:
    from ..policy import Policy
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


@click.command(epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@policy_options
@click.option("--monitor", is_flag=True, help="Refuse nothing but the floor; record what would have been refused.")
@click.option("--shadow", metavar="POLICY", help="Also record what this policy (a file or preset) would refuse.")
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
@click.option(
    "--fail-on-denial",
    is_flag=True,
    help="Exit with 120 when anything was, or would have been, refused, caught or not.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary of refusals on stderr.")
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(script: str, args: tuple[str, ...], **options: Any) -> None:
    """Run SCRIPT (or - for stdin) with ARGS in a sandbox.

    The guest's output streams through; what was refused is summed up on stderr, with the rule that would allow it.
    The script is read here and sent as text: the guest needs no grant for its file. Its stdin is empty.
    """
    as_json, fail_on_denial, quiet = (options.pop(name) for name in ("as_json", "fail_on_denial", "quiet"))
    policy: Policy | None = None
    try:
        policy = choose_policy(options)
        if options.pop("monitor"):
            policy = policy.with_mode("monitor")
        if options["shadow"] is not None:
            options["shadow"] = load_policy(options["shadow"])
        options["env"] = dict(assignment(text) for text in options["env"])
        ran = run_guest(policy, read_script(script, args), Settings(**options, streamed=not as_json))
    except (OSError, ValueError) as error:
        ran = Ran(error=error)
    status = status_of(ran.outcome, ran.exit_code)
    if fail_on_denial and ran.denials and ran.outcome in (Outcome.SUCCESS, Outcome.EXIT):
        status = STATUS[Outcome.POLICY]
    if as_json:
        click.echo(json.dumps(_document(ran, policy, script, status), indent=2, ensure_ascii=False, default=str))
    else:
        _say(ran, quiet)
    raise SystemExit(status)


def _say(ran: Ran, quiet: bool) -> None:
    from .terminal import stderr

    if ran.error is not None:
        _say_error(ran)
    if quiet:
        return
    console = stderr()
    if ran.enforcement is not None:
        for line in ran.enforcement.missing:
            console.print(f"pyisolate: not enforced: {line}", style="yellow", markup=False)
    for heading, denials in _sorted(ran.denials):
        console.print(_summary(heading, denials), markup=False)


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


def _sorted(denials: list[DenialEvent]) -> list[tuple[str, list[DenialEvent]]]:
    """Return what was refused, and apart from it what would have been, with the words for it."""
    found: dict[str, list[DenialEvent]] = {"refused": []}
    for event in denials:
        would = f"would be refused by {event.policy}" if event.shadow else "would have been refused"
        found.setdefault(would if event.would_deny else "refused", []).append(event)
    return [(heading, events) for heading, events in found.items() if events]


def _summary(heading: str, denials: list[DenialEvent]) -> str:
    from .terminal import refused_by, suggestion_text

    total = sum(event.count for event in denials)
    lines = [f"pyisolate: {total} operation{'s' if total != 1 else ''} {heading}:"]
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
