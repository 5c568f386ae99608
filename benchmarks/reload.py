"""Policy reload for 1,000 sandboxes: at most 60 ms."""

from __future__ import annotations

import time

import pyisolate

from .figures import Figure, Outcome, Reference, Settings, Skipped
from .measure import batch, median, take_turns
from .quiet import descriptors_for, many
from .round_trip import PAYLOAD, bare_echo

SANDBOXES = 1000
BUDGET_S = 0.06


def run(settings: Settings) -> Outcome:
    """Reload every sandbox that runs a policy, back and forth between two sets of network rules."""
    count = settings.rounds(SANDBOXES, 200)
    if why := descriptors_for(count):
        return Outcome(skipped=[Skipped(what="policy reload", why=why)])
    narrow = pyisolate.Policy.preset("compute").allow_connect("127.0.0.1:5432")
    wide = narrow.allow_connect("10.0.0.0/8:443")
    with bare_echo() as (echo, _), pyisolate.Supervisor(pool_size=16) as supervisor, many(supervisor, count, narrow):
        turn = iter([wide, narrow] * 20)

        def ours() -> float:
            policy = next(turn)
            started = time.perf_counter()
            done = supervisor.reload_policy(policy.name, policy)
            took = time.perf_counter() - started
            if done != count:
                raise AssertionError(f"reload: {done} of {count} sandboxes took the policy")
            return took

        ours(), ours()
        reloads, echoes = take_turns(settings.rounds(6, 3), ours, batch(lambda: echo(PAYLOAD), count))
    limit = BUDGET_S * count / SANDBOXES
    return Outcome(
        figures=[
            Figure(
                what=f"policy reload, {count} sandboxes, network rules",
                value=median(reloads),
                unit="s",
                spread=f"min {min(reloads) * 1e3:.1f}, max {max(reloads) * 1e3:.1f} ms, n={len(reloads)}",
                reference=Reference(f"{count} bare 1 kB echoes", median(echoes) * count),
                budget=f"<= {limit * 1e3:.0f} ms",
                met=median(reloads) <= limit,
                note=f"{median(reloads) / count * 1e6:.0f} µs a sandbox; its broker follows with its next request",
            )
        ]
    )
