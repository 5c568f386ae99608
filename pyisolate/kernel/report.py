"""Who enforces what in one sandbox: written from what was proven here and from what its cell says it applied."""

from __future__ import annotations

import platform
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from ..capability import Capability
from ..choices import Enforcement, EnforcerName, Isolation, Step
from ..enforcement import Availability, CapabilityStatus, Coverage, EnforcementReport
from ..limits.coverage import limit_coverage
from .bpf.cgroup_eligibility import DECIDED

if TYPE_CHECKING:
    from .prepared import Prepared

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
_PROCESS = (Capability.PROCESS_EXEC, Capability.PROCESS_FORK)
_SCOPED = (Capability.PROCESS_SIGNAL, Capability.PROCESS_TRACE, Capability.IPC_UNIX)


class Reporter:
    """Writes the reports of one supervisor's sandboxes. `availability` and `running` are asked anew for each.

    Sandboxes whose cells applied the same steps share one report.
    """

    def __init__(
        self,
        availability: Callable[[], Mapping[str, Availability]],
        running: Callable[[], frozenset[str]],
        *,
        full_telemetry: bool,
    ) -> None:
        self._availability, self._running, self._full = availability, running, full_telemetry
        self._known: WeakKeyDictionary[Prepared, dict[Hashable, EnforcementReport]] = WeakKeyDictionary()

    def report(
        self,
        prepared: Prepared,
        isolation: Isolation,
        enforcement: Enforcement,
        steps: tuple[Step, ...],
        failed: tuple[tuple[Step, str], ...],
        *,
        has_cgroup: bool,
        cgroup_reason: str,
    ) -> EnforcementReport:
        """Return a sandbox's report. `steps` were applied, `failed` were not."""
        running = self._running()
        made_of = (isolation, enforcement, steps, failed, has_cgroup, cgroup_reason, running)
        known = self._known.setdefault(prepared, {})
        if (found := known.get(made_of)) is not None:
            return found
        lines = _Statuses(frozenset(steps), running, isolation, full_telemetry=self._full)
        report = EnforcementReport(
            isolation=isolation,
            enforcement=enforcement,
            kernel=platform.release(),
            capabilities=tuple(_held(line, prepared.partial) for line in lines.all(has_cgroup, cgroup_reason)),
            enforcers=tuple(self._availability().values()),
            missing=(*prepared.missing, *(f"{name}: {reason}" for name, reason in failed)),
            notes=tuple(dict.fromkeys((*prepared.notes, *_isolation_notes(isolation)))),
        )
        if not failed:  # what failed is the kernel's text, and of any number
            known[made_of] = report
        return report


def _held(line: CapabilityStatus, partial: Mapping[Capability, str]) -> CapabilityStatus:
    """Return the line, of a limit that holds in part with what is missing of it."""
    if (missing := partial.get(line.capability)) is None:
        return line
    return msgspec.structs.replace(line, coverage=Coverage.PARTIAL, missing=missing)


#: What the listener learns of files with quiet calls (native/quiet.py).
_QUIET = (
    "the listener records every refused call, but for those that guest code makes from the address of quiet calls on "
    "purpose, and for reads by native code that libraries only try: of /proc about the task and the machine, of "
    "certificates where nothing can be connected to; Supervisor(telemetry='full') records these as well"
)
#: What mprotect(2) is to change is named by an address, of which no filter and no descriptor tells the file.
_MAPPED = (
    "mappings of files that may be read and not run: the listener asks the kernel of each, and records what a noexec "
    "mount of the root view refuses. Not recorded: the same by mprotect of a file's mapping, where memory.exec is "
    "granted, and of files of a file system with a server (FUSE, NFS), which is not asked"
)


