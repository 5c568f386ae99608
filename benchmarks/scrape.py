"""`/metrics` with 1,000 sandboxes: at most 50 ms."""

from __future__ import annotations

import urllib.request

import pyisolate

from .figures import Figure, Outcome, Reference, Settings, Skipped
from .measure import median, spread, timed
from .quiet import descriptors_for, many

SANDBOXES = 1000
BUDGET_S = 0.05


def run(settings: Settings) -> Outcome:
    """Scrape over HTTP on the loopback, before there is a sandbox and with all of them idle."""
    count = settings.rounds(SANDBOXES, 200)
    if why := descriptors_for(count):
        return Outcome(skipped=[Skipped(what="/metrics", why=why)])
    rounds = settings.rounds(30, 10)
    with pyisolate.Supervisor(pool_size=16) as supervisor, pyisolate.serve_metrics(port=0) as server:

        def scrape() -> bytes:
            with urllib.request.urlopen(server.url, timeout=30) as answer:
                return bytes(answer.read())

        scrape()
        empty = [timed(scrape)() for _ in range(rounds)]
        with many(supervisor, count, "compute"):
            if f'state="idle"}} {count}.0'.encode() not in scrape():
                raise AssertionError(f"/metrics: it does not tell of {count} idle sandboxes")
            full = [timed(scrape)() for _ in range(rounds)]
    limit = BUDGET_S * count / SANDBOXES
    return Outcome(
        figures=[
            Figure(
                what=f"/metrics, {count} sandboxes",
                value=median(full),
                unit="s",
                spread=spread(full, 1e3) + " ms",
                reference=Reference("no sandbox", median(empty)),
                budget=f"<= {limit * 1e3:.0f} ms",
                met=median(full) <= limit,
            )
        ]
    )
