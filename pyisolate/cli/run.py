"""`pyisolate run`: one script in one sandbox, its output streamed, its refusals summed up at the end."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..capability import Capability
from ..errors import SandboxError
from .environment_options import environment_of_script, states_dependencies
from .exit_status import STATUS, Outcome, status_of
from .guest_files import named_file
from .guest_options import guest_options
from .guest_run import Ran, Settings, assignment, run_guest
from .policy_options import choose_policy, load_policy, policy_options, warn_of_absent
from .project import RunCommand, Script, chosen_script, why_not_beside, why_not_granted, with_project

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..policy import Policy
    from ..sandbox.rich import RichOutput
    from ..telemetry.event import DenialEvent

#: How a guest ends by itself; all else has a status that says more than that something was refused.
_BY_GUEST = (Outcome.SUCCESS, Outcome.EXIT, Outcome.GUEST_ERROR)
#: What the summary says of operations that were.
_REFUSED = "refused"
#: Refusals listed at the end of a run; the rest is counted.
_LISTED = 20

_EPILOG = """\b
Exit status:
  0-255  what the guest gave to sys.exit (0: it ended normally)
  1      the guest raised an exception that nothing caught, or its output could not be written (| head, a full disk)
  2      wrong command line
  120    a refusal ended the guest, or --fail-on-denial and there was one (in the place of 0-255 and 1)
  121    a limit ended the guest (processor time, memory, output ...)
  122    the guest's process died (native crash, killed)
  124    its time was up (--timeout, limits.wall)
  125    it could not start: the script, the policy, or what this kernel can enforce
  130    interrupted, by Ctrl-C here or a KeyboardInterrupt of the guest's
"""


@click.command(cls=RunCommand, epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@policy_options
@guest_options
@click.option("--monitor", is_flag=True, help="Refuse nothing but the floor; record what would have been refused.")
@click.option("--shadow", metavar="POLICY", help="Also record what this policy (a file or preset) would refuse.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with output, result and refusals.")
@click.option("--isolation", type=click.Choice(["process", "thread"]), default="process", show_default=True)
@click.option("--telemetry", type=click.Choice(["default", "full"]), default="default", show_default=True,
              help="full: also record what native code opens.")  # fmt: skip
@click.option("--preload", metavar="MODULE", multiple=True, help="Import MODULE before the guest starts. Repeatable.")
@click.option("--outputs", type=click.Path(file_okay=False), metavar="DIR",
              help="Save what the guest displays (figures, tables) as files here.")  # fmt: skip
@click.option("--ask", is_flag=True, help="Ask at the terminal about connections and requests that no rule speaks of.")
@click.option("--ask-socket", metavar="PATH", help="Ask another process instead: JSON Lines over this unix socket.")
@click.option("--save-answers", type=click.Path(dir_okay=False), metavar="FILE",
              help="Write the policy with what was answered by `always` here.")  # fmt: skip
@click.option("--metrics-port", type=int, metavar="PORT", help="Serve /metrics on 127.0.0.1 while it runs.")
@click.option(
    "--fail-on-denial",
    is_flag=True,
    help="Exit with 120 when anything was, or would have been, refused, caught or not. What ended it from outside "
    "(121 to 130) goes before.",
)
@click.option("--install", is_flag=True,
              help="Build the packages that the script's header names (PEP 723), and let it import them.")  # fmt: skip
@click.option("-c", "text", metavar="TEXT", help="Run TEXT; what follows are its arguments.")
@click.option("-m", "module", metavar="MODULE", help="Run MODULE as a script; what follows are its arguments.")
@click.option("--project/--no-project", default=True,
              help="Grant the modules beside the script, where no --policy is given.  [default: project]")  # fmt: skip
@click.argument("words", metavar="[SCRIPT [ARGS]...]", nargs=-1, type=click.UNPROCESSED)
def run(words: tuple[str, ...], text: str | None, module: str | None, **options: Any) -> None:
    """Run SCRIPT (or - for stdin, -c TEXT, -m MODULE) with ARGS in a sandbox.

    The guest's output streams through; what was refused is summed up on stderr, with the rule that would allow it.
    The script is read here and sent as text: the guest needs no grant for its file. What is piped in here is its stdin.
    Where modules lie beside it, their directory is granted for reading, and they can be imported.
    """
    as_json, fail_on_denial, quiet = (options.pop(name) for name in ("as_json", "fail_on_denial", "quiet"))
    folder: str | None = options.pop("outputs")
    install: bool = options.pop("install")
    if install and options["environment"]:
        raise click.UsageError("--install and --environment exclude each other.")
    answers: str | None = options.pop("save_answers")
    policy: Policy | None = None
    script: Script | None = None
    settings: Settings | None = None
    kept_out = ""
    name = "-c" if text is not None else module or "".join(words[:1])
    project = options.pop("project") and options["policy_file"] is None
    try:
        if not quiet:
            warn_of_absent(options)
        policy = choose_policy(options)
        script = chosen_script(words, text, module)
        if install and (environment := environment_of_script(script.source)) is not None:
            policy = environment.grant(policy)
        kept_out = why_not_granted(script) if project else ""
        policy, script = with_project(policy, script, grant=project)
        if options.pop("monitor"):
            policy = policy.with_mode("monitor")
        if options["shadow"] is not None:
            options["shadow"] = load_policy(options["shadow"])
        options["env"] = dict(assignment(text) for text in options["env"])
        options["files"] = dict(named_file(text) for text in options["files"])
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
        settings = Settings(**options, streamed=not as_json)
        ran = run_guest(policy, script, settings)
        if folder is not None:
            _save(ran.outputs, folder)
        if answers is not None and ran.answered is not None:
            Path(answers).write_text(ran.answered.to_yaml())
    except (SandboxError, OSError, ValueError) as error:
        ran = Ran(error=error)
    status = status_of(ran.outcome, ran.exit_code)
    refused = any(event.capability is not Capability.FS_LOOKUP for event in ran.denials)
    if fail_on_denial and refused and ran.outcome in _BY_GUEST:
        status = STATUS[Outcome.POLICY]
    if as_json:
        click.echo(json.dumps(_document(ran, policy, name, status), indent=2, ensure_ascii=False, default=str))
    else:
        say(ran, quiet)
        if script is not None and not (install or quiet) and _lacked_module(ran) and states_dependencies(script.source):
            click.echo("pyisolate: the script names packages in its header (PEP 723): --install builds them", err=True)
        lacked = _lacked_module(ran) if project and script is not None and not quiet else ""
        if script is not None and lacked and (kept_out := kept_out or why_not_beside(script, lacked)):
            click.echo(f"pyisolate: {kept_out}", err=True)
        say_what_is_not_there(ran, script, settings, quiet)
    raise SystemExit(status)


def say_what_is_not_there(ran: Ran, script: Script | None, settings: Settings | None, quiet: bool) -> None:
    """Say of a guest that failed that a file which its arguments name is on this side alone."""
    failed = ran.outcome in _BY_GUEST and status_of(ran.outcome, ran.exit_code) != 0
    if script is None or settings is None or quiet or not failed:
        return
    if absent := _why_not_there(script.args or script.command[1:], settings):
        click.echo(f"pyisolate: {absent}", err=True)


def _why_not_there(words: Sequence[str], settings: Settings) -> str:
    """Say which of a guest's arguments names a file of the working directory, where the guest has none; else empty."""
    own = settings.isolation == "process" and not (settings.workspace or settings.copy_on_write or settings.cwd)
    for word in words if own else ():
        if word not in settings.files and not Path(word).is_absolute() and _is_file(word):
            from ..telemetry.sanitize import escape  # a name may hold what a terminal takes for an order

            copied = shlex.quote(word if "/" not in word else f"{word}={word}")
            return (
                f"the guest started in a directory of its own, without '{escape(word)}': --file {escape(copied)} "
                "copies it there, --workspace . lets the guest work in this one"
            )
    return ""


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # whatever else an argument is: too long for a name, with a NUL
        return False


