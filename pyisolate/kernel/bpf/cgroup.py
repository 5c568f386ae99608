"""The cgroup-BPF enforcer: network by address and port for the tasks of a sandbox's cgroup (v2), without BPF-LSM.

First kernel: 5.18 (`bpf_set_retval`). The programs are attached once, to a directory that all sandboxes' cgroups are
below; which sandbox a task belongs to follows from its own cgroup.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from ...capability import Capability
from ...choices import EnforcerName
from ...enforcement import Availability, Status
from ...errors import EnforcementError
from ...native import libbpf, mount_table
from ...native.result import without_hint
from ...policy.compiled import CompiledPolicy, NetAction, NetRule
from ..probe_child import Child, say
from .loader import BpfUnavailable, explain
from .maps import BpfPolicy, Count, Flow
from .runtime import PROBE, PROBE_SETTINGS, BpfEnforcer, BpfSettings, BpfShared

ENFORCER: EnforcerName = "cgroup-bpf"
#: A probe takes milliseconds; a group this old whose maker is gone is left over (seconds).
_PROBED_WITHIN_S = 60.0


def unified() -> Path | None:
    """Return where cgroup v2 is mounted."""
    with contextlib.suppress(OSError):
        for one in mount_table.read_at("/proc/self/mountinfo"):
            if one.kind == "cgroup2":
                return Path(one.point)
    return None


class CgroupBpfEnforcer(BpfEnforcer):
    """Decides connect, send, bind and socket creation. Sockets made elsewhere and passed in are not covered.

    `domain` is the cgroup v2 directory that the programs are attached to. `strict` refuses tasks below it that no
    sandbox owns.
    """

    name = ENFORCER

    def __init__(
        self,
        domain: str | os.PathLike[str],
        shared: BpfShared | None = None,
        *,
        strict: bool = True,
        settings: BpfSettings | None = None,
    ) -> None:
        super().__init__(shared, settings=settings)
        self.domain = Path(domain)
        self._strict = strict
        self._links: list[libbpf.Link] = []

    def _attach(self) -> None:
        programs = self.loader.load("cgroup").programs.values()
        libbpf.start_log()
        fd = os.open(self.domain, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for program in programs:
                self._links.append(program.attach_cgroup(fd))
        except libbpf.BpfCallError as error:
            self._unlink()
            raise explain(error, f"cgroup-bpf, attach to {self.domain}") from error
        finally:
            os.close(fd)
        self.shared.entries.set_cgroup_strict(self._strict)

    def _unlink(self) -> None:
        links, self._links = self._links, []
        for link in links:
            link.close()

    @property
    def link_descriptors(self) -> tuple[int, ...]:
        """Descriptors that keep the programs attached: a process that holds copies keeps them when this one is dead."""
        return tuple(link.fd for link in self._links)

    def close(self) -> None:
        """Detach; with the last enforcer, nothing is left in the kernel."""
        self._unlink()
        super().close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies, which would keep programs attached after the parent."""
        links, self._links = self._links, []
        for link in links:
            os.close(link.fd)

    def attach_cgroup(
        self, cgroup: str | os.PathLike[str], sandbox_id: str, policy: BpfPolicy, shadow: BpfPolicy | None = None
    ) -> int:
        """Put the tasks of a cgroup below `domain` into a sandbox; return the group's id."""
        path = Path(cgroup)
        if not path.is_relative_to(self.domain):
            raise EnforcementError(
                f"cgroup-bpf, {path}: not below {self.domain}, where the programs are attached",
                hint="make the sandbox's cgroup there",
            )
        identity = os.stat(path).st_ino  # the directory's inode number is the cgroup's id (cgroup v2, 64-bit)
        entry = self.shared.entry(sandbox_id, policy, shadow)
        self.shared.entries.attach_cgroup_id(entry, identity)
        return identity

    def forget(self, groups: Iterable[int]) -> None:
        """Take groups out of their sandbox, by id: when no process is left in them."""
        for identity in groups:
            self.shared.entries.forget_cgroup_id(identity)

    def detach(self, sandbox_id: str) -> tuple[dict[Count, int], Flow]:
        """End a sandbox and take its groups out: tasks that are left in them are refused where `strict`."""
        entry = self.shared.entries.get(sandbox_id)
        result = super().detach(sandbox_id)
        self.forget(entry.groups if entry is not None else ())
        return result

    def capabilities(self) -> frozenset[Capability]:
        """Return what the programs decide."""
        return frozenset({Capability.NET_CONNECT, Capability.NET_SEND, Capability.NET_BIND, Capability.NET_SOCKET})

    def probe(self) -> Availability:
        """Attach to a cgroup of our own, see a child refused one port and allowed another."""
        mount = unified()
        if mount is None:
            return _unavailable("cgroup v2 is not mounted", "mount -t cgroup2 none /sys/fs/cgroup/unified")
        # not "pyisolate.": the sweeper of limits/cgroup.py takes that for its own
        _remove_stale_probes(mount)
        folder = _probe_folder(mount)
        try:
            folder.mkdir()
        except OSError as error:
            return _cannot_make(folder, error)
        probe = CgroupBpfEnforcer(folder, settings=PROBE_SETTINGS)
        try:
            probe.start(lambda record: None)
            try:
                return probe.prove()
            finally:
                probe.close()
        except (BpfUnavailable, OSError) as error:
            return _refused(error)
        finally:
            folder.rmdir()

    def prove(self) -> Availability:
        """See the programs that run refuse a child one port and allow it another, in a group of its own."""
        folder = _probe_folder(self.domain)
        try:
            folder.mkdir()
        except OSError as error:
            return _cannot_make(folder, error)
        try:
            proof = _proof(self, folder)
        except (BpfUnavailable, OSError) as error:
            return _refused(error)
        finally:
            folder.rmdir()
        if not proof:
            return _unavailable("the programs are attached, but refused nothing", "")
        return Availability(enforcer=ENFORCER, status=Status.AVAILABLE, proof=proof)


