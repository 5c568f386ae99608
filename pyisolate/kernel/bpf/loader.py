"""Load the BPF objects once per supervisor, share their maps, attach what this kernel has.

Nothing happens on import, nothing is pinned: closing the loader detaches everything. Every failure says what is missing
and what to do; a program that the verifier refuses is shown with the last lines of its log.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ...distribution import REBUILD
from ...errors import EnforcementError
from ...native import libbpf

_log = logging.getLogger("pyisolate.kernel.bpf")

OBJECTS = Path(__file__).parent / "objects"
#: Hooks without which a sandbox would be open: a kernel that lacks one of these cannot be used.
NEEDED_HOOKS = frozenset(
    "task_alloc file_open mmap_file file_mprotect bprm_check_security path_mknod path_mkdir path_rmdir path_unlink "
    "path_symlink path_link path_rename path_truncate path_chmod path_chown path_chroot inode_setattr socket_create "
    "socket_bind socket_connect socket_listen socket_sendmsg unix_stream_connect unix_may_send task_kill "
    "ptrace_access_check sb_mount bpf capable".split()
)
_LOG_LINES = 15
_REBUILD = f"take the wheel, or install clang and libbpf-dev and build again: {REBUILD}"
_RLIMIT_HINT = "run as root or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN"

_HINTS = {
    errno.EPERM: f"{_RLIMIT_HINT}; if it is root, this kernel refuses programs that need a BPF trampoline (a lockdown "
    "or a hypervisor's patch): `pyisolate doctor` shows it",
    errno.EACCES: "the verifier refused the program: report the log and `uname -r`",
    errno.EMFILE: "raise the limit on open files (RLIMIT_NOFILE): about 200 descriptors are needed",
    errno.ENOMEM: "the kernel has no memory for the maps: pass a smaller `sandboxes`",
}


class BpfUnavailable(EnforcementError):
    """BPF cannot be used here; `reason` says why, `hint` what to do."""

    def __init__(self, what: str, reason: str, *, hint: str, errno: int | None = None) -> None:
        self.reason = reason
        super().__init__(operation=what, cause=reason, missing=reason, hint=hint, errno=errno)


def explain(error: libbpf.BpfCallError, what: str) -> BpfUnavailable:
    """Turn a failed call into an error that shows program, last log lines and kernel."""
    lines = [line for line in error.log.splitlines() if line.strip()]
    tail = "\n  ".join(lines[-_LOG_LINES:])
    reason = f"{error.strerror or error} on Linux {platform.release()}"
    hint = _HINTS.get(error.errno or 0, "see the log lines above")
    return BpfUnavailable(what, f"{reason}\n  {tail}" if tail else reason, hint=hint, errno=error.errno)


def requirements() -> tuple[str, str] | None:
    """Return what stands in the way of any BPF use, as (why, what to do); None when nothing is known to."""
    present, why = libbpf.available()
    if not present:
        return f"built without libbpf ({why})", _REBUILD
    if not list(OBJECTS.glob("*.bpf.o")):
        return "built without BPF programs (no clang at build time)", _REBUILD
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        return (
            "the kernel has no type information (/sys/kernel/btf/vmlinux)",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
        )
    return None


def active_lsms() -> tuple[str, ...] | None:
    """Return the security modules in use; None where the kernel does not say (securityfs is not mounted)."""
    try:
        return tuple(Path("/sys/kernel/security/lsm").read_text().strip().split(","))
    except OSError:
        return None


def fully_preemptible() -> bool:
    """Tell whether kernel code may be preempted anywhere (`preempt=full`, or built so)."""
    try:
        return "(full)" in Path("/sys/kernel/debug/sched/preempt").read_text()
    except OSError:
        version = platform.version().split()
        return (
            "preempt=full" in Path("/proc/cmdline").read_text().split()
            or "PREEMPT" in version
            or "PREEMPT_RT" in version
        )


def check_lsm() -> None:
    """Raise BpfUnavailable where this kernel takes no LSM program, before 200 kB of them are made ready for it."""
    if (why := requirements()) is not None:
        raise BpfUnavailable("bpf", why[0], hint=why[1])
    lsms = active_lsms()
    if lsms is not None and "bpf" not in lsms:
        raise BpfUnavailable(
            "bpf_lsm", f"the bpf security module is not active ({','.join(lsms)})", hint="boot with lsm=...,bpf"
        )
    libbpf.start_log()
    try:
        libbpf.try_lsm()
    except libbpf.BpfCallError as error:
        raise explain(error, "bpf, load lsm") from error
    if not libbpf.has_function("bpf_task_from_pid") and fully_preemptible():
        # before 6.2 a look-up in task storage gives up while another one is under way on the same processor
        raise BpfUnavailable(
            "bpf_lsm",
            "before 6.2, full preemption could hide a sandboxed thread",
            hint="boot with preempt=voluntary",
        )


class BpfLoader:
    """The objects of one supervisor. Not thread-safe while it loads; its maps may be used from any thread.

    `sandboxes` bounds how many sandboxes there may be at a time; `ring_bytes` is the event buffer (a power of two).
    """

    def __init__(self, *, sandboxes: int = 2048, ring_bytes: int = 4 << 20) -> None:
        self.sandboxes = sandboxes
        self.ring_bytes = ring_bytes
        self._maps: dict[str, libbpf.MapFd] = {}
        self._links: dict[str, libbpf.Link] = {}
        self._objects: dict[str, libbpf.Object] = {}
        self.missing_hooks: tuple[str, ...] = ()
        self.load_seconds = self.attach_seconds = 0.0

    # -- loading ------------------------------------------------------------------------------------------------------

    def load(self, name: str, *, wanted: Callable[[libbpf.Program], bool] | None = None) -> libbpf.Object:
        """Open one object, hand it the maps that exist, load the programs that are `wanted` (default: all)."""
        if name in self._objects:
            return self._objects[name]
        why = requirements()
        if why is not None:
            raise BpfUnavailable("bpf", why[0], hint=why[1])
        began = time.monotonic()
        libbpf.start_log()
        try:
            loaded = self._open(name, wanted)
        except libbpf.BpfCallError as error:
            raise explain(error, f"bpf, load {name}") from error
        self._objects[name] = loaded
        self.load_seconds += time.monotonic() - began
        return loaded

    def _open(self, name: str, wanted: Callable[[libbpf.Program], bool] | None) -> libbpf.Object:
        found = libbpf.Object(str(OBJECTS / f"{name}.bpf.o"))
        try:
            for program in found.programs.values():
                program.autoload = wanted is None or wanted(program)
            for map_name in found.maps:
                if map_name in self._maps:
                    found.reuse(map_name, self._maps[map_name])
                elif map_name in ("sandboxes", "slots", "cgroups"):
                    found.resize(map_name, self.sandboxes)
                elif map_name == "events":
                    found.resize(map_name, self.ring_bytes)
            found.load()
            for map_name in found.maps:
                if not map_name.startswith(".") and map_name not in self._maps:
                    self._maps[map_name] = libbpf.MapFd(os.dup(found.map_fd(map_name)))  # not inheritable
        except BaseException:
            found.close()
            raise
        return found

    def map_fd(self, name: str) -> libbpf.MapFd:
        """Return a map's descriptor, which the loader owns."""
        return self._maps[name]

    # -- attaching ----------------------------------------------------------------------------------------------------

    def attach_lsm(self) -> None:
        """Load and attach every LSM program whose hook this kernel has, after `check_lsm`. All or nothing."""
        began, loaded_before = time.monotonic(), self.load_seconds
        try:
            programs = self.load("lsm", wanted=fits).programs.values()
            chosen = [(hook_of(program), program) for program in programs if program.autoload]
            missing = [hook_of(program) for program in programs if not program.autoload]
            hooks = {hook for hook, _ in chosen}
            self.missing_hooks = tuple(sorted(set(missing) - hooks))
            lacking = NEEDED_HOOKS - hooks
            if lacking:
                names = ", ".join(sorted(lacking))
                raise BpfUnavailable("bpf_lsm", f"this kernel lacks the hooks {names}", hint="use a kernel from 6.1 on")
            for _, program in sorted(chosen, key=lambda pair: pair[0] != "task_alloc"):  # inheritance first
                self._attach(program)
        except BaseException:
            self.detach()
            raise
        self.forget_objects(["lsm"])
        self.attach_seconds = time.monotonic() - began - (self.load_seconds - loaded_before)
        _log.debug("loaded in %.3f s, attached in %.3f s", self.load_seconds, self.attach_seconds)

    def _attach(self, program: libbpf.Program) -> None:
        libbpf.start_log()
        try:
            self._links[program.name] = program.attach()
        except libbpf.BpfCallError as error:
            raise explain(error, f"bpf, attach {program.name}") from error

    def forget_objects(self, names: Iterable[str]) -> None:
        """Close objects whose programs are attached: their links keep them, and many descriptors are freed."""
        for name in names:
            found = self._objects.pop(name, None)
            if found is not None:
                found.close()

    @property
    def link_descriptors(self) -> tuple[int, ...]:
        """Descriptors that keep the programs attached: a process that holds copies keeps them when this one is dead."""
        return tuple(link.fd for link in self._links.values())

    def detach(self) -> None:
        """Detach every program; maps stay."""
        links, self._links = self._links, {}
        for link in links.values():
            link.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copied descriptors alone; the parent's stay attached."""
        for link in self._links.values():
            os.close(link.fd)
        self._links.clear()
        self.forget_objects(list(self._objects))
        for fd in self._maps.values():
            os.close(fd)
        self._maps.clear()

    def close(self) -> None:
        """Detach and free everything. Nothing is left in the kernel."""
        self.detach()
        self.forget_objects(list(self._objects))
        maps, self._maps = self._maps, {}
        for fd in maps.values():
            with contextlib.suppress(OSError):
                os.close(fd)


def hook_of(program: libbpf.Program) -> str:
    """Return the hook or tracepoint that a program's section names."""
    return str(program.section).rpartition("/")[2]


def fits(program: libbpf.Program) -> bool:
    """Tell whether the running kernel has the program's hook, with the arguments that the program expects."""
    arguments = libbpf.hook_arguments(hook_of(program))
    variant = program.name.partition("__args")[2]
    return arguments is not None and (not variant or int(variant) == arguments)
