"""Other ways to run a piece of Python in a fresh process, beside spawn + exec + close.

What they give differs widely: a plain process confines nothing; bubblewrap, sandlock and gVisor have no broker and no
events; Monty is no CPython: an interpreter of a part of Python, in a worker process.
The figures compare costs, not promises.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyisolate

from .asked import AskedProcess
from .figures import Figure, Outcome, Reference, Settings, Skipped
from .measure import Side, median, spread, take_turns
from .quiet import wait_full
from .spawn_pool import POOL

ROOT = Path(__file__).resolve().parent.parent
#: Each package has an environment of its own, so that nothing of it can be in the one that pyisolate runs in.
ENVIRONMENTS = ROOT / ".cache" / "benchmarks"
INSTALL_TIMEOUT_S = 60.0

#: Names as `plain_process.py` knows them, and as the table shows them.
PLAIN = {
    "subprocess": 'subprocess.run([python, "-c", ""])',
    "subprocess-bare": 'subprocess.run([python, "-I", "-S", "-c", ""])',
    "fork": "multiprocessing, fork",
    "forkserver": "multiprocessing, forkserver",
    "spawn": "multiprocessing, spawn",
}
BWRAP = {"bwrap": "bubblewrap + python -I -S"}
#: By the package that they need.
PACKAGES = {
    "sandlock==0.9.0": {"sandlock": "sandlock + python -I -S", "sandlock-true": "sandlock + /bin/true"},
    "pydantic-monty==1.4.0": {"monty": "Monty, a session of its warm pool + 1"},
    "gvisor==2026.10.22.0": {"gvisor": "gVisor (runsc) + python -I -S"},
}
#: Takes seconds: fewer turns, after the others.
SLOW = ("gVisor (runsc) + python -I -S",)


def run(settings: Settings) -> Outcome:
    """Let every way that works here take its turn."""
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        sides = _sides(stack, settings, outcome)
        supervisor = stack.enter_context(pyisolate.Supervisor(pool_size=POOL))
        supervisor.spawn("first").close()

        def ours() -> float:
            wait_full(supervisor, POOL)
            started = time.perf_counter()
            with supervisor.spawn("benchmark") as sandbox:
                sandbox.exec("1")
            return time.perf_counter() - started

        ours()
        slow = {what: sides.pop(what) for what in SLOW if what in sides}
        samples = take_turns(settings.rounds(40, 10), ours, *sides.values())
        samples += take_turns(settings.rounds(8, 3), *slow.values())
    base = Reference("pyisolate, warm pool", median(samples[0]))
    outcome.figures.append(
        Figure(what="spawn + exec + close", value=base.value, unit="s", spread=spread(samples[0], 1e3) + " ms")
    )
    outcome.figures += [
        Figure(what=what, value=median(found), unit="s", spread=spread(found, 1e3) + " ms", reference=base)
        for what, found in zip((*sides, *slow), samples[1:], strict=True)
    ]
    return outcome


def _sides(stack: contextlib.ExitStack, settings: Settings, outcome: Outcome) -> dict[str, Side]:
    """Try every way once; keep those that work, note why the others do not."""
    bwrap = sys.executable if shutil.which("bwrap") else None
    groups = [
        (sys.executable, PLAIN, ""),
        (bwrap, BWRAP, "bwrap is not installed. Hint: apt-get install bubblewrap"),
    ]
    for package, ways in PACKAGES.items():
        python, why = _python_with(package, may_install=not settings.quick)
        groups.append((python, ways, why))
    sides: dict[str, Side] = {}
    for interpreter, ways, missing in groups:
        if interpreter is None:
            outcome.skipped += [Skipped(what=what, why=missing) for what in ways.values()]
            continue
        script = str(Path(__file__).with_name("plain_process.py"))
        process = stack.enter_context(AskedProcess([interpreter, script]))
        for way, what in ways.items():
            try:
                process.ask(way)
            except RuntimeError as error:
                outcome.skipped.append(Skipped(what=what, why=str(error)))
            else:
                sides[what] = _asking(process, way)
    return sides


def _asking(process: AskedProcess, way: str) -> Side:
    return lambda: float(process.ask(way))


def _python_with(package: str, *, may_install: bool) -> tuple[str | None, str]:
    """Return the interpreter that has a package, or None and why there is none."""
    environment = ENVIRONMENTS / package.partition("==")[0]
    python = environment / "bin" / "python"
    done = environment / "done"
    if done.exists():
        return str(python), ""
    if not may_install:
        return None, f"{package} is not installed yet; a run without --quick installs it into {environment}"
    base = getattr(sys, "_base_executable", sys.executable)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", package]
    try:
        os.makedirs(environment, exist_ok=True)
        for command in ([base, "-m", "venv", str(environment)], pip):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "no message").strip().splitlines()[-1]
        return None, f"{package} cannot be installed: {last}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{package} cannot be installed: {error}"
    done.touch()
    return str(python), ""
