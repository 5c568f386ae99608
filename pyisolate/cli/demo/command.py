"""`pyisolate demo`: the job, the attacks, the counters. Exit 0 only if all of it went as it must."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ..exit_status import FOUND

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ...policy import Policy
    from ...supervisor.supervisor import Supervisor
    from .scene import Scene
    from .trial import Trial

#: From this width on every column gets its own place.
_WIDE = 140


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def demo(as_json: bool) -> None:
    """Run a pandas job in a sandbox, then real attacks, and show what was refused, by whom, and how often.

    Each attack is judged from outside (was the secret read, did a connection come ...), must leave an event, and,
    where a rule could grant it, must work under that rule. Exit status: 0 when all of it held, 1 when not.
    """
    from ...errors import SandboxError
    from ..terminal import fail, stdout
    from .scene import Scene

    try:
        _need_pandas()
    except SandboxError as error:
        fail(error, FOUND)
    console = stdout()
    console.quiet = as_json
    started = time.monotonic()
    try:
        with Scene() as scene:
            report = _show(console, scene)
    except SandboxError as error:
        fail(error, FOUND)
    report["duration_s"] = round(time.monotonic() - started, 1)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    problems = report["problems"]
    console.print()
    for problem in problems:
        console.print(f"FAILED: {problem}", style="bold red", markup=False)
    verdict = f"{len(problems)} problems" if problems else "every attack was refused, recorded and counted"
    console.print(f"{verdict} ({report['duration_s']} s)", style="bold red" if problems else "bold green")
    raise SystemExit(FOUND if problems else 0)


def _need_pandas() -> None:
    """The job's library is not among pyisolate's own dependencies."""
    from ...distribution import install_extra
    from ...errors import SandboxError

    if importlib.util.find_spec("pandas") is None:
        cause = "the job is a pandas script, and pandas is not installed"
        raise SandboxError(operation="demo", cause=cause, hint=install_extra("demo"))


def _show(console: Console, scene: Scene) -> dict[str, Any]:
    from ...policy import Policy
    from ...supervisor.supervisor import Supervisor
    from .attacks import ATTACKS
    from .trial import attempt

    policy = Policy.preset("data").allow_read(scene.inbox).allow_write(scene.outbox).with_name("demo")
    # Full telemetry: also what native code opens becomes an event.
    with Supervisor(telemetry="full") as supervisor:
        problems = _job(console, supervisor, policy, scene)
        trials = []
        with console.status("attacking ..."):
            for attack in ATTACKS:
                trials.append(attempt(supervisor, policy, attack, scene))
        _table(console, trials)
        problems += [f"{trial.attack.name}: {problem}" for trial in trials for problem in trial.problems]
        counters, counted = _counters(console, trials)
        problems += counted
    problems += _leftovers()
    return {"problems": problems, "attacks": [_plain(trial) for trial in trials], "denials_total": counters}


# -- the job ----------------------------------------------------------------------------------------------------


def _job(console: Console, supervisor: Supervisor, policy: Policy, scene: Scene) -> list[str]:
    """Run the pandas report under the policy, and check its figures with the csv module on this side."""
    from ...errors import SandboxError
    from .scene import DATA, JOB, example

    console.print(f"1. A pandas job over {DATA} under preset `data`\n", style="bold", markup=False)
    job, target = example(JOB), scene.outbox / "report.csv"
    with supervisor.spawn("report", policy) as sandbox:
        try:
            result = sandbox.run_script(
                job.read_text(), filename=str(job), argv=(str(scene.data), str(target)), timeout=60
            )
        except SandboxError as error:
            return [f"the job: {error}"]
        denials, usage = sandbox.get_denial_events(), sandbox.stats
    console.print(result.stdout, markup=False)
    console.print(
        f"took {result.duration:.2f} s, {usage.cpu_s or 0:.2f} s of processor, "
        f"{(usage.memory_peak_bytes or 0) >> 20} MiB at most",
        style="dim",
    )
    for event in denials:  # libraries look for what they can do without: no problem, but worth a line
        console.print(f"it did without {event.capability} {event.target}", style="dim", markup=False)
    console.print()
    problems = []
    try:
        if _figures_of(target) != _expected(scene):
            problems.append("the job: its figures are wrong")
    except (OSError, ValueError, KeyError) as error:
        problems.append(f"the job: its result cannot be read: {error!r}")
    return problems


def _figures_of(target: Any) -> dict[str, int]:
    with open(target, newline="") as file:
        return {row["species"]: round(float(row["mass_mean_g"])) for row in csv.DictReader(file)}


def _expected(scene: Scene) -> dict[str, int]:
    masses: dict[str, list[float]] = {}
    with open(scene.data, newline="") as file:
        for row in csv.DictReader(file):
            if row["body_mass_g"]:
                masses.setdefault(row["species"], []).append(float(row["body_mass_g"]))
    return {species: round(sum(values) / len(values)) for species, values in masses.items()}


# -- what is shown ------------------------------------------------------------------------------------------------


def _table(console: Console, trials: list[Trial]) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print("2. Attacks under the same policy, each in a sandbox of its own\n", style="bold")
    wide = console.width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("attack", overflow="fold", max_width=40 if wide else 20)
    table.add_column("refused by", overflow="fold", max_width=24 if wide else 14)
    table.add_column("capability", no_wrap=True)
    table.add_column("target" if wide else "target, + the rule that would allow it", overflow="fold")
    if wide:
        table.add_column("suggestion", overflow="fold")
    table.add_column("control" if wide else "", no_wrap=True)
    for trial in trials:
        by, capability, target, suggestion = _cells(trial)
        if not wide and suggestion.plain not in ("", "-"):
            mark = "+ " if trial.event is not None and trial.event.suggestion is not None else ""
            target = Text.assemble(target, "\n", (mark + suggestion.plain, "dim"))
        cells = [Text(trial.attack.name), by, Text(capability), target, *([suggestion] if wide else [])]
        table.add_row(*cells, Text("works if granted" if wide else "c", style="dim") if trial.control else Text(""))
    console.print(table)
    legend = "" if wide else "c: the same code works under a policy that grants it"
    console.print(f"{legend}\n", style="dim")


def _cells(trial: Trial) -> tuple[Text, str, Text, Text]:
    from rich.text import Text

    from ..terminal import refused_by, suggestion_text

    event = trial.event
    if trial.problems:
        return Text("FAILED", style="bold red"), "", Text(trial.problems[0], style="red"), Text("")
    if event is None:
        return Text("", style="green"), "-", Text(trial.attack.remark, style="green"), Text("-")
    text = suggestion_text(event.suggestion) if event.suggestion is not None else _no_suggestion(event)
    return Text(refused_by(event), style="green"), event.capability, Text(_short(event.target)), Text(text)


def _short(target: str) -> str:
    return target if len(target) <= 60 else f"{target[:28]}...{target[-28:]}"


def _no_suggestion(event: Any) -> str:
    if event.code == "ALWAYS_DENIED":
        return "no policy can grant it"
    return "raise the limit" if event.capability.startswith("limit.") else "-"


def _counters(console: Console, trials: list[Trial]) -> tuple[list[dict[str, Any]], list[str]]:
    """Scrape this process's own /metrics; every event must be in the counters."""
    from prometheus_client.parser import text_string_to_metric_families

    from ...metrics import serve_metrics
    from ..event_source import scrape

    with serve_metrics(0) as server:
        text = scrape(server.url)
    rows: list[dict[str, Any]] = []
    for family in text_string_to_metric_families(text):
        rows += [
            {**sample.labels, "value": sample.value}
            for sample in family.samples
            if sample.name == "pyisolate_denials_total"
        ]
    _counter_table(console, server.url, rows)
    counted: Counter[str] = Counter()
    for row in rows:
        counted[row["capability"]] += int(row["value"])
    seen: Counter[str] = Counter()
    for trial in trials:
        for event in trial.events:
            seen[str(event.capability)] += event.count
    problems = [
        f"/metrics counts {counted[capability]} of {capability}, and there were {count} events"
        for capability, count in seen.items()
        if counted[capability] < count
    ]
    return rows, problems


def _counter_table(console: Console, url: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    console.print(f"3. pyisolate_denials_total, scraped from {url}\n", style="bold", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = {"capability": "capability", "code": "code", "broker_decision": "broker", "kernel_decision": "kernel"}
    for name in names.values():
        table.add_column(name, overflow="fold")
    table.add_column("value", justify="right")
    for row in sorted(rows, key=lambda row: (row["capability"], row["code"])):
        table.add_row(*(row.get(name, "") for name in names), f"{row['value']:.0f}")
    console.print(table)


def _leftovers() -> list[str]:
    """Return the processes of ours that outlived their supervisor."""
    import psutil

    deadline = time.monotonic() + 2
    while True:
        left = [child for child in psutil.Process(os.getpid()).children(recursive=True) if child.is_running()]
        if not left or time.monotonic() > deadline:
            return [f"process {child.pid} was left behind" for child in left]
        time.sleep(0.05)


def _plain(trial: Trial) -> dict[str, Any]:
    event = trial.event
    return {
        "attack": trial.attack.name,
        "problems": trial.problems,
        "ended": trial.ended,
        "control": trial.control,
        "duration_s": round(trial.duration_s, 3),
        "event": None if event is None else event.to_dict(),
    }
