"""Words that several modules know, each spelt once: the closed sets that calls take. Light: guests import it."""

from __future__ import annotations

from typing import Literal

Isolation = Literal["process", "thread"]
#: an event of the host itself belongs to no sandbox
Origin = Literal["process", "thread", "host"]
Enforcement = Literal["strict", "best_effort"]
Telemetry = Literal["default", "full"]
#: who may decide about connections: whatever this kernel has, or the listener alone
Network = Literal["auto", "listener"]
#: what a seccomp filter and the listener are for; `native` is a cell on the host's network
CellKind = Literal["cell", "native", "thread"]
#: what the guest's threads and processes may do after an answer, until the next request
BetweenRequests = Literal["run", "freeze"]

#: the name of a cell or thread that stands by, until `spawn` gives it another
STANDBY = "standby"

#: what may enforce, count or answer; `sandbox.enforcement` and events name it so
EnforcerName = Literal[
    "bpf",
    "bpf-lsm",
    "cgroup",
    "cgroup-bpf",
    "landlock",
    "landlock-denials",
    "namespaces",
    "rlimit",
    "root view",
    "seccomp",
    "seccomp-notify",
    "supervisor",
    "watchdog",
]
#: what a cell, or its supervisor, applies to confine it; a report counts nothing else as applied
Step = Literal[
    "bpf-lsm",
    "broker slots",
    "capabilities",
    "capability bounding set",
    "cgroup-bpf",
    "confine",
    "descriptors",
    "dumpable",
    "host name",
    "kill",
    "landlock",
    "namespaces",
    "no_new_privs",
    "parent death signal",
    "resource limits",
    "root view",
    "seccomp",
    "session",
    "user",
    "user namespace",
    "warm",
    "working directory",
]
