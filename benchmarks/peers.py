"""Other ways to run a piece of Python in a fresh process, beside spawn + exec + close.

What they give differs widely: a plain process confines nothing, bubblewrap and sandlock have no broker and no events.
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

SANDLOCK = "sandlock==0.9.0"
ROOT = Path(__file__).resolve().parent.parent
#: An environment of its own, so that nothing of it can ever be in the one that pyisolate runs in.
SANDLOCK_VENV = ROOT / ".cache" / "benchmarks" / "sandlock"
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
IN_SANDLOCK = {"sandlock": "sandlock + python -I -S", "sandlock-true": "sandlock + /bin/true"}


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
        samples = take_turns(settings.rounds(40, 10), ours, *sides.values())
    base = Reference("pyisolate, warm pool", median(samples[0]))
    outcome.figures.append(
        Figure(what="spawn + exec + close", value=base.value, unit="s", spread=spread(samples[0], 1e3) + " ms")
    )
    outcome.figures += [
        Figure(what=what, value=median(found), unit="s", spread=spread(found, 1e3) + " ms", reference=base)
        for what, found in zip(sides, samples[1:], strict=True)
    ]
    return outcome


def _sides(stack: contextlib.ExitStack, settings: Settings, outcome: Outcome) -> dict[str, Side]:
    """Try every way once; keep those that work, note why the others do not."""
    bwrap = sys.executable if shutil.which("bwrap") else None
    sandlock, why = _sandlock_python(may_install=not settings.quick)
    groups = (
        (sys.executable, PLAIN, ""),
        (bwrap, BWRAP, "bwrap is not installed. Hint: apt-get install bubblewrap"),
        (sandlock, IN_SANDLOCK, why),
    )
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


def _sandlock_python(*, may_install: bool) -> tuple[str | None, str]:
    """Return the interpreter that has sandlock, or None and why there is none."""
    python = SANDLOCK_VENV / "bin" / "python"
    done = SANDLOCK_VENV / "done"
    if done.exists():
        return str(python), ""
    if not may_install:
        return None, f"{SANDLOCK} is not installed yet; a run without --quick installs it into {SANDLOCK_VENV}"
    base = getattr(sys, "_base_executable", sys.executable)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", SANDLOCK]
    try:
        os.makedirs(SANDLOCK_VENV, exist_ok=True)
        for command in ([base, "-m", "venv", str(SANDLOCK_VENV)], pip):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "no message").strip().splitlines()[-1]
        return None, f"{SANDLOCK} cannot be installed: {last}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{SANDLOCK} cannot be installed: {error}"
    done.touch()
    return str(python), ""
