"""Print the rates of right events, and every miss: `python -m tests.truth [CONFIGURATION ...]`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

import pyisolate
from tests.vm import kernels

from . import scenarios, vm
from .libraries import LIBRARIES
from .measure import Rates, cases, measure
from .places import make_places
from .programs import PROGRAMS
from .sequences import SEQUENCES
from .world import make_world

#: name -> arguments of the supervisor and of spawn
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "full": ({"telemetry": "full"}, {}),
    "listener": ({"network": "listener"}, {}),
    "thread": ({}, {"isolation": "thread", "enforcement": "best_effort"}),
}


#: name -> mode of the policy: calls after one another, programs and libraries
SCENARIOS = {"scenarios": "enforce", "scenarios-monitor": "monitor"}


def show(name: str, rates: Rates, *, misses: bool) -> None:
    refused = len(rates.refused)
    print(f"{name}: {refused} refused operations, {rates.rate('right'):.1%} right, {rates.rate('any'):.1%} any event")
    for verdict in rates.misses if misses else ():
        print(f"  {verdict.operation} ({verdict.way}): {verdict.outcome}: {', '.join(verdict.problems) or 'event'}")
        for text in verdict.events:
            print(f"      {text}")
    for verdict in rates.verdicts if misses else ():
        if verdict.outcome.startswith("failed"):
            print(f"  {verdict.operation} ({verdict.way}): {verdict.outcome}")


def run_scenarios(name: str, only: str, *, misses: bool) -> float:
    """Run and show all scenarios in one mode; return the share of those whose events are right."""
    picked = [one for one in (*SEQUENCES, *PROGRAMS, *LIBRARIES) if only in one.name]
    with make_places() as places, pyisolate.Supervisor() as supervisor:
        _wait_for_cells(supervisor)
        outcomes = scenarios.run(supervisor, places, picked, SCENARIOS[name])
    untold = sum(not outcome.events and bool(outcome.scenario.events) for outcome in outcomes)
    right = scenarios.rate(outcomes)
    alone = sum(outcome.alone for outcome in outcomes)
    print(f"{name}: {len(outcomes)} scenarios, {right:.1%} with the events that they should leave, {untold} with none")
    print(f"  {alone} leave these alone; in the others the code went on after what enforcing ends")
    for outcome in outcomes if misses else ():
        if outcome.problems:
            print("\n      ".join((f"  {outcome.scenario.name}: {'; '.join(outcome.problems)}", *outcome.events)))
    return right


def _wait_for_cells(supervisor: pyisolate.Supervisor) -> None:
    """An emulated machine, beside others, takes longer for the first cell than a host ever should."""
    for _ in range(10):
        with contextlib.suppress(pyisolate.SandboxError):
            supervisor.spawn("first").close()
            return


def main() -> int:
    known = (*CONFIGURATIONS, *SCENARIOS)
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("configuration", nargs="*", help=f"default: default. All: {', '.join(known)}")
    parser.add_argument("--quiet", action="store_true", help="print the rates only")
    parser.add_argument("--only", default="", help="operations and scenarios whose name holds this text")
    parser.add_argument(
        "--vm", choices=sorted(kernels.SERIES), help="measure on this kernel, with BPF-LSM, in a machine"
    )
    options = parser.parse_args()
    if options.vm:
        passed_on = [*options.configuration, "--only", options.only, *["--quiet"] * options.quiet]
        return vm.run(options.vm, passed_on)
    chosen = options.configuration or ["default"]
    if unknown := set(chosen) - set(known):
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    misses = not options.quiet
    rates = [run_scenarios(name, options.only, misses=misses) for name in chosen if name in SCENARIOS]
    rates += measure_operations([name for name in chosen if name in CONFIGURATIONS], options.only, misses=misses)
    return 0 if min(rates, default=1.0) >= 0.99 else 1


def measure_operations(chosen: list[str], only: str, *, misses: bool) -> list[float]:
    """Measure and show the table of operations in some configurations; return the rates that must be high."""
    rates = []
    with make_world() as world:
        for name in chosen:
            of_supervisor, of_spawn = CONFIGURATIONS[name]
            with pyisolate.Supervisor(**of_supervisor) as supervisor:
                _wait_for_cells(supervisor)
                picked = [case for case in cases(world) if only in case[0].name]
                measured = measure(supervisor, world, picked, **of_spawn)
            show(name, measured, misses=misses)
            rates.append(measured.rate("right"))
    return rates


if __name__ == "__main__":
    sys.exit(main())