def _probe_folder(parent: Path) -> Path:
    return parent / f"pyisolate-probe.{os.getpid()}.{os.urandom(4).hex()}"


def _remove_stale_probes(mount: Path) -> None:
    """Remove the groups of hosts that were killed while they probed."""
    for folder in mount.glob("pyisolate-probe.*"):
        with contextlib.suppress(OSError, ValueError):
            owner, age_s = int(folder.name.split(".")[1]), time.time() - folder.stat().st_mtime
            if age_s > _PROBED_WITHIN_S and not Path(f"/proc/{owner}").exists():
                folder.rmdir()


def _cannot_make(folder: Path, error: OSError) -> Availability:
    why = f"{folder} cannot be made: {error.strerror}"
    return _unavailable(why, "run as root, or delegate a cgroup", error.errno)


def _refused(error: BpfUnavailable | OSError) -> Availability:
    reason = getattr(error, "reason", None) or without_hint(error)
    return _unavailable(reason, getattr(error, "hint", "") or "", error.errno)


def _unavailable(reason: str, remedy: str, errno: int | None = None) -> Availability:
    return Availability(enforcer=ENFORCER, status=Status.UNAVAILABLE, reason=reason, remedy=remedy, errno=errno)


def _proof(probe: CgroupBpfEnforcer, folder: Path) -> str:
    """Return what was seen: a datagram to port 9 refused, to another allowed (no listener is needed)."""
    rule = NetRule(action=NetAction.CONNECT, address=b"\x7f\0\0\1", prefix=32, port_low=10, port_high=10, text="probe")
    policy = probe.prepare(CompiledPolicy(name="probe", version="probe", net=(rule,)))
    probe.attach_cgroup(folder, PROBE, policy)
    policy.close()
    seen = [_in_child(folder, port) for port in (9, 10)]
    probe.detach(PROBE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        unconfined = datagrams.connect_ex(("127.0.0.1", 10))  # not 0 in a network namespace whose `lo` is down
    return "connect 127.0.0.1:9 refused, 127.0.0.1:10 allowed" if seen == [errno.EACCES, unconfined] else ""


def _in_child(folder: Path, port: int) -> int:
    """Return the errno of a datagram socket's connect in the group. Raises OSError where it could not be tried."""

    def connected() -> bytes:
        (folder / "cgroup.procs").write_text("0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            return bytes([datagrams.connect_ex(("127.0.0.1", port))])

    answer, write_end = os.pipe()
    with open(answer, "rb") as pipe:
        try:
            child = Child(lambda: say(write_end, connected))
        finally:
            os.close(write_end)
        try:
            said = pipe.read()
        finally:
            child.end()
        return child.heard(said)[0]
