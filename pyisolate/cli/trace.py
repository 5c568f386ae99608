"""`pyisolate trace NAME`: system calls of one running sandbox, with counts, errors and latencies, by bcc."""

from __future__ import annotations

import json
import os
import time

import click
import psutil

from ..choices import STANDBY
from ..telemetry.sanitize import escape
from .terminal import Failure

#: A zygote and a policy zygote; cut to TASK_COMM_LEN, include/linux/sched.h.
ZYGOTES = ("pyisolate-zygote"[:15], "pyisolate-policy"[:15])
#: Cells that no `spawn` has taken yet: warm ones have their init's name (native/src/cell_init.c).
_NO_SANDBOX = (*ZYGOTES, "pyisolate-init", STANDBY, "")


@click.command()
@click.argument("name", required=False)
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 3600), help="How long to count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def trace(name: str | None, seconds: float, as_json: bool) -> None:
    """Count the system calls of the sandbox NAME (or the cell with that pid), live; without NAME, list sandboxes.

    Lists those that your own processes started, as root everybody's. Counting needs root and Debian's python3-bpfcc.
    NAME is what `spawn` was given, as far as its first 15 bytes tell it.
    """
    if name is None:
        _list(as_json)
        return
    from ..kernel.trace import Tracer, TraceUnavailable

    pid = find_cell(name)
    try:
        with Tracer(_tree(pid)) as tracer:
            end = time.monotonic() + seconds
            while time.monotonic() < end and psutil.pid_exists(pid):
                time.sleep(min(0.1, seconds))
                tracer.add(*_tree(pid))
            report = tracer.report()
    except TraceUnavailable as error:
        raise Failure(str(error)) from None
    if as_json:
        import msgspec

        click.echo(json.dumps(msgspec.to_builtins(report, str_keys=True), indent=2))
        return
    click.echo(f"{'system call':<24}{'count':>9}{'errors':>8}{'mean us':>10}{'p50 us':>9}{'p99 us':>9}")
    for call in report.calls:
        p50, p99 = (call.percentile_ns(share) / 1000 for share in (0.5, 0.99))
        click.echo(
            f"{call.syscall:<24}{call.count:>9}{call.errors:>8}{call.mean_ns / 1000:>10.1f}{p50:>9.1f}{p99:>9.1f}"
        )
    click.echo(f"{sum(call.count for call in report.calls)} calls in {report.duration_s:.1f} s")


def _list(as_json: bool) -> None:
    rows = [(guest.pid, at, name) for guest, at in _cells() if (name := _comm(guest)) not in _NO_SANDBOX]
    if as_json:
        keys = ("pid", "supervisor_pid", "name")
        click.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return
    if not rows:
        click.echo("no sandbox runs", err=True)
    else:
        click.echo(f"{'pid':>8}{'supervisor':>12}  name")
    for pid, supervisor, name in rows:
        click.echo(f"{pid:>8}{supervisor:>12}  {name}")


def _cells() -> list[tuple[psutil.Process, int]]:
    """Return the guests of sandboxes that this user started, or root's look at all, with their supervisors' pids."""
    found = []
    for zygote in psutil.process_iter(["name"]):
        if zygote.info["name"] not in ZYGOTES or _below_its_like(zygote):
            continue
        try:
            supervisor = zygote.parent()
            while supervisor is not None and _comm(supervisor) in ZYGOTES:
                supervisor = supervisor.parent()
            if supervisor is None or os.getuid() not in (0, supervisor.uids().real):
                continue
            inits = [init for init in zygote.children() if _comm(init) not in ZYGOTES]
            found += [(guest, supervisor.pid) for init in inits for guest in _first_child(init)]
        except psutil.Error:
            continue  # it ended since
    return found


def find_cell(name: str) -> int:
    """Return the pid of the cell of that name or number. Raises Failure when there is none, or several."""
    cells = [guest for guest, _supervisor in _cells()]
    comm = escape(name.encode()[:15].decode(errors="replace"))
    found = [cell for cell in cells if str(cell.pid) == name or _comm(cell) == comm]
    if len(found) == 1:
        return found[0].pid
    named = sorted(f"{comm} ({cell.pid})" for cell in cells if (comm := _comm(cell)) not in _NO_SANDBOX)
    names = ", ".join(named) or "none"
    why = "there is no such sandbox" if not found else "several sandboxes have that name: give the pid"
    raise Failure(f"trace {name}: {why}. Hint: running sandboxes: {names}")


def _first_child(init: psutil.Process) -> list[psutil.Process]:
    """Return the guest, the oldest child of a cell's init: orphans of the cell become its children later."""
    try:
        return sorted(init.children(), key=lambda child: float(child.create_time()))[:1]
    except psutil.Error:
        return []


def _below_its_like(process: psutil.Process) -> bool:
    """Tell whether this is an init that has its zygote's name still: a policy zygote is below the other kind."""
    try:
        parent = process.parent()
        return parent is not None and _comm(parent) == _comm(process)
    except psutil.Error:
        return True


def _comm(process: psutil.Process) -> str:
    """Return what a task calls itself, safe to print: a guest may write what it likes there (prctl(2), PR_SET_NAME)."""
    try:
        with open(f"/proc/{process.pid}/comm", encoding="utf-8", errors="replace") as file:
            return escape(file.read().removesuffix("\n"))
    except OSError:
        return ""


def _tree(pid: int) -> list[int]:
    from ..limits.usage import descendants

    return descendants(pid)
