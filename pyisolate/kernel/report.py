"""Who enforces what in one sandbox: written from what was proven here and from what its cell says it applied."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from ..capability import Capability
from .enforcer import CapabilityStatus, Coverage, EnforcementReport

if TYPE_CHECKING:
    from .plan import KernelPlan, Prepared

_FS = (
    Capability.FS_READ,
    Capability.FS_WRITE,
    Capability.FS_CREATE,
    Capability.FS_DELETE,
    Capability.FS_EXEC,
    Capability.IMPORT_MODULE,
    Capability.IMPORT_NATIVE,
    Capability.RANDOM_READ,
)
_NET = (
    Capability.NET_CONNECT,
    Capability.NET_BIND,
    Capability.NET_LISTEN,
    Capability.NET_SEND,
    Capability.NET_SOCKET,
)
_NET_NATIVE = (Capability.NET_CONNECT, Capability.NET_SEND, Capability.NET_SOCKET)
_PROCESS = (Capability.PROCESS_EXEC, Capability.PROCESS_FORK)
_SCOPED = (Capability.PROCESS_SIGNAL, Capability.PROCESS_TRACE, Capability.IPC_UNIX)


def write_report(
    plan: KernelPlan,
    prepared: Prepared,
    isolation: str,
    enforcement: str,
    steps: tuple[str, ...],
    failed: tuple[tuple[str, str], ...],
    *,
    has_cgroup: bool,
    why: str,
) -> EnforcementReport:
    """Return a sandbox's report. `steps` were applied, `failed` were not; `why` there is no control group, if so."""
    return EnforcementReport(
        isolation=isolation,
        enforcement=enforcement,
        kernel=platform.release(),
        capabilities=_Statuses(plan, set(steps)).all(has_cgroup, why),
        enforcers=tuple(plan.availability.values()),
        missing=(*prepared.missing, *(f"{name}: {reason}" for name, reason in failed)),
        notes=(*prepared.notes, *_isolation_notes(isolation)),
    )


class _Statuses:
    """Writes the lines of one report."""

    def __init__(self, plan: KernelPlan, steps: set[str]) -> None:
        self._plan, self._steps = plan, steps
        self._seen = plan.traits.full_telemetry
        self._blind = (
            "refusals of native code show as errno only: no BPF telemetry in this configuration; "
            "Supervisor(telemetry='full') records what native code opens"
        )

    def all(self, has_cgroup: bool, cgroup_reason: str) -> tuple[CapabilityStatus, ...]:
        """Return one line for each capability."""
        deciders, watched = self._files()
        lines = [self._line(c, deciders, self._has(deciders[0]), telemetry=watched) for c in _FS]
        looks = self._has(deciders[-1])
        lines.append(self._line(Capability.FS_METADATA, deciders[-1:], looks, telemetry=watched))
        listens = self._plan.listener is not None and self._has("seccomp")
        exact = "exact: every refusal is a record of the listener"
        if self._has("cgroup-bpf"):
            told = "exact: every refusal is a record of the programs"
            lines += [self._line(c, ("cgroup-bpf", "seccomp"), listens, telemetry=told) for c in _NET_NATIVE]
            lines += [self._line(c, ("seccomp",), listens, telemetry=exact) for c in _NET if c not in _NET_NATIVE]
        else:
            lines += [self._line(c, ("seccomp", "namespaces", "landlock"), listens, telemetry=exact) for c in _NET]
        lines += [self._line(c, ("bpf-lsm", "seccomp", "landlock"), listens, telemetry=exact) for c in _PROCESS]
        lines += [
            self._line(c, ("bpf-lsm", "namespaces", "seccomp", "landlock"), listens, telemetry=exact) for c in _SCOPED
        ]
        rest = [c for c in Capability if c.value.startswith(("kernel.", "ipc.", "memory."))]
        lines += [self._line(c, ("bpf-lsm", "seccomp"), listens, telemetry=exact) for c in rest if c not in _SCOPED]
        limits = ("cgroup", "rlimit", "watchdog") if has_cgroup else ("rlimit", "watchdog")
        for capability in Capability:
            if capability.value.startswith("limit."):
                lines.append(
                    CapabilityStatus(
                        capability=capability,
                        coverage=Coverage.FULL,
                        enforcers=limits,
                        missing="" if has_cgroup else f"no cgroup: {cgroup_reason}; sums are sampled",
                        telemetry="recorded by the supervisor",
                    )
                )
        return tuple(lines)

    def _files(self) -> tuple[tuple[str, ...], str]:
        """Return who decides files, the strongest first, and how its refusals become known."""
        bpf = self._plan.bpf
        if bpf.decides:
            return ("bpf-lsm",), "exact: every refusal is a record of the programs"
        if bpf.observer is not None:
            telemetry = "the sys_exit observer tells of every refused call"
        elif self._seen:
            telemetry = "recorded by the notification listener"
        elif bpf.counter is not None:
            telemetry = "counted exactly after each request; native code's refusals without their target"
        else:
            telemetry = self._blind
        return ("landlock", "root view"), telemetry

    def _has(self, step: str) -> bool:
        return step in self._steps

    def _line(
        self, capability: Capability, enforcers: tuple[str, ...], enforced: bool, *, telemetry: str
    ) -> CapabilityStatus:
        used = tuple(
            name for name in enforcers if self._has(name) or (name == "namespaces" and self._plan.usable(name))
        )
        return CapabilityStatus(
            capability=capability,
            coverage=Coverage.FULL if enforced else Coverage.NONE,
            enforcers=used if enforced else (),
            missing="" if enforced else f"not enforced: {', '.join(enforcers)} not applied",
            telemetry=telemetry if enforced else "",
        )


def _isolation_notes(isolation: str) -> tuple[str, ...]:
    if isolation == "thread":
        return (
            "thread isolation is a guard rail, not a boundary: the guest shares this process's memory",
            "a C loop in the guest cannot be stopped; limits on memory and processes are not per sandbox",
        )
    return ()
