"""Memory of an idle cell: at most 1.5 MB PSS at 500 cells."""

from __future__ import annotations

import re
from pathlib import Path

import pyisolate

from .figures import Figure, Outcome, Settings, Skipped
from .quiet import descriptors_for, many, wait_full

CELLS = 500
POOL = 8
BUDGET_BYTES = 1.5e6


def run(settings: Settings) -> Outcome:
    """Spawn the cells and read /proc/PID/smaps_rollup of each; those that wait in the pool are read beside them."""
    count = settings.rounds(CELLS, 100)
    if why := descriptors_for(count):
        return Outcome(skipped=[Skipped(what=f"idle cell, PSS at {count} cells", why=why)])
    outcome = Outcome()
    with pyisolate.Supervisor(pool_size=POOL) as supervisor:
        supervisor.spawn("first").close()
        wait_full(supervisor, POOL)
        free_before = _available_bytes()
        with many(supervisor, count, "compute") as sandboxes:
            free_after = _available_bytes()
            pss, why = _pss_of([sandbox.pid for sandbox in sandboxes])
            outcome.figures += _figures(pss, count, f"idle cell, PSS at {count} cells, as handed out")
            wait_full(supervisor, POOL)
            known = {sandbox.pid for sandbox in sandboxes}
            waiting, _ = _pss_of([pid for pid in _guests(supervisor) if pid not in known])
            outcome.figures += _figures(waiting, count, "the same while it waits in the pool", judged=False)
            for sandbox in sandboxes:
                sandbox.exec("x = 1")
            after_use, _ = _pss_of([sandbox.pid for sandbox in sandboxes])
            outcome.figures += _figures(after_use, count, "the same after one request", judged=False)
    if why:
        outcome.skipped.append(Skipped(what=f"idle cell, PSS at {count} cells", why=why))
    outcome.figures.append(
        Figure(
            what="machine's available memory taken, a cell",
            value=(free_before - free_after) / count,
            unit="B",
            spread=f"{count} cells",
            note="MemAvailable before and after: page tables, namespaces, control groups and the host's side included; "
            "other programs too",
        )
    )
    return outcome


def _figures(pss: list[int], count: int, what: str, judged: bool = True) -> list[Figure]:
    if not pss:
        return []
    mean = sum(pss) / len(pss)
    exact = judged and count == CELLS
    return [
        Figure(
            what=what,
            value=mean,
            unit="B",
            spread=f"min {min(pss) / 1e6:.2f}, max {max(pss) / 1e6:.2f} MB, n={len(pss)}",
            budget="<= 1.5 MB" if judged else "",
            met=mean <= BUDGET_BYTES if judged else None,
            note="" if exact or not judged else f"with {count} cells only: what they share is divided by fewer",
        )
    ]


def _pss_of(pids: list[int]) -> tuple[list[int], str]:
    """Return every process's proportional set size (bytes), and why one could not be read."""
    found, why = [], ""
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError as error:
            why = f"/proc/PID/smaps_rollup: {error.strerror}: what a cell maps is closed to this user; run as root"
            continue
        if match := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
            found.append(int(match[1]) << 10)
    return found, why


def _guests(supervisor: pyisolate.Supervisor) -> list[int]:
    """Return every cell's guest, the child of its init; none where the kernel does not tell."""
    pool = supervisor.diagnostics().pools["own_network"]
    zygotes = [pid for pid in (pool.zygote_pid, *pool.policy_zygote_pids) if pid is not None]
    inits = [pid for zygote in zygotes for pid in _children(zygote) if pid not in zygotes]
    return [guest for init in inits for guest in _children(init)]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _available_bytes() -> int:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 0
