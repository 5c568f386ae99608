"""Print the table technique x configuration: `python -m tests.escape [--in CONFIGURATION] [--only TEXT]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.escape import configurations, defences
from tests.escape.harness import Judge, Outcome
from tests.escape.technique import Technique, load

MARKS = {"stopped": "stopped", "escapes": "ESCAPES", "not run": "-", "left out": "left out"}


def run_configuration(name: str, techniques: list[Technique], verbose: bool) -> dict[str, Outcome]:
    """Try every technique in one configuration."""
    configuration = configurations.CONFIGURATIONS[name]
    outcomes = {}
    if why := configuration.left_out():
        print(f"{name}: left out: {why}", file=sys.stderr)
        return {technique.key: Outcome(technique, name, "left out", why=why) for technique in techniques}
    started = time.monotonic()
    with Judge(configuration) as judge:
        for technique in techniques:
            outcome = outcomes[technique.key] = judge.attempt(technique)
            if verbose or outcome.problems:
                print(
                    f"{name} {technique.key}: {outcome.verdict} {outcome.duration_s:.2f}s {outcome.control}",
                    file=sys.stderr,
                )
                for problem in outcome.problems:
                    print(f"    {problem}", file=sys.stderr)
    slowest = sorted(outcomes.values(), key=lambda outcome: -outcome.duration_s)[:12] if verbose else []
    for outcome in slowest:
        print(f"    slow: {outcome.technique.key} {outcome.duration_s:.2f} s", file=sys.stderr)
    print(f"{name}: {len(outcomes)} techniques in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return outcomes


def cell_text(outcome: Outcome) -> str:
    """Return one cell of the table; what differs from the technique's file is marked."""
    text = MARKS[outcome.verdict]
    if outcome.verdict == "escapes" and outcome.good:
        text = "not stopped"
    return text if outcome.good else f"{text} !"


def print_table(techniques: list[Technique], results: dict[str, dict[str, Outcome]]) -> None:
    """Print technique x configuration and the totals."""
    width = max(len(technique.key) for technique in techniques) + 2
    print("technique".ljust(width) + "stopped by".ljust(34) + "".join(name.ljust(14) for name in results))
    for technique in techniques:
        row = [cell_text(outcomes[technique.key]).ljust(14) for outcomes in results.values()]
        print(technique.key.ljust(width) + ", ".join(technique.stops).ljust(34) + "".join(row))
    for name, outcomes in results.items():
        verdicts = [outcome.verdict for outcome in outcomes.values()]
        bad = sum(not outcome.good for outcome in outcomes.values())
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in MARKS if verdict in verdicts)
        print(f"{name}: {len(verdicts)} techniques: {counts}; {bad} not as documented")


def without(names: list[str], configuration: str, only: str) -> None:
    """Print, for each defence, the techniques that turn red when it is switched off."""
    for name in names:
        environment = {**os.environ, defences.VARIABLE: name}
        command = [sys.executable, "-m", "tests.escape", "--in", configuration, "--only", only, "--red"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        red = done.stdout.split()
        print(f"\nwithout {name}: {len(red)} turn red\n  " + "\n  ".join(red), flush=True)


def main() -> int:
    """Run; return 1 when anything is not as its file says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--in", dest="where", default=",".join(configurations.chosen()), help="configurations, by comma"
    )
    parser.add_argument("--only", default="", help="techniques whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="one line for each technique, with its control")
    parser.add_argument("--without", default="", help="switch defences off (comma, or all): what turns red?")
    parser.add_argument("--markdown", action="store_true", help="print docs/escapes.md instead of the table")
    parser.add_argument("--red", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.without:
        names = list(defences.DEFENCES) if options.without == "all" else options.without.split(",")
        without(names, options.where.split(",")[0], options.only)
        return 0
    techniques = load(options.only)
    results = {name: run_configuration(name, techniques, options.verbose) for name in options.where.split(",")}
    if options.red:
        print("\n".join(key for outcomes in results.values() for key, outcome in outcomes.items() if not outcome.good))
    elif options.markdown:
        from tests.escape.document import document

        print(document(techniques, results), end="")
    else:
        print_table(techniques, results)
    return 0 if all(outcome.good for outcomes in results.values() for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
