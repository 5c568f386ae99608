"""Run the test tiers that this machine can run, and say exactly what ran, what did not, and why.

Two tiers run twice where that is possible: as root and as an ordinary user, because both get the same promises.
Standard library only, so that a broken environment is reported and not crashed into.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = os.path.relpath(sys.prefix, ROOT)
#: What `make test` runs: half an hour on two cores.
TIERS = ("unit", "host", "escape", "faults", "clients", "vm")
#: As root, and again as an ordinary user. The escape tier looks after that itself.
AS_BOTH = ("host", "faults")
#: In two runs at a time, which share its files, where there are two processors: a test mostly waits for one process.
SIDE_BY_SIDE = ("unit", "host")
#: Whole tiers, of which two run at a time there: few files have most of their tests.
BESIDE_OTHERS = ("clients", "escape", "faults")
ORDINARY_UID = 65534

#: Longer than any tier has taken (software-emulated virtual machines); a hang must not eat the whole CI hour.
TIMEOUT_S = {"unit": 900, "host": 1800, "escape": 900, "faults": 1200, "vm": 1800, "clients": 1200}

#: Features that an ordinary user cannot have on a host that delegates nothing: not required of that run.
PRIVILEGED_FEATURES = {"bcc", "bpf", "cgroup", "cgroup_bpf", "prometheus", "vm"}

#: `make test-fast`: what it chooses of each tier.
FAST = {"unit": "not slow and not fuzz and not soak", "host": "core and not slow and not fuzz and not soak"}

#: Names of folders of runs.
_FOLDERS = itertools.count(1)
SUMMARY = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped")
NO_TESTS_COLLECTED = 5
#: What ran once more because it failed beside others.
AGAIN = "failed first and ran again alone: "


@dataclass
class Outcome:
    """What one run of a tier came to."""

    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def ran(self) -> int:
        return self.passed + self.failed

    def fail(self, what: str) -> None:
        self.failed += 1
        self.failures.append(what)


def left_out(tier: str, feature: str, reason: str) -> Outcome:
    """Return a tier that did not run: a skip, or a failure where PYISOLATE_REQUIRE says that it must."""
    outcome = Outcome(tier)
    if feature in required():
        outcome.fail(f"{feature} is required (PYISOLATE_REQUIRE) but missing: {reason}")
    else:
        outcome.skipped += 1
        outcome.reasons[f"the whole tier: {reason}"] += 1
    return outcome


def required() -> set[str]:
    return {name.strip() for name in os.environ.get("PYISOLATE_REQUIRE", "").split(",") if name.strip()}


def run(
    command: list[str],
    *,
    timeout_s: float,
    env: dict[str, str],
    cwd: Path,
    capture: Path | None = None,
    shown: bool = False,
) -> int:
    """Run one tier in its own session, so that a timeout or Ctrl-C ends all of it. Return its exit status.

    `capture` gets its output; `shown` prints it as it comes, too.
    """
    if shown:
        command = ["bash", "-c", 'set -o pipefail; "$@" 2>&1 | tee "$0"', str(capture), *command]
    with contextlib.ExitStack() as files:
        output = None if capture is None or shown else files.enter_context(capture.open("wb"))
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output,
            stderr=None if output is None else subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print(f"\nthis tier ran for {timeout_s:.0f} s and is ended", flush=True)
        return 124
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_junit(report: Path, outcome: Outcome) -> bool:
    """Add the report's counts to the outcome; say whether there was one."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return False
    for case in cases:
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            if name not in outcome.failures:  # a test that fails may fail again where its fixtures end
                outcome.fail(name)
        elif skipped is not None:
            outcome.skipped += 1
            outcome.reasons[skipped.get("message") or "no reason given"] += 1
        else:
            outcome.passed += 1
    return True