def _lacked_module(ran: Ran) -> str:
    """Return the top-level module whose absence, or refusal, ended the guest; empty for any other end."""
    event = getattr(ran.error, "denial_event", None)
    if event is not None and event.capability == "import.module":
        return str(event.target).partition(".")[0]
    if getattr(ran.error, "type_name", None) == "ModuleNotFoundError":
        return getattr(ran.error, "message", "").removeprefix("No module named '").partition("'")[0].partition(".")[0]
    return ""


def _save(outputs: tuple[RichOutput, ...], folder: str) -> None:
    for number, output in enumerate(outputs, start=1):
        output.save(folder, f"{number:03}")


def say(ran: Ran, quiet: bool, *, traced: bool = True) -> None:
    """Say on stderr how it ended, what is not enforced, and what was refused.

    `quiet`: only how it ended. `traced`: with the lines of the guest's that a refusal went through.
    """
    listed = None if quiet else _refusal_listed_below(ran)
    if ran.error is not None:
        _say_error(ran, traced, listed=listed is not None)
    if quiet:
        return
    warnings = [f"pyisolate: not copied, for it is no regular file: {name}" for name in ran.copied.left_out]
    notes = []
    for change in ran.changes:
        what = "committed" if ran.committed else "changed"
        notes.append(f"pyisolate: {what}: {change.change} {change.path} ({change.kind}, {change.size} bytes)")
    if ran.enforcement is not None:
        warnings += [f"pyisolate: not enforced: {line}" for line in ran.enforcement.missing]
    hint = None if listed is None else getattr(ran.error, "hint", None)
    notes += [_summary(heading, denials, listed, hint) for heading, denials in _sorted(_beside_error(ran))]
    if not warnings and not notes:
        return  # most runs: what prints takes longer to import than a small script to run
    from .terminal import stderr

    console = stderr()
    for line in warnings:
        console.print(line, style="yellow", markup=False)
    for line in notes:
        console.print(line, markup=False)


def _refusal_listed_below(ran: Ran) -> DenialEvent | None:
    """Return the refusal that ended the guest where the summary has it: once, where all others are."""
    ended = getattr(ran.error, "denial_event", None)
    if ran.outcome is not Outcome.POLICY or ended is None:
        return None
    listed = dict(_sorted(ran.denials)).get(_REFUSED, [])[:_LISTED]
    return next((event for event in listed if event.event_id == ended.event_id), None)


