"""Print the rates of right events, and every miss: `python -m tests.truth [CONFIGURATION ...]`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

import pyisolate
from tests.vm import kernels

from . import vm
from .measure import Rates, cases, measure
from .world import make_world

#: name -> arguments of the supervisor and of spawn
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "full": ({"telemetry": "full"}, {}),
    "listener": ({"network": "listener"}, {}),
    "thread": ({}, {"isolation": "thread", "enforcement": "best_effort"}),
}


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


def _wait_for_cells(supervisor: pyisolate.Supervisor) -> None:
    """An emulated machine, beside others, takes longer for the first cell than a host ever should."""
    for _ in range(10):
        with contextlib.suppress(pyisolate.SandboxError):
            supervisor.spawn("first").close()
            return


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("configuration", nargs="*", help=f"default: default. All: {', '.join(CONFIGURATIONS)}")
    parser.add_argument("--quiet", action="store_true", help="print the rates only")
    parser.add_argument("--only", default="", help="operations whose name holds this text")
    parser.add_argument(
        "--vm", choices=sorted(kernels.SERIES), help="measure on this kernel, with BPF-LSM, in a machine"
    )
    options = parser.parse_args()
    if options.vm:
        passed_on = [*options.configuration, "--only", options.only, *["--quiet"] * options.quiet]
        return vm.run(options.vm, passed_on)
    chosen = options.configuration or ["default"]
    if unknown := set(chosen) - set(CONFIGURATIONS):
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    worst = 1.0
    with make_world() as world:
        for name in chosen:
            of_supervisor, of_spawn = CONFIGURATIONS[name]
            with pyisolate.Supervisor(**of_supervisor) as supervisor:
                _wait_for_cells(supervisor)
                picked = [case for case in cases(world) if options.only in case[0].name]
                rates = measure(supervisor, world, picked, **of_spawn)
            show(name, rates, misses=not options.quiet)
            worst = min(worst, rates.rate("right"))
    return 0 if worst >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
