"""`pyisolate trace NAME`: system calls of one running sandbox, with counts, errors and latencies, by bcc."""

from __future__ import annotations

import json
import time

import click
import psutil

#: A zygote and a policy zygote; cut to TASK_COMM_LEN, include/linux/sched.h.
ZYGOTES = ("pyisolate-zygote"[:15], "pyisolate-policy"[:15])


@click.command()
@click.argument("name")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 3600), help="How long to count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def trace(name: str, seconds: float, as_json: bool) -> None:
    """Count the system calls of the sandbox NAME (or the cell with that pid), live.

    Needs root and Debian's python3-bpfcc. NAME is what `spawn` was given, as far as its first 15 bytes tell it.
    """
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
        raise click.ClickException(str(error)) from None
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


def find_cell(name: str) -> int:
    """Return the pid of the cell of that name or number. Raises ClickException when there is none, or several."""
    cells = [
        guest
        for parent in psutil.process_iter(["name"])
        if parent.info["name"] in ZYGOTES and not _below_its_like(parent)
        for init in parent.children()
        if _comm(init) not in ZYGOTES
        for guest in _first_child(init)
    ]
    found = [
        cell for cell in cells if str(cell.pid) == name or _comm(cell) == name.encode()[:15].decode(errors="replace")
    ]
    if len(found) == 1:
        return found[0].pid
    names = ", ".join(sorted(f"{_comm(cell)} ({cell.pid})" for cell in cells if _comm(cell) not in ZYGOTES)) or "none"
    why = "there is no such sandbox" if not found else "several sandboxes have that name: give the pid"
    raise click.ClickException(f"trace {name}: {why}. Hint: running sandboxes: {names}")


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
    try:
        with open(f"/proc/{process.pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _tree(pid: int) -> list[int]:
    from ..limits.usage import descendants

    return descendants(pid)