def _beside_error(ran: Ran) -> list[DenialEvent]:
    """Return the refusals that the error itself does not tell of: a limit that ended the guest is no operation."""
    from ..errors import LimitExceeded

    if not isinstance(ran.error, LimitExceeded):
        return ran.denials
    ended = f"limit.{'wall' if ran.error.limit == 'timeout' else ran.error.limit}"
    return [event for event in ran.denials if event.capability != ended or event.count > 1]


def _say_error(ran: Ran, traced: bool, *, listed: bool) -> None:
    from ..errors import GuestError, TimeoutError

    error = ran.error
    if isinstance(error, GuestError):
        if not error.shown:
            click.echo(error.traceback.rstrip(), err=True)  # what the interpreter itself would have printed
        if error.hint and not ran.denials:  # else it is that of a refusal, which the summary has
            click.echo(f"pyisolate: {error.hint}", err=True)
        return
    from .terminal import complain, show_trace

    assert error is not None
    if traced:
        show_trace(error)
    if isinstance(error, TimeoutError) and error.limit == "timeout":  # what lives on in a service ends here
        error.hint = "pass a larger --timeout, or make the guest do less"
    if not listed:
        complain("interrupted" if isinstance(error, KeyboardInterrupt) else error)


def _sorted(denials: list[DenialEvent]) -> list[tuple[str, list[DenialEvent]]]:
    """Return what was refused, and apart from it what would have been or an answer allowed, with the words for it."""
    found: dict[str, list[DenialEvent]] = {_REFUSED: []}
    for event in denials:
        if event.capability is Capability.FS_LOOKUP:
            found.setdefault("found nothing, for it is not granted", []).append(event)
            continue
        found.setdefault(_heading(event), []).append(event)
    return [(heading, events) for heading, events in found.items() if events]


def _heading(event: DenialEvent) -> str:
    if not event.would_deny:
        return _REFUSED
    if event.answer in ("once", "sandbox", "rule"):
        return "allowed by an answer"
    return f"would be refused by {event.policy}" if event.shadow else "would have been refused"


def _summary(heading: str, denials: list[DenialEvent], ended: DenialEvent | None, hint: str | None) -> str:
    """Return the lines about refusals of one kind. `hint` is that of the error of `ended`, which may know more."""
    from .terminal import refused_by

    total = sum(event.count for event in denials)
    lines = [f"pyisolate: {total} operation{'s' if total != 1 else ''} {heading}:"]
    for event in denials[:_LISTED]:
        times = f" x{event.count}" if event.count > 1 else ""
        where = f", at {event.origin}" if event.origin else ""
        lines.append(f"  {event.capability} {event.target}{times}  [{refused_by(event)}: {event.code}]{where}")
        lines += [f"      {line}" for line in _remedy(event, hint if event is ended else None)]
    if len(denials) > _LISTED:
        lines.append(f"  ... and {len(denials) - _LISTED} more (--json lists them all)")
    return "\n".join(lines)


def _remedy(event: DenialEvent, hint: str | None) -> Iterator[str]:
    from ..telemetry.policy_error import hint_of, is_denied_by_rule, to_run_it
    from .terminal import suggestion_text

    if hint is not None and hint != hint_of(event):
        yield f"hint: {hint}"
    elif is_denied_by_rule(event):
        yield f"to allow it, remove or narrow:  {event.policy_rule}"
    elif event.suggestion is not None:
        yield f"to allow it, add:  {suggestion_text(event.suggestion)}"
        if (to_run := to_run_it(event)) is not None:
            yield f"to run it, add:    {suggestion_text(to_run)}"
    elif event.code == "ALWAYS_DENIED":
        yield "no policy can allow it"
    elif hint is not None:
        yield f"hint: {hint}"


def _described(error: BaseException) -> dict[str, Any]:
    from ..errors import describe

    of_guest = {name: getattr(error, name, None) or None for name in ("type_name", "traceback")}
    return describe(error) | of_guest


def _document(ran: Ran, policy: Policy | None, script: str, status: int) -> dict[str, Any]:
    import msgspec

    report = ran.enforcement
    return {
        "script": script,
        "outcome": str(ran.outcome),
        "exit_status": status,
        "guest_exit_code": ran.exit_code,
        "error": None if ran.error is None else _described(ran.error),
        "duration_s": round(ran.duration_s, 6),
        "stdout": ran.stdout,
        "stderr": ran.stderr,
        "outputs": [output.to_jupyter() for output in ran.outputs],
        "files": ran.copied._asdict(),
        "changes": [change._asdict() for change in ran.changes],
        "committed": ran.committed,
        "policy": None if policy is None else {"name": policy.name, "version": policy.version, "mode": policy.mode},
        "denials": [event.to_dict() for event in ran.denials],
        "stats": None if ran.stats is None else msgspec.to_builtins(ran.stats),
        "enforcement": None
        if report is None
        else {"complete": report.complete, "missing": list(report.missing), "notes": list(report.notes)},
    }