#: What the root view does to look-ups is no refusal of a call: there is nothing to be found.
_LOOKED = (
    "look-ups (stat, access, chdir, readlink, O_PATH, statfs, getxattr): those that the guest's own C library reports, "
    "and those of programs and raw system calls, which the listener sees; 768 records wait at most, what comes on top "
    "leaves none. Not recorded: names below the directories that imports search and what lies on the way there, "
    "site-packages and dist-packages, tasks in /proc, certificates, terminfo, /etc/mime.types, /etc/python3.N, "
    "/var/tmp, /usr/tmp, /run, /usr/local, /usr/local/lib, where SELinux would be; names that begin with /./ (the "
    "hooks' own), calls with AT_EMPTY_PATH, and what guest code does from the address of quiet calls on purpose"
)
#: No hook of BPF-LSM carries the path of the others.
_LOOKED_BY_ATTRIBUTES = (
    "stat: every refusal is a record of the programs. Not recorded: access, readlink, chdir, O_PATH, statfs and "
    "getxattr; names that imports search and that begin with /./ (the hooks' own), certificates, terminfo, "
    "/etc/mime.types, /etc/python3.N, /var/tmp and /usr/tmp"
)
#: Security modules are asked last (Linux, fs/namei.c, inode_permission; kernel/ptrace.c, __ptrace_may_access).
_BY_PROGRAMS = (
    "every refusal by the programs is a record. Not recorded: what the kernel refuses native code before it asks them, "
    "by a file's own mode or owner, by a noexec mount of the host's or for a task of another user's in /proc; the "
    "listing of directories that imports search"
)
_SHOWN = "access, readlink, chdir, O_PATH, statfs, getxattr and the errno of open tell whether a path exists"
_UNSEEN = "looking at what is not granted finds nothing, and is not recorded"
#: No audit event carries these, and no wrapper is put around a function of the host's.
_BELOW_DESCRIPTORS = (
    "as are those of a relative name that Python code gives to os.open with a dir_fd, of os.mkfifo and of os.mknod"
)
#: The C library starts each thread so; notified, a signal would make it fail (seccomp_unotify(2), EINTR).
_CLONES = {
    Capability.PROCESS_FORK: (
        ". clone3 of the C library's size of arguments is answered ENOSYS, as where it is unknown, and leaves none: "
        "clone, which is called next, is judged"
    )
}
#: A guest reaches no other way to a host than the egress proxy, which decides by name.
_PROXIED = "exact: the egress proxy reports every refused request"


class _Statuses:
    """Writes the lines of one report."""

    def __init__(
        self, steps: frozenset[Step], running: frozenset[str], isolation: Isolation, *, full_telemetry: bool
    ) -> None:
        self._steps, self._running, self._isolation = steps, running, isolation
        self._seen = full_telemetry
        self._blind = (
            "refusals of native code show as errno only: neither the listener nor BPF sees files in this configuration"
        )

    def all(self, has_cgroup: bool, cgroup_reason: str) -> tuple[CapabilityStatus, ...]:
        """Return one line for each capability."""
        deciders, watched = self._files()
        lines = [self._line(c, deciders, self._has(deciders[0]), telemetry=self._mapped(c, watched)) for c in _FS]
        looks = self._has(deciders[-1])
        lines.append(self._line(Capability.FS_METADATA, deciders[-1:], looks, telemetry=watched))
        lookups = self._line(Capability.FS_LOOKUP, deciders[-1:], looks, telemetry=self._looked())
        if looks and "bpf-lsm" in deciders:
            lookups = msgspec.structs.replace(lookups, coverage=Coverage.PARTIAL, missing=_SHOWN)
        lines.append(lookups)
        listens = "seccomp" in self._running and self._has("seccomp")
        exact = "exact: every refusal is a record of the listener"
        if self._has("cgroup-bpf"):
            by_programs = "exact: every refusal is a record of the programs"
            lines += [self._line(c, ("cgroup-bpf", "seccomp"), listens, telemetry=by_programs) for c in DECIDED]
            lines += [self._line(c, ("seccomp",), listens, telemetry=exact) for c in _NET if c not in DECIDED]
        else:
            lines += [self._line(c, ("seccomp", "namespaces", "landlock"), listens, telemetry=exact) for c in _NET]
        lines += [
            self._line(c, ("bpf-lsm", "seccomp", "landlock"), listens, telemetry=exact + _CLONES.get(c, ""))
            for c in _PROCESS
        ]
        lines += [
            self._line(c, ("bpf-lsm", "namespaces", "seccomp", "landlock"), listens, telemetry=exact) for c in _SCOPED
        ]
        rest = [c for c in Capability if c.family in ("kernel", "ipc", "memory")]
        lines += [self._line(c, ("bpf-lsm", "seccomp"), listens, telemetry=exact) for c in rest if c not in _SCOPED]
        to_proxy: tuple[EnforcerName, ...] = ("seccomp", "namespaces", "landlock")
        if self._has("cgroup-bpf"):
            to_proxy = ("cgroup-bpf", "seccomp")
        lines.append(self._line(Capability.NET_HTTP, to_proxy, listens, telemetry=_PROXIED))
        lines += [self._limit(c, has_cgroup, cgroup_reason) for c in Capability if c.family == "limit"]
        return tuple(_on_thread(line) for line in lines) if self._isolation == "thread" else tuple(lines)

    def _limit(self, capability: Capability, has_cgroup: bool, cgroup_reason: str) -> CapabilityStatus:
        name = capability.value.partition(".")[2]
        found = limit_coverage(name, self._isolation, has_cgroup=has_cgroup, cgroup_reason=cgroup_reason)
        return CapabilityStatus(
            capability=capability,
            coverage=Coverage(found.coverage),
            enforcers=found.enforcers,
            missing=found.gap,
            telemetry="recorded by the supervisor" if found.coverage != "none" else "",
        )

    def _files(self) -> tuple[tuple[EnforcerName, ...], str]:
        """Return who decides files, the strongest first, and how its refusals become known."""
        if "bpf-lsm" in self._running:
            return ("bpf-lsm",), _BY_PROGRAMS
        if "seccomp" in self._running and self._isolation == "process":
            telemetry = "the listener records every refused call" if self._seen else _QUIET
        elif "landlock-denials" in self._running:
            telemetry = (
                "counted exactly after each request, as fs.access, right by right, of which a move or a link may lack "
                "two; native code's refusals without their target, and none of what does not open, make, remove or "
                "change the size of a file, nor of what /proc refuses of another task's"
            )
        else:
            telemetry = self._blind
        if self._isolation == "thread":
            telemetry += f"; {_BELOW_DESCRIPTORS}"
        return ("landlock", "root view"), telemetry

    def _looked(self) -> str:
        """Return how look-ups that find nothing become known."""
        if "bpf-lsm" in self._running:
            return _LOOKED_BY_ATTRIBUTES
        listens = "seccomp" in self._running and self._isolation == "process"
        return _LOOKED if listens else _UNSEEN

    def _has(self, step: EnforcerName) -> bool:
        return step in self._steps

    def _mapped(self, capability: Capability, watched: str) -> str:
        maps = capability is Capability.IMPORT_NATIVE and self._has("root view") and not self._has("bpf-lsm")
        return f"{watched}. {_MAPPED}" if maps else watched

    def _line(
        self, capability: Capability, enforcers: tuple[EnforcerName, ...], enforced: bool, *, telemetry: str
    ) -> CapabilityStatus:
        used = tuple(name for name in enforcers if self._has(name) or (name == "namespaces" and name in self._running))
        return CapabilityStatus(
            capability=capability,
            coverage=Coverage.FULL if enforced else Coverage.NONE,
            enforcers=used if enforced else (),
            missing="" if enforced else f"not enforced: {', '.join(enforcers)} not applied",
            telemetry=telemetry if enforced else "",
        )


