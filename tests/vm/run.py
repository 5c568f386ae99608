"""The VM tier: boot each kernel once, run tests/vm/inside in it, bring the junit reports back, print the totals.

What failed runs once more in a machine of its own, with no other beside it, and that verdict counts: emulated machines
share the host's processors with one another and with what else the host does.

.venv/bin/python -m tests.vm.run --kernel 6.1|6.12|all [-k EXPRESSION] [--junit DIR]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from tests.run_tiers import AGAIN
from tests.vm import boot, kernels

#: What the suite inside may take on a loaded machine; alone on two cores it needs a third of it.
TIMEOUT_S = 1500.0
INSIDE = boot.ROOT / "tests/vm/inside"
#: More are no accident of a busy machine, and would not end in time.
AGAIN_MOST = 12
#: One download at a time.
_fetching = threading.Lock()
_PASSED_ON = ("PYISOLATE_REQUIRE", "PYISOLATE_VM_FLOOD", "PYISOLATE_VM_RELOADS", "PYISOLATE_VM_JOIN")


def command(report: str, arguments: list[str]) -> str:
    """Return the shell command that runs the suite inside the machine."""
    settings = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    settings |= {"PYISOLATE_VM": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(boot.ROOT)}
    settings |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HOME": "/root"}  # emulated: every import counts
    pytest = [sys.executable, "-m", "pytest", f"--confcutdir={INSIDE}", f"--junitxml={report}"]
    pytest += ["-p", "pytest_timeout", "--timeout", "600", "--durations", "12", "--rootdir", str(boot.ROOT)]
    pytest += ["-q", "-rsf", "-p", "no:cacheprovider", *arguments]
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    # Tests open files often, and 9p takes a millisecond for each: their files live in memory.
    return f"mount -t tmpfs tmpfs /mnt && ulimit -n 65536 && cd / && env {exports} {shlex.join(pytest)}"


@dataclass
class Ran:
    """What one machine reported."""

    kernel: kernels.Kernel | None
    passed: int = 0
    skipped: int = 0
    #: Names of tests, as pytest takes them, and what else went wrong.
    failed: list[str] = field(default_factory=list)
    broken: int = 0

    def totals(self) -> tuple[int, int, int]:
        return self.passed, len(self.failed) + self.broken, self.skipped


def run_kernel(series: str, folder: Path, arguments: list[str], *, alone: bool = True) -> Ran:
    """Boot one kernel, run the suite in it, and print what happened: at once where it runs alone."""
    try:
        with _fetching:
            found = kernels.kernel(series)
            boot.vng()
        return run_suite(found, folder / f"junit-{series}.xml", [str(INSIDE), *arguments], alone=alone)
    except (boot.CannotBoot, kernels.KernelMissing) as error:
        print(f"SKIPPED [1] {error}")
        required = {word.strip() for word in os.environ.get("PYISOLATE_REQUIRE", "").split(",")}
        return Ran(None, broken=1) if required & {"vm", "all"} else Ran(None, skipped=1)


def run_suite(kernel: kernels.Kernel, report: Path, arguments: list[str], *, alone: bool) -> Ran:
    """Run pytest in a machine that is booted for it."""
    began = time.monotonic()
    print(f"\n--- Linux {kernel.release}, {boot.LSMS} ---", flush=True)
    suite = command(str(report), arguments)
    if alone:
        status = boot.boot(kernel, suite, writable=report.parent, timeout_s=TIMEOUT_S)
    else:
        told = report.with_suffix(".txt")
        with told.open("wb") as output:
            status = boot.boot(kernel, suite, writable=report.parent, timeout_s=TIMEOUT_S, output=output.fileno())
        print(f"\n--- Linux {kernel.release} said ---\n{told.read_text(errors='replace')}", flush=True)
    ran = read(report, kernel)
    if status and not ran.failed and not ran.broken:
        ran.broken = 1
        print(f"FAILED: the machine with Linux {kernel.release} ended with status {status}")
    passed, failed, skipped = ran.totals()
    took = f"{time.monotonic() - began:.0f} s"
    print(f"Linux {kernel.release}: {passed} passed, {failed} failed, {skipped} skipped, {took}", flush=True)
    return ran


def read(report: Path, kernel: kernels.Kernel | None = None) -> Ran:
    """Read a junit report; one that is not there is a failure."""
    ran = Ran(kernel)
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        ran.broken = 1
        return ran
    # a test that fails may fail again where its fixtures end: one name, two cases
    failed = {name_of(case): None for case in cases if is_failed(case)}
    rest = [case for case in cases if name_of(case) not in failed]
    ran.failed = list(failed)
    ran.skipped = sum(case.find("skipped") is not None for case in rest)
    ran.passed = len(rest) - ran.skipped
    return ran


def is_failed(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def name_of(case: ElementTree.Element) -> str:
    """Return a test's name as pytest takes it, from below the tree's root."""
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"


def again(first: Ran, folder: Path) -> Ran:
    """Run what failed once more, by itself; return what all of it came to."""
    if first.kernel is None or first.broken or not 0 < len(first.failed) <= AGAIN_MOST:
        return first
    print(f"\n{AGAIN}Linux {first.kernel.release}: {', '.join(first.failed)}", flush=True)
    names = [str(boot.ROOT / name) for name in first.failed]
    second = run_suite(first.kernel, folder / f"junit-{first.kernel.release}-again.xml", names, alone=True)
    second.broken += len(first.failed) - sum(second.totals())  # what was not found has not passed
    second.passed += first.passed
    second.skipped += first.skipped
    return second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=[*kernels.SERIES, "all"], default="all")
    parser.add_argument("-k", dest="expression", help="passed to pytest")
    parser.add_argument("--junit", type=Path, help="keep the reports in this folder")
    chosen = parser.parse_args()
    arguments = ["-k", chosen.expression] if chosen.expression else []
    boot.end_on(signal.SIGTERM, signal.SIGINT)
    sums = [0, 0, 0]
    with tempfile.TemporaryDirectory(prefix="pyisolate-vm-") as name:
        folder = chosen.junit.resolve() if chosen.junit else Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        chosen_series = list(kernels.SERIES) if chosen.kernel == "all" else [chosen.kernel]
        alone = len(chosen_series) == 1 or (os.cpu_count() or 1) == 1
        # An emulated machine keeps less than one processor busy: together they take little longer than one.
        with concurrent.futures.ThreadPoolExecutor(1 if alone else len(chosen_series)) as machines:
            runs = [machines.submit(run_kernel, one, folder, arguments, alone=alone) for one in chosen_series]
            first = [run.result() for run in runs]
        for ran in (again(one, folder) for one in first):
            sums = [total + one for total, one in zip(sums, ran.totals(), strict=True)]
    print("\n{} passed, {} failed, {} skipped".format(*sums))
    return 1 if sums[1] else 0


if __name__ == "__main__":
    sys.exit(main())
