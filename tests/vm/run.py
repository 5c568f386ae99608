"""The VM tier: boot each kernel once, run tests/vm/inside in it, bring the junit reports back, print the totals.

.venv/bin/python -m tests.vm.run --kernel 6.1|6.12|all [-k EXPRESSION] [--junit DIR]
"""

from __future__ import annotations

import argparse
import compileall
import concurrent.futures
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.vm import boot, kernels

#: What the suite inside may take on a loaded machine; alone on two cores it needs a third of it.
TIMEOUT_S = 1500.0
#: One download at a time.
_fetching = threading.Lock()
_PASSED_ON = ("PYISOLATE_REQUIRE", "PYISOLATE_VM_FLOOD", "PYISOLATE_VM_RELOADS", "PYISOLATE_VM_JOIN")


def command(report: str, arguments: list[str]) -> str:
    """Return the shell command that runs the suite inside the machine."""
    settings = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    settings |= {"PYISOLATE_VM": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(boot.ROOT)}
    settings |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HOME": "/root"}  # emulated: every import counts
    inside = boot.ROOT / "tests/vm/inside"
    pytest = [sys.executable, "-m", "pytest", str(inside), f"--confcutdir={inside}", f"--junitxml={report}"]
    pytest += ["-p", "pytest_timeout", "--timeout", "600", "--durations", "12", "--rootdir", str(boot.ROOT)]
    pytest += ["-q", "-rsf", "-p", "no:cacheprovider", *arguments]
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    # Tests open files often, and 9p takes a millisecond for each: their files live in memory.
    return f"mount -t tmpfs tmpfs /mnt && ulimit -n 65536 && cd / && env {exports} {shlex.join(pytest)}"


def run_kernel(series: str, folder: Path, arguments: list[str], *, alone: bool = True) -> tuple[int, int, int]:
    """Boot one kernel; return (passed, failed, skipped) and print what happened: at once where it runs alone."""
    began = time.monotonic()
    try:
        with _fetching:
            found = kernels.kernel(series)
            boot.vng()
        report = folder / f"junit-{series}.xml"
        print(f"\n--- Linux {found.release}, {boot.LSMS} ---", flush=True)
        suite = command(str(report), arguments)
        if alone:
            status = boot.boot(found, suite, writable=folder, timeout_s=TIMEOUT_S)
        else:
            told = folder / f"output-{series}.txt"
            with told.open("wb") as output:
                status = boot.boot(found, suite, writable=folder, timeout_s=TIMEOUT_S, output=output.fileno())
            print(f"\n--- Linux {found.release} said ---\n{told.read_text(errors='replace')}", flush=True)
    except (boot.CannotBoot, kernels.KernelMissing) as error:
        print(f"SKIPPED [1] {error}")
        required = {word.strip() for word in os.environ.get("PYISOLATE_REQUIRE", "").split(",")}
        return (0, 1, 0) if required & {"vm", "all"} else (0, 0, 1)
    passed, failed, skipped = totals(report)
    if status and not failed:
        failed += 1
        print(f"FAILED: the machine with Linux {found.release} ended with status {status}")
    took = f"{time.monotonic() - began:.0f} s"
    print(f"Linux {found.release}: {passed} passed, {failed} failed, {skipped} skipped, {took}", flush=True)
    return passed, failed, skipped


def totals(report: Path) -> tuple[int, int, int]:
    """Read a junit report; (0, 1, 0) where there is none."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed, skipped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=[*kernels.SERIES, "all"], default="all")
    parser.add_argument("-k", dest="expression", help="passed to pytest")
    parser.add_argument("--junit", type=Path, help="keep the reports in this folder")
    chosen = parser.parse_args()
    arguments = ["-k", chosen.expression] if chosen.expression else []
    boot.end_on(signal.SIGTERM, signal.SIGINT)
    sums = [0, 0, 0]
    for folder in ("pyisolate", "tests/vm"):  # here, where it is quick: the machine cannot write to the tree
        compileall.compile_dir(boot.ROOT / folder, quiet=2)
    with tempfile.TemporaryDirectory(prefix="pyisolate-vm-") as name:
        folder = chosen.junit.resolve() if chosen.junit else Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        chosen_series = list(kernels.SERIES) if chosen.kernel == "all" else [chosen.kernel]
        alone = len(chosen_series) == 1 or (os.cpu_count() or 1) == 1
        # An emulated machine keeps less than one processor busy: together they take little longer than one.
        with concurrent.futures.ThreadPoolExecutor(1 if alone else len(chosen_series)) as machines:
            runs = [machines.submit(run_kernel, one, folder, arguments, alone=alone) for one in chosen_series]
            for run in runs:
                sums = [total + one for total, one in zip(sums, run.result(), strict=True)]
    print("\n{} passed, {} failed, {} skipped".format(*sums))
    return 1 if sums[1] else 0


if __name__ == "__main__":
    sys.exit(main())