#: What a sandbox thread lacks of what a cell has: no root view, and one interpreter with the host.
_GAPS_OF_THREADS = {
    Capability.FS_METADATA: (
        "the broker refuses Python's calls; native code changes modes, owners, times and attributes of granted files "
        "(no root view)"
    ),
    Capability.IMPORT_NATIVE: "the broker refuses Python's calls; native code loads what it may read (no root view)",
    Capability.IMPORT_MODULE: "the broker refuses imports of guest code; the host's modules are loaded already",
    Capability.RANDOM_READ: "system calls are refused; the generator of module `random` is the host's, with its state",
}


#: The listener answers it as if no such thread were there (native/src/notify/numbered.c).
_UNRECORDED_ON_THREADS = {
    Capability.PROCESS_SIGNAL: (
        ". Signal 33 to threads of the host, by which the C library has them follow setuid and its kin, is answered "
        "ESRCH and leaves none; the call itself is recorded"
    ),
}


def _on_thread(line: CapabilityStatus) -> CapabilityStatus:
    if line.telemetry:
        line = msgspec.structs.replace(line, telemetry=line.telemetry + _UNRECORDED_ON_THREADS.get(line.capability, ""))
    gap = _GAPS_OF_THREADS.get(line.capability)
    decided = "bpf-lsm" in line.enforcers and line.capability in (Capability.FS_METADATA, Capability.IMPORT_NATIVE)
    if gap is None or decided:
        return line
    enforcers = tuple(dict.fromkeys(("broker", *line.enforcers)))
    return msgspec.structs.replace(line, coverage=Coverage.PARTIAL, enforcers=enforcers, missing=gap)


def _isolation_notes(isolation: Isolation) -> tuple[str, ...]:
    if isolation == "thread":
        return (
            "thread isolation is a guard rail, not a boundary: the guest shares this process's memory",
            "a C loop in the guest cannot be stopped; what limits hold here, `capabilities` says",
        )
    return ()