def pytest_tier(
    tier: str,
    title: str,
    scratch: Path,
    *,
    tree: Path = ROOT,
    prefix: list[str] | None = None,
    env: dict[str, str] | None = None,
    options: Sequence[str] = (),
    capture: Path | None = None,
) -> Outcome:
    """Run the tests of one folder with pytest, with more of its options where given."""
    if not any((tree / "tests" / tier).glob("test_*.py")):
        return left_out(title, tier, "there are no tests in it")
    outcome = Outcome(title)
    report = scratch / "junit.xml"
    report.unlink(missing_ok=True)
    python = tree / VENV / "bin/python"
    command = [
        *(prefix or []),
        str(python if python.exists() else sys.executable),
        "-m",
        "pytest",
        f"tests/{tier}",
        f"--junitxml={report}",
        "-q",
        *options,
    ]
    status = run(
        [*command, *(["-p", "no:cacheprovider"] if prefix else [])],
        timeout_s=TIMEOUT_S[tier],
        env={**os.environ, **(env or {})},
        cwd=tree,
        capture=capture,
    )
    reported = read_junit(report, outcome)
    if status == NO_TESTS_COLLECTED:
        outcome.reasons["no tests in this tier"] += 1
    elif status and not outcome.failed:
        outcome.fail(f"pytest ended with status {status}" + ("" if reported else " and wrote no report"))
    return outcome


class Job:
    """A tier that runs beside others, or `at_once` times at a time; then by itself what is `alone`, and what failed.

    `one` runs it in a folder, with more options of pytest (tests/side_by_side.py): a file in one of the runs.
    `unchosen` says what it leaves out.
    """

    def __init__(
        self, title: str, scratch: Path, one: Callable[[Path, list[str]], Outcome], at_once: int, unchosen: str = ""
    ) -> None:
        self._title, self._one, self._unchosen = title, one, unchosen
        self._claims = Path(tempfile.mkdtemp(prefix="claims-", dir=scratch))
        self._claims.chmod(0o1777)
        self._plugin = ["-p", "tests.side_by_side", "--claims", str(self._claims), "-p", "no:cacheprovider"]
        # short names, in a directory that no other user can write to: tests make sockets there (sun_path: 108)
        self._folders = [scratch / str(next(_FOLDERS)) for _ in range(at_once + 1)]
        for folder in self._folders:
            folder.mkdir()
        self._first: list[Outcome] = []

    def run(self) -> None:
        """Run all that may run beside something."""
        with concurrent.futures.ThreadPoolExecutor(len(self._folders) - 1) as runs:
            self._first = list(runs.map(lambda folder: self._one(folder, self._plugin), self._folders[:-1]))

    def judge(self) -> Outcome:
        """Run the rest with nothing beside it, print what all of it printed, and return what it came to."""
        print(f"\n=== {self._title} ===", flush=True)
        failed, left = written(self._claims, "failed"), written(self._claims, "left")
        alone, ran = Outcome(self._title), self._folders[:-1]
        if failed or written(self._claims, "alone"):
            alone, ran = self._one(self._folders[-1], [*self._plugin, "--alone"]), self._folders
        for folder in ran:
            print((folder / "output").read_text(errors="replace"), flush=True)
        first, outcome = self._first, Outcome(self._title)
        for run in first:
            outcome.failures += [failure for failure in run.failures if failure.startswith("pytest ended")]
        if (unknown := sum(run.failed for run in first) - len(outcome.failures) - len(failed) - len(left)) > 0:
            outcome.failures.append(f"{unknown} failures, shown above")  # of collection, say
        outcome.failures += [*left, *alone.failures]
        outcome.failed = len(outcome.failures)
        outcome.passed = sum(run.passed for run in (*first, alone))
        outcome.skipped = sum(run.skipped for run in (*first, alone))
        for run in (*first, alone):
            outcome.reasons.update(run.reasons)
        if failed:
            outcome.reasons[f"{AGAIN}{', '.join(failed)}"] += len(failed)
        if self._unchosen:
            outcome.reasons[self._unchosen] += 1
        return outcome


def run_jobs(jobs: Sequence[Job | Outcome], at_once: int = 1) -> list[Outcome]:
    """Run jobs, `at_once` at a time, and judge each of them; what could not run has its outcome already."""
    ready = [job for job in jobs if isinstance(job, Job)]
    with concurrent.futures.ThreadPoolExecutor(at_once) as lanes:
        for _ in lanes.map(Job.run, ready):
            pass
    return [job.judge() if isinstance(job, Job) else job for job in jobs]


