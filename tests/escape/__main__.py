"""Print the table technique x configuration, or write it down.

python -m tests.escape [--configuration host-root,host-user,thread,vm] [--only TEXT,TEXT] [--markdown]
python -m tests.escape --defences [--configuration vm]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.escape import configurations, defences
from tests.escape.configurations import ROOT
from tests.escape.harness import Judge, Outcome
from tests.escape.technique import Technique, load

MARKS = {"stopped": "stopped", "escapes": "ESCAPES", "not run": "-", "left out": "left out"}
PAGE = ROOT / "docs/escapes.md"
RECORDS = ROOT / "tests/escape/records/results.md"

Results = dict[str, dict[str, Outcome]]
Red = dict[str, dict[str, dict[str, list[str]]]]


def run_configuration(name: str, techniques: list[Technique], verbose: bool) -> dict[str, Outcome]:
    """Try every technique in one configuration."""
    configuration = configurations.CONFIGURATIONS[name]
    outcomes: dict[str, Outcome] = {}
    if why := configuration.left_out():
        print(f"{name}: left out: {why}", file=sys.stderr)
        return {technique.key: Outcome(technique, name, "left out", why=why) for technique in techniques}
    started = time.monotonic()
    with Judge(configuration) as judge:
        for technique in techniques:
            outcome = outcomes[technique.key] = judge.attempt(technique)
            if verbose or outcome.problems:
                line = f"{name} {technique.key}: {outcome.verdict} {outcome.duration_s:.2f}s {outcome.control}"
                print("\n    ".join([line, *outcome.problems]), file=sys.stderr, flush=True)
    slowest = sorted(outcomes.values(), key=lambda outcome: -outcome.duration_s)[:12] if verbose else []
    for outcome in slowest:
        print(f"    slow: {outcome.technique.key} {outcome.duration_s:.2f} s", file=sys.stderr)
    print(f"{name}: {len(outcomes)} techniques in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return outcomes


def cell_text(outcome: Outcome | None) -> str:
    """Return one cell of the table; what differs from the technique's file is marked."""
    if outcome is None:
        return ""
    text = MARKS[outcome.verdict]
    if outcome.verdict == "escapes" and outcome.good:
        text = "not stopped"
    return text if outcome.good else f"{text} !"


def totals(outcomes: dict[str, Outcome]) -> dict[str, int]:
    """Return how many came out how; `escapes` are those that no file tells of."""
    verdicts = [outcome.verdict for outcome in outcomes.values()]
    documented = sum(outcome.verdict == "escapes" and outcome.good for outcome in outcomes.values())
    return {
        "techniques": len(verdicts),
        "stopped": verdicts.count("stopped"),
        "escapes": verdicts.count("escapes") - documented,
        "not stopped, as documented": documented,
        "not run": verdicts.count("not run") + verdicts.count("left out"),
        "not as documented": sum(not outcome.good for outcome in outcomes.values()),
    }


def print_table(techniques: list[Technique], results: Results) -> None:
    """Print technique x configuration and the totals."""
    width = max(len(technique.key) for technique in techniques) + 2
    print("technique".ljust(width) + "stopped by".ljust(34) + "".join(name.ljust(14) for name in results))
    for technique in techniques:
        row = [cell_text(outcomes.get(technique.key)).ljust(14) for outcomes in results.values()]
        print(technique.key.ljust(width) + ", ".join(technique.stops).ljust(34) + "".join(row))
    for name, outcomes in results.items():
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in totals(outcomes).items()))


