"""What a supervisor holds at one moment, for operators, `doctor` and tests: counts, and which enforcers were proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..choices import EnforcerName
from ..enforcement import Availability

if TYPE_CHECKING:
    from .runtime import Runtime


class PoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cells of one pool: warm (those that stand by for the usual policy among them), and asked for.

    `zygote_pid`: None where none runs. `policy_zygote_pids`: the zygotes that fork cells of one policy, and those that
    only wait for their last one to end. `for_frequent`: cells beside the warm ones that wait for other policies.
    """

    warm: int
    starting: int
    zygote_pid: int | None
    policy_zygote_pids: tuple[int, ...] = ()
    for_frequent: int = 0


class Diagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """One supervisor's state: `new`, `running` or `closed`; what it holds, and what its probes saw.

    `pools` names `own_network` (cells with a network of their own) and, where programs may judge it, `host_network`.
    `ending` are closed sandboxes whose cell is not reaped yet. `control_groups` are those of the tree, held by a cell
    (`leases`) or free; None without a tree. `standby_threads` are confined ahead for thread isolation.
    `listener`: the notification listener answers. `proxy_pid`: the egress proxy, None where none runs.
    """

    state: str
    sandboxes: int = 0
    standby: int = 0
    standby_threads: int = 0
    ending: int = 0
    leases: int = 0
    channels: int = 0
    pools: dict[str, PoolCounts] = {}
    control_groups: int | None = None
    listener: bool = False
    proxy_pid: int | None = None
    enforcers: dict[str, Availability] = {}

    @property
    def zygote_pid(self) -> int | None:
        """Process id of the zygote of ordinary cells, None where none runs."""
        pool = self.pools.get("own_network")
        return None if pool is None else pool.zygote_pid

    def usable(self, enforcer: EnforcerName) -> bool:
        """True when the enforcer's live probe saw it deny."""
        found = self.enforcers.get(enforcer)
        return found is not None and found.usable


def diagnose(runtime: Runtime) -> Diagnostics:
    """Return a supervisor's state now."""
    live, standby, ending, leases = runtime.registry.counts()
    pools: dict[str, PoolCounts] = {}
    running = runtime.running
    for name, pool in zip(("own_network", "host_network"), () if running is None else running.pools(), strict=False):
        warm, starting = pool.stock.counts()
        pools[name] = PoolCounts(
            warm=warm,
            starting=starting,
            zygote_pid=pool.zygote_pid,
            policy_zygote_pids=pool.stock.policies.pids,
            for_frequent=pool.stock.of_others(),
        )
    return Diagnostics(
        state=runtime.state,
        sandboxes=live,
        standby=standby,
        standby_threads=runtime.registry.standby_threads(),
        ending=ending,
        leases=leases,
        channels=0 if running is None else running.reactor.channels,
        pools=pools,
        control_groups=None if running is None or running.cgroups is None else running.cgroups.size,
        listener=runtime.plan.listener is not None and runtime.plan.listener.alive,
        proxy_pid=runtime.egress.pid,
        enforcers=dict(runtime.plan.availability),
    )
