"""The runner: one process per benchmark, one table for all."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time

import msgspec

from . import machine, table
from .figures import Outcome, Settings, Skipped

#: In the order of the table; `python -m benchmarks --list` tells what each is.
NAMES = (
    "spawn_pool",
    "spawn_demand",
    "sustained",
    "round_trip",
    "host_call",
    "thread",
    "host_threads",
    "idle_cell",
    "denial_event",
    "denial_flood",
    "reload",
    "scrape",
    "scale",
    "connect",
    "egress",
    "peers",
)
#: A benchmark that takes longer hangs; it is killed with all that it started (seconds).
TIMEOUT_S = 150.0


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and print it; 0 when everything ran, whether or not it met its budget."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name in NAMES:
            print(f"{name:14} {_first_line(name)}")
        return 0
    settings = Settings(quick=options.quick)
    if options.child:
        return _child(options.child, settings)
    unknown = sorted(set(options.only) - set(NAMES))
    if unknown:
        print(f"benchmarks: no such benchmark: {', '.join(unknown)}. Hint: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    outcomes: dict[str, Outcome] = {}
    failed = False
    for name in options.only or NAMES:
        began = time.monotonic()
        print(f"benchmarks: {name} ...", end="", flush=True, file=sys.stderr)
        outcomes[name], good = _in_process(name, settings)
        failed |= not good
        print(f" {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(f"machine: {machine.line()}")
    print(table.render(outcomes))
    print(
        f"took {time.monotonic() - started:.0f} s; figures are medians where not named otherwise; "
        "the sides of a ratio took turns"
    )
    if options.json:
        _write_json(options.json, outcomes)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the budgets.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run this one (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: under a minute, coarser")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE ('-' is stdout)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    return parser


def _first_line(name: str) -> str:
    return (importlib.import_module(f".{name}", __package__).__doc__ or "").partition("\n")[0]


def _child(name: str, settings: Settings) -> int:
    """Run one benchmark in this process; its outcome is the last line on stdout."""
    outcome = importlib.import_module(f".{name}", __package__).run(settings)
    print(msgspec.json.encode(outcome).decode())
    return 0


def _in_process(name: str, settings: Settings) -> tuple[Outcome, bool]:
    command = [sys.executable, "-m", "benchmarks", "--child", name, *(["--quick"] if settings.quick else [])]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome(skipped=[Skipped(what=name, why=f"it hung and was killed after {TIMEOUT_S:.0f} s")]), False
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode != 0 or not out.strip():
        last = (err.strip().splitlines() or ["no message"])[-1]
        return Outcome(skipped=[Skipped(what=name, why=f"it failed with status {process.returncode}: {last}")]), False
    return msgspec.json.decode(out.strip().splitlines()[-1], type=Outcome), True


def _write_json(path: str, outcomes: dict[str, Outcome]) -> None:
    document = {
        "machine": machine.describe(),
        "benchmarks": {
            name: {
                "figures": [{**msgspec.to_builtins(figure), "ratio": figure.ratio} for figure in outcome.figures],
                "skipped": msgspec.to_builtins(outcome.skipped),
            }
            for name, outcome in outcomes.items()
        },
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    if path == "-":
        print(text, end="")
    else:
        with open(path, "w") as file:
            file.write(text)