def without(names: list[str], configuration: str, only: str, kept: Path | None) -> Red:
    """Return, for each defence, the techniques that turn red when it is switched off, and which of them get through."""
    found: Red = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="pyisolate-escape-") as folder:
            saved = Path(folder, "results.json")
            chosen = only or defences.groups(name, configurations.INSIDE_VM)
            command = [sys.executable, "-m", "tests.escape", "--in", configuration, "--only", chosen]
            subprocess.run(
                [*command, "--save", str(saved)],
                env={**os.environ, defences.VARIABLE: name.replace("+", ",")},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            data = json.loads(saved.read_text())["results"][configuration] if saved.exists() else []
        red = {one["key"]: bool(one["evidence"]) for one in data if one["problems"]}
        found[name] = {
            configuration: {
                "tried": [one["key"] for one in data],
                "through": [key for key, through in red.items() if through],
                "otherwise": [key for key, through in red.items() if not through],
            }
        }
        print_red({name: found[name]})
        if kept is not None:  # each as it comes: it takes long
            save(kept, {}, found)
    return found


def print_red(red: Red) -> None:
    """Print what turned red."""
    for name, by_configuration in red.items():
        for configuration, lists in by_configuration.items():
            through, otherwise = lists["through"], lists["otherwise"]
            print(f"\nwithout {name} ({configuration}, {len(lists['tried'])} tried): {len(through)} get through")
            print("  " + "\n  ".join(through or ["none: each is stopped twice"]))
            if otherwise:
                print(f"  and {len(otherwise)} are stopped with another event or ending: {', '.join(otherwise)}")
            sys.stdout.flush()


def save(path: Path, results: Results, red: Red) -> None:
    """Keep results for `--load`."""
    data = {name: [outcome.to_data() for outcome in outcomes.values()] for name, outcomes in results.items()}
    path.write_text(json.dumps({"results": data, "without": red}))


def load_saved(paths: list[Path], techniques: dict[str, Technique]) -> tuple[Results, Red]:
    """Return what earlier runs came to."""
    results: Results = {}
    red: Red = {}
    for path in paths:
        data = json.loads(path.read_text())
        for name, items in data["results"].items():
            kept = [Outcome.from_data(item, techniques) for item in items if item["key"] in techniques]
            results.setdefault(name, {}).update((outcome.technique.key, outcome) for outcome in kept)
        for name, found in data["without"].items():
            red.setdefault(name, {}).update(found)
    return results, red


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    chosen = ",".join(configurations.chosen())
    add("--configuration", "--in", dest="where", default=chosen, help=f"by comma, `none` for none ({chosen})")
    add("--only", default="", help="techniques whose name contains one of these texts")
    add("--kernel", default="6.12", help="of the virtual machine: 6.1, 6.12 or all")
    add("--whole", action="store_true", help="in the machine, also what no BPF program decides")
    add("--verbose", action="store_true", help="one line for each technique, with its control")
    add("--defences", action="store_const", const="all", dest="without", help="switch each defence off in turn")
    add("--without", default="", help="switch these defences off, one at a time: what turns red?")
    add("--markdown", action="store_true", help=f"write {PAGE.relative_to(ROOT)} and {RECORDS.relative_to(ROOT)}")
    add("--note", default="", help="for the pages: of which run each configuration is")
    add("--save", type=Path, help="keep the results in this file")
    add("--load", type=Path, action="append", default=[], help="add results that were kept")
    return parser.parse_args()


def names_of(wanted: str, where: str) -> list[str]:
    """Return the defences to switch off."""
    if wanted != "all":
        return wanted.split(",")
    return list(defences.ON_VM if where.startswith("vm") else defences.ON_HOST)


def main() -> int:
    """Run; return 1 when anything is not as its file says."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that judges clean up
    techniques = load(options.only)
    results, red = load_saved(options.load, {technique.key: technique for technique in techniques})
    where = [name for name in options.where.split(",") if name != "none"]
    if "vm" in where and not configurations.INSIDE_VM:
        from tests.escape import vm

        extra, red_there = load_saved(vm.run(options), {technique.key: technique for technique in load()})
        results |= extra
        red |= red_there
        where.remove("vm")
    if options.without and where:
        red |= without(names_of(options.without, where[0]), where[0], options.only, options.save)
    elif not options.without:
        results |= {name: run_configuration(name, techniques, options.verbose) for name in where}
    if options.save is not None:
        save(options.save, results, red)
    if options.markdown:
        from tests.escape.document import document, summary

        PAGE.write_text(summary(techniques, results, red, options.note))
        RECORDS.write_text(document(techniques, results, red, options.note))
    elif results:
        print_table(techniques, results)
    return 0 if all(outcome.good for outcomes in results.values() for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
