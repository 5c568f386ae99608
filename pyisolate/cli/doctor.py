"""`pyisolate doctor`: prove what this machine can enforce; exit 0 when strict sandboxes work here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from .exit_status import FOUND


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(as_json: bool) -> None:
    """Prove each mechanism live on this machine, then attack one real sandbox.

    Says what is missing, why, and how to get it. Exit status: 0 when strict sandboxes work here, 1 when not.
    """
    from . import doctor_checks as checks

    findings = checks.machine()
    findings.append(_guarded("interpreter for cells", checks.interpreter_readable))
    findings += _of_supervisor()
    findings.append(_guarded("metrics", checks.prometheus_tools))
    failed = [finding for finding in findings if finding.failed]
    if as_json:
        document = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(document, indent=2, default=str))
    else:
        _show(findings, bool(failed))
    raise SystemExit(FOUND if failed else 0)


def _of_supervisor() -> list[Any]:
    from ..supervisor.supervisor import Supervisor
    from . import doctor_checks as checks

    findings: list[Any] = []
    try:
        with Supervisor(pool_size=1) as supervisor:
            probes = checks.sandbox_probes(supervisor)  # first: programs are loaded for the first one that connects
            findings += checks.enforcers(supervisor.diagnostics())
            findings += checks.bpf_mechanisms({finding.name for finding in findings})
            findings += probes
    except Exception as error:
        findings.append(checks.Finding("supervisor", checks.MISSING, f"{type(error).__name__}: {error}", needed=True))
    return findings


def _guarded(name: str, check: Callable[[], Any]) -> Any:
    """A check that breaks is a finding, not the end of the report."""
    from . import doctor_checks as checks

    try:
        return check()
    except Exception as error:
        return checks.Finding(name, checks.WEAKER, f"could not tell: {type(error).__name__}: {error}")


_MARKS = {
    "ok": ("ok", "green"),
    "missing": ("MISSING", "bold red"),
    "weaker": ("weaker", "yellow"),
    "info": ("", "dim"),
}


def _show(findings: list[Any], failed: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from .terminal import stdout

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        word, style = _MARKS[finding.status]
        text = Text(finding.text)
        if finding.remedy and finding.status in ("missing", "weaker"):
            text.append(f"\nremedy: {finding.remedy}", style="bold")
        table.add_row(Text(finding.name), Text(word, style=style), text)
    console = stdout()
    console.print(table)
    if failed:
        console.print("\nStrict sandboxes do not work here.", style="bold red")
    else:
        console.print("\nStrict sandboxes work here.", style="bold green")
    console.print(
        "Process isolation is the boundary. Thread isolation shares memory with its host: a guard rail for code you "
        "wrote yourself.",
        style="dim",
    )