def written(claims: Path, what: str) -> list[str]:
    """Return the tests that runs wrote down: `alone`, that `failed`, or the last before a run `left` something."""
    return sorted({line for file in claims.glob(f"{what}-*") for line in file.read_text().splitlines()})


def as_user(tier: str, scratch: Path) -> Job | Outcome:
    """Make the job that runs a tier as an ordinary user, on a copy of a tree that this user could not read."""
    title = f"{tier} (user)"
    if not shutil.which("setpriv"):
        return left_out(title, "user", "setpriv is not installed. Hint: apt-get install util-linux")
    prefix = ["setpriv", f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups"]
    tree = ROOT
    if not readable(prefix, tree):
        tree = copied(scratch / "tree")
        if not readable(prefix, tree):
            return left_out(
                title,
                "user",
                f"uid {ORDINARY_UID} cannot run {os.path.realpath(sys.executable)}."
                " Hint: make PYTHON=/usr/bin/python3 after make clean",
            )
    # What learns and repeats whole programs takes minutes, and ran as root, as did what is the same for every user.
    chosen = ["-m", f"{FAST['unit']} and not once"] if tier == "host" else []

    def one(folder: Path, options: list[str]) -> Outcome:
        home = folder / "home"
        home.mkdir(exist_ok=True)
        os.chown(home, ORDINARY_UID, ORDINARY_UID)
        return pytest_tier(
            tier, title, home, tree=tree, prefix=prefix, env=users_environment(home, tree),
            options=[*chosen, *options], capture=folder / "output",
        )  # fmt: skip

    unchosen = "what is marked slow or once, which ran as root" if chosen else ""
    return Job(title, scratch, one, at_once(tier in SIDE_BY_SIDE), unchosen)


def at_once(shared: bool) -> int:
    """Return how many runs go on at a time here, of what may be shared."""
    return 2 if shared and len(os.sched_getaffinity(0)) > 1 else 1


def users_environment(home: Path, tree: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_RUNTIME_DIR": str(home),
        "USER": "nobody",
        "LOGNAME": "nobody",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(tree),
        "PYISOLATE_REQUIRE": ",".join(sorted(required() - PRIVILEGED_FEATURES)),
    }


def copied(tree: Path) -> Path:
    """Return a copy of this tree that everybody can read, made once."""
    if not tree.exists():
        print(f"uid {ORDINARY_UID} cannot read {ROOT}: testing a copy", flush=True)
        ignore = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis", "lib/modules")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore, ignore_dangling_symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(tree)], check=True)
    return tree


def readable(prefix: list[str], tree: Path) -> bool:
    """Say whether that user can start the interpreter and import the package and the tests' tools from there."""
    check = "import pytest, msgspec, pyisolate.errors"
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*prefix, str(tree / VENV / "bin/python"), "-c", check]
    try:
        return subprocess.run(command, cwd="/", env=env, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def vm_tier(scratch: Path) -> Outcome:
    """Run the suite that boots kernels with BPF-LSM; it prints its own totals."""
    script = ROOT / "tests/vm/run.py"
    if not script.exists():
        return left_out("vm", "vm", "tests/vm/run.py is not there")
    if not shutil.which("qemu-system-x86_64"):
        return left_out("vm", "vm", "qemu-system-x86_64 is not installed. Hint: apt-get install qemu-system-x86")
    outcome, log = Outcome("vm"), scratch / "vm.log"
    status = run(
        [sys.executable, "-m", "tests.vm.run", "--kernel", "all"],
        timeout_s=TIMEOUT_S["vm"],
        env=dict(os.environ),
        cwd=ROOT,
        capture=log,
        shown=True,
    )
    text = log.read_text(errors="replace")
    if totals := SUMMARY.findall(text):
        outcome.passed, outcome.failed, outcome.skipped = map(int, totals[-1])
        outcome.reasons.update(re.findall(r"^SKIPPED \[\d+\] (.*)$", text, re.MULTILINE))
        outcome.reasons.update(re.findall(rf"^{AGAIN}.*$", text, re.MULTILINE))
    if status and not outcome.failed:
        outcome.fail(f"tests/vm/run.py ended with status {status}")
    return outcome


def fast(scratch: Path) -> list[Outcome]:
    """Run the quick tests of the unit tier in two runs, one of which first runs the core of the host tier."""
    core: list[Outcome] = []
    folder = scratch / "core"
    folder.mkdir()
    turns = itertools.count()

    def quick(tier: str, where: Path, options: list[str]) -> Outcome:
        chosen = ["-m", FAST[tier], *options]
        return pytest_tier(tier, f"{tier} (fast)", where, options=chosen, capture=where / "output")

    def unit(where: Path, options: list[str]) -> Outcome:
        if next(turns) == 0:
            core.append(quick("host", folder, ["-p", "no:cacheprovider"]))
        return quick("unit", where, options)

    print("\n=== what is fast ===", flush=True)
    shared = run_jobs([Job("unit (fast)", scratch, unit, 2)])
    print((folder / "output").read_text(errors="replace"), flush=True)
    return [*shared, *core]


def as_self(tier: str, title: str, scratch: Path) -> Job:
    """Make the job that runs a tier as the user that runs this."""

    def one(folder: Path, options: list[str]) -> Outcome:
        return pytest_tier(tier, title, folder, options=options, capture=folder / "output")

    return Job(title, scratch, one, at_once(tier in SIDE_BY_SIDE))


def jobs_of(tier: str, scratch: Path) -> list[Job | Outcome]:
    """Return the runs of a tier: as this user, and where root runs this as an ordinary user, too."""
    if tier not in AS_BOTH:
        return [as_self(tier, tier, scratch)]
    if os.geteuid() != 0:
        return [left_out(f"{tier} (root)", "root", "not root"), as_self(tier, f"{tier} (user)", scratch)]
    return [as_self(tier, f"{tier} (root)", scratch), as_user(tier, scratch)]


def run_tiers(tiers: Sequence[str], scratch: Path) -> list[Outcome]:
    """Run tiers one after the other; of those that run beside others, which come together, two at a time."""
    outcomes: list[Outcome] = []
    for together, group in itertools.groupby(tiers, BESIDE_OTHERS.__contains__):
        found = list(group)
        if together:
            print(f"\n=== tiers {', '.join(found)}: {at_once(True)} at a time ===", flush=True)
            jobs = [job for tier in sorted(found, key=BESIDE_OTHERS.index) for job in jobs_of(tier, scratch)]
            outcomes += run_jobs(jobs, at_once(True))
            continue
        for tier in found:
            print(f"\n=== tier {tier} ===", flush=True)
            jobs = [] if tier == "vm" else jobs_of(tier, scratch)
            outcomes += [outcome for job in jobs for outcome in run_jobs([job])] or [vm_tier(scratch)]
    return outcomes


def print_table(outcomes: list[Outcome]) -> None:
    print(f"\n{'tier':<14}{'ran':>6}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for one in outcomes:
        print(f"{one.tier:<14}{one.ran:>6}{one.passed:>8}{one.failed:>8}{one.skipped:>9}")
    for one in outcomes:
        for reason, count in sorted(one.reasons.items()):
            print(f"  left out in {one.tier}: {count} x {reason}")
    for one in outcomes:
        for failure in one.failures:
            print(f"  FAILED in {one.tier}: {failure}")
    totals = (sum(getattr(one, key) for one in outcomes) for key in ("passed", "failed", "skipped"))
    print("\n{} passed, {} failed, {} skipped".format(*totals), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiers", nargs="*", choices=[*TIERS, []], help="which tiers to run (all)")
    parser.add_argument("--fast", action="store_true", help="only what takes less than a minute in all")
    arguments = parser.parse_args()
    chosen = () if arguments.fast else arguments.tiers or TIERS
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="pyisolate-test-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        # The ordinary user walks through it to its own folder.
        scratch.chmod(0o711)
        if arguments.fast:
            outcomes = fast(scratch)
        outcomes += run_tiers(chosen, scratch)
    print_table(outcomes)
    return 1 if any(one.failed for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
