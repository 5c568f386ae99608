"""`pyisolate policy`: check, test, explain, diff, show, schema, learn, presets."""

from __future__ import annotations

import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import SandboxError
from .environment_options import environment_option, with_environment
from .exit_status import FOUND, STATUS, Outcome
from .policy_options import complete_preset, load_policy

if TYPE_CHECKING:
    from ..policy import Policy
    from .guest_run import Ran
    from .learn import Learning

#: Distinct operations that a learning run may need; a policy of more is no policy.
_LEARNED_LIMIT = 100_000

_STYLES = {"danger": "bold red", "warning": "yellow", "note": "dim", "widened": "yellow", "narrowed": "green"}


@click.group()
def policy() -> None:
    """Check, test, explain, compare, show and learn policies.

    POLICY is a file (YAML, TOML or JSON), the name of one in ~/.config/pyisolate/policies, or of a preset.
    """


def _load(text: str, environment: str | None = None) -> Policy:
    from .terminal import fail

    try:
        return with_environment(load_policy(text), environment)
    except (SandboxError, OSError, ValueError) as error:
        fail(error, STATUS[Outcome.COULD_NOT_START])


@policy.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option("--strict", is_flag=True, help="Also fail on warnings.")
@environment_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(policies: tuple[str, ...], strict: bool, environment: str | None, as_json: bool) -> None:
    """Read policies and say what is wrong, wider than it looks, or without effect.

    Exit status: 0 nothing grave, 1 a danger was found (or, with --strict, a warning), 125 a file cannot be read.
    """
    import msgspec

    from ..policy.explain import check as check_policy
    from .terminal import stdout

    found = {text: check_policy(_load(text, environment)) for text in policies}
    grave = {"danger", "warning"} if strict else {"danger"}
    failed = any(finding.severity in grave for findings in found.values() for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": msgspec.to_builtins(found)}, indent=2))
    else:
        console = stdout()
        for text, findings in found.items():
            for finding in findings:
                console.print(f"{text}: {finding}", style=_STYLES[finding.severity], markup=False, soft_wrap=True)
            if not findings:
                console.print(f"{text}: nothing to remark", style="green", markup=False)
    raise SystemExit(FOUND if failed else 0)


@policy.command()
@click.argument("policy_name", metavar="POLICY", shell_complete=complete_preset)
@click.argument("capability")
@click.argument("target")
@environment_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(policy_name: str, capability: str, target: str, environment: str | None, as_json: bool) -> None:
    """Say what POLICY says to an operation, by which rule, and what would allow it.

    Exit status: 0 it is allowed, 1 it is refused.

    \b
    pyisolate policy explain compute fs.read /etc/shadow
    pyisolate policy explain web-client net.connect 10.0.0.5:443
    pyisolate policy explain data import.module pandas
    """
    import msgspec

    from ..capability import Capability
    from ..decision import DenialCode
    from ..policy.advice import advice
    from ..policy.explain import asks
    from ..policy.explain import explain as explain_operation
    from ..records import RefusedOperation

    if capability not in list(Capability):
        import difflib

        near = difflib.get_close_matches(capability, list(Capability), n=1)
        hint = f" Did you mean {str(near[0])!r}?" if near else ""
        raise click.UsageError(f"{capability!r}: no such capability.{hint}")
    chosen = _load(policy_name, environment)
    decision = explain_operation(chosen, capability, target)
    denied = decision.code is DenialCode.EXPLICIT_DENY
    operation = RefusedOperation(Capability(capability), target, denied=denied)
    suggested = advice(operation) if decision.code is not None else None
    allowed, asked = decision.code is None, asks(chosen, decision)
    if as_json:
        document = {**msgspec.to_builtins(decision), "policy": chosen.name, "suggestion": suggested, "asked": asked}
        click.echo(json.dumps(document, indent=2))
    else:
        said = next((rule.reason for rule in chosen.rules if rule.text == decision.rule), None)
        _say_decision(decision, suggested, said, asked=asked)
    raise SystemExit(0 if allowed else FOUND)


def _say_decision(decision: Any, suggested: dict[str, Any] | None, said: str | None, *, asked: bool) -> None:
    from rich.text import Text

    from .terminal import stdout, suggestion_text, verdict

    console = stdout()
    lines = [Text.assemble(verdict(decision.verdict), f"  {decision.capability} {decision.target}")]
    for label, value in (
        ("rule", decision.rule),
        ("code", decision.code),
        ("reason", decision.reason),
        ("the policy says", said),
        ("ask", "the host is asked before it is refused, where it answers (on_ask)" if asked else None),
        ("nearest grant", decision.presented),
        ("to allow it, add", suggestion_text(suggested) if suggested is not None else None),
    ):
        if value:
            lines.append(Text.assemble((f"  {label}: ", "bold"), str(value)))
    for line in lines:
        console.print(line, soft_wrap=True)


@policy.command()
@click.argument("cases", type=click.Path(dir_okay=False), metavar="CASES")
@click.option("--policy", "named", metavar="POLICY", help="The policy to test, in place of the one that CASES names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def test(cases: str, named: str | None, as_json: bool) -> None:
    """Say whether a policy gives the verdicts that the file CASES expects, by the broker that guests have.

    Nothing is run. Exit status: 0 it does, 1 it misses one, 125 a file cannot be read.

    \b
    policy: ./report.yaml                 # or a preset; relative to this file
    cases:
      - {fs.read: /srv/data/a.csv, expect: allow}
      - {net.connect: "10.0.0.5:443", expect: deny, code: NOT_GRANTED}
    """
    from pathlib import Path

    import msgspec

    from ..policy.cases import judge, load_cases
    from ..policy.load import PRESETS
    from .terminal import fail, stdout

    try:
        stated, wanted = load_cases(Path(cases))
        if named is None and stated is None:
            raise click.UsageError(f"{cases} names no policy, and --policy is not given.")
        beside = stated if stated in PRESETS or stated is None else str(Path(cases).parent / stated)
        outcomes = judge(load_policy(named or beside or ""), wanted)
    except (OSError, ValueError) as error:
        fail(error, STATUS[Outcome.COULD_NOT_START])
    missed = [one for one in outcomes if one.missed is not None]
    if as_json:
        click.echo(json.dumps({"ok": not missed, "cases": msgspec.to_builtins(outcomes)}, indent=2))
    else:
        console = stdout()
        for one in missed:
            where = f"{cases}:{one.case.line}: {one.case.capability} {one.case.target}: {one.missed}"
            console.print(where, style="bold red", markup=False, soft_wrap=True)
        console.print(f"{len(outcomes) - len(missed)} of {len(outcomes)} cases as expected", markup=False)
    raise SystemExit(FOUND if missed else 0)


@policy.command()
def schema() -> None:
    """Print the JSON Schema of policy files: editors complete and check by it."""
    from ..policy.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@policy.command()
@click.argument("old", shell_complete=complete_preset)
@click.argument("new", shell_complete=complete_preset)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff(old: str, new: str, as_json: bool) -> None:
    """Say what NEW widens (the guest may do more) and narrows against OLD.

    Exit status: 0 nothing is widened, 1 something is.
    """
    import msgspec

    from ..policy.explain import diff as compare
    from .terminal import stdout

    changes = compare(_load(old), _load(new))
    widened = any(change.effect == "widened" for change in changes)
    if as_json:
        click.echo(json.dumps({"widened": widened, "changes": msgspec.to_builtins(changes)}, indent=2))
    else:
        console = stdout()
        for change in changes:
            console.print(str(change), style=_STYLES[change.effect], markup=False, soft_wrap=True)
        if not changes:
            console.print("they mean the same")
    raise SystemExit(FOUND if widened else 0)


@policy.command()
@click.argument("policy_name", metavar="POLICY", shell_complete=complete_preset)
@click.option("--compiled", is_flag=True, help="The tables that broker and kernel read, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="JSON of the policy file's shape.")
def show(policy_name: str, compiled: bool, as_json: bool) -> None:
    """Print POLICY in canonical form: defaults and inherited rules written out."""
    chosen = _load(policy_name)
    if compiled:
        import msgspec

        from ..policy.compile import compile_policy

        click.echo(msgspec.json.format(msgspec.json.encode(compile_policy(chosen)), indent=2).decode())
    elif as_json:
        click.echo(json.dumps(chosen.to_dict(), indent=2))
    else:
        click.echo(f"# version {chosen.version}\n{chosen.to_yaml()}", nl=False)


@policy.command()
def presets() -> None:
    """List the shipped policies and what they are for."""
    from pathlib import Path

    from ..policy import load
    from .terminal import stdout

    console = stdout()
    for name in load.PRESETS:
        text = (Path(load.__file__).parent / "presets" / f"{name}.yaml").read_text()
        about = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        console.print(name, style="bold", markup=False)
        console.print(f"    {about}", markup=False)


@policy.command(context_settings={"allow_interspersed_args": False})
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the policy here (default: stdout).")
@click.option("--base", default="compute", show_default=True, metavar="POLICY", help="What is granted anyway.")
@click.option("-g", "--generalise", type=click.IntRange(0, 3), default=1, show_default=True,
              help="0: exactly what was seen. 1: packages, directories of many files. 2: every file's directory. "
              "3: also directories above directories, and networks.")  # fmt: skip
@click.option("--from", "log", type=click.Path(dir_okay=False), help="Learn from an audit log instead of a run.")
@click.option(
    "--verify",
    is_flag=True,
    help="Run again under the learned policy, learn what is still refused (a link's name, a fallback), "
    "at most five times; fail if something is refused in the end.",
)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS")
@click.option("--env", metavar="KEY=VALUE", multiple=True, help="A variable of the guest's environment. Repeatable.")
@environment_option
@click.argument("script", required=False)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def learn(
    output: str | None, base: str, generalise: int, log: str | None, verify: bool, script: str | None,
    args: tuple[str, ...], timeout: float | None, env: tuple[str, ...], environment: str | None,
) -> None:  # fmt: skip
    """Run SCRIPT in monitor mode and write a policy that grants what it did.

    SCRIPT is a script, a directory with a `__main__.py` or a zip application.

    Nothing but the floor is refused in monitor mode: learn only from code that you would run unconfined, and read
    the policy before you enforce it. The script's output goes to stderr when the policy goes to stdout.
    """
    from .guest_run import Settings, assignment, run_guest
    from .learn import Learning
    from .project import chosen_script
    from .terminal import fail, progress, show_trace

    if (script is None) == (log is None):
        raise click.UsageError("name a script to run, or --from an audit log, not both.")
    if verify and script is None:
        raise click.UsageError("--verify runs a script again: name it.")
    start = _load(base, environment)
    try:
        if log is not None:
            from ..telemetry.sinks.audit_reader import read_events

            Learning(list(read_events(log)), start, generalise).write(output)
            return
        chosen = chosen_script((script or "", *args), None, None)
    except (OSError, ValueError) as error:
        fail(error, STATUS[Outcome.COULD_NOT_START])
    variables = dict(assignment(pair) for pair in env)
    # What native code opens is to be learned as well.
    settings = Settings(timeout=timeout, env=variables, streamed=False, capacity=_LEARNED_LIMIT, telemetry="full")
    with progress("learning: run 1, in monitor mode"):
        ran = run_guest(start.with_mode("monitor"), chosen, settings)
    click.echo(ran.stdout, nl=False, err=output is None)
    click.echo(ran.stderr, nl=False, err=True)
    learning = Learning(ran.denials, start, generalise)
    if ran.error is None and verify:
        runs = itertools.count(2)

        def again(policy: Policy) -> Ran:
            with progress(f"verifying: run {next(runs)}, under what was learned"):
                return run_guest(policy, chosen, settings)

        verified = learning.verify(again)
        learning.write(output)
        _say_verified(verified, learning)
        return
    learning.write(output)
    if ran.error is not None:
        show_trace(ran.error)
        fail(ran.error, STATUS[ran.outcome])


def _say_verified(ran: Ran, learning: Learning) -> None:
    from .terminal import complain, show_trace

    missing = learning.missing(ran)
    if ran.error is not None:
        show_trace(ran.error)
        complain(ran.error)
    for event in missing:
        click.echo(f"pyisolate: still refused: {event}", err=True)
    for capability, target in sorted(learning.out_of_reach):
        click.echo(f"pyisolate: left out, this machine's own permissions refuse it: {capability} {target}", err=True)
    if ran.error is not None or missing:
        sys.exit(FOUND)
    click.echo("pyisolate: verified: the same run is refused nothing under the learned policy", err=True)
