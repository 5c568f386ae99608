"""The Landlock enforcer: file rights by hierarchy, TCP ports, and scopes, for cells and sandbox threads alike.

Everything this kernel's ABI knows is handled, so whatever no rule grants is refused. What Landlock cannot say is told:
`unenforceable(policy)` lists denials below a grant (it cannot subtract), a ruleset's `notes` the rest.

Not decided by Landlock at any ABI, hence not claimed: stat, chmod, utime, xattrs, mapping code from readable files,
network addresses, UDP, pathname unix sockets. Root view, seccomp and notification decide those.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..capability import Capability
from ..decision import Mode
from ..errors import EnforcementError
from ..native import landlock as native
from ..native import mount
from ..native.landlock import AccessFs, AccessNet, Handled
from ..policy.compiled import CompiledPolicy, FsRight, NetAction
from .enforcer import Availability, Status
from .places import Place, Places
from .rootview import RootView

_BITS = {
    FsRight.READ: AccessFs.READ_FILE | AccessFs.READ_DIR,
    FsRight.LIST: AccessFs.READ_DIR,
    FsRight.WRITE: AccessFs.WRITE_FILE | AccessFs.TRUNCATE,
    # Device nodes are nobody's to make, and sockets only where a bind rule names one.
    FsRight.CREATE: AccessFs.MAKE_REG | AccessFs.MAKE_DIR | AccessFs.MAKE_SYM | AccessFs.MAKE_FIFO,
    FsRight.DELETE: AccessFs.REMOVE_FILE | AccessFs.REMOVE_DIR,
    FsRight.EXEC: AccessFs.EXECUTE,
}
#: Moving between directories takes both halves; IOCTL_DEV is granted by no policy right.
_MOVE = FsRight.CREATE | FsRight.DELETE
_NEVER = AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.IOCTL_DEV

#: One rule a port, about 1 us and 64 bytes each: beyond this a range is left to the enforcers that know ranges.
_PORTS_MAX = 2048
#: Rules for the siblings of carved-out edges; the standard library of one interpreter needs about 250.
_CARVED_MAX = 4096

_REMEDIES = {
    errno.ENOSYS: "run Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK=y, outside of filters that hide the call",
    errno.EOPNOTSUPP: "add landlock to the lsm= boot parameter",
}

#: Test seam: while True every probe and prepare behaves as on a kernel without Landlock (ENOSYS).
simulate_missing = False


def access_of(rights: int) -> AccessFs:
    """Return the Landlock rights that FsRight bits stand for. METADATA and MAP_EXEC have none."""
    access = AccessFs(0)
    for right, bits in _BITS.items():
        if rights & right:
            access |= bits
    if rights & _MOVE == _MOVE:
        access |= AccessFs.REFER
    return access


class LandlockRuleset:
    """One policy's ruleset, shared by all of its sandboxes. `notes` says what it leaves to others."""

    def __init__(self, fd: int, handled: Handled, notes: tuple[str, ...]) -> None:
        self.fd, self.handled, self.notes = fd, handled, notes

    def close(self) -> None:
        """Close the descriptor; threads that it confined stay confined. Further calls do nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> LandlockRuleset:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class LandlockEnforcer:
    """Landlock behind the Enforcer Protocol. `simulate_missing` is for tests of what happens without it."""

    name = "landlock"

    def __init__(self, *, simulate_missing: bool = False) -> None:
        self._missing = simulate_missing

    def abi(self) -> int:
        """Return the kernel's ABI. Raises OSError where there is none."""
        if self._missing or simulate_missing:
            raise OSError(errno.ENOSYS, "landlock_create_ruleset: Function not implemented (simulated)")
        return native.abi_version()

    def capabilities(self) -> frozenset[Capability]:
        """Return what Landlock decides on this kernel; file rights only before ABI 4."""
        decided = {Capability.FS_READ, Capability.FS_WRITE, Capability.FS_CREATE, Capability.FS_DELETE,
                   Capability.FS_EXEC, Capability.IMPORT_NATIVE, Capability.PROCESS_TRACE}  # fmt: skip
        try:
            handled = native.handled_for(self.abi())
        except OSError:
            return frozenset()
        if handled.net:
            decided |= {Capability.NET_CONNECT, Capability.NET_BIND}
        if handled.scoped:
            decided |= {Capability.PROCESS_SIGNAL, Capability.IPC_UNIX}
        return frozenset(decided)

    def probe(self) -> Availability:
        """Confine a short-lived child and see one open denied and another allowed; safe in threaded hosts."""
        granted = os.path.dirname(os.path.abspath(__file__))
        try:
            abi = self.abi()
            found = native.probe(granted, "/", abi)
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "run `pyisolate doctor`")
            return Availability(
                enforcer=self.name, status=Status.UNAVAILABLE, reason=str(error.strerror), remedy=remedy
            )
        detail = {"abi": abi, "errata": native.errata(), "missing": _missing_from(abi),
                  "tcp_denied": found.tcp_denied, "signal_denied": found.signal_denied}  # fmt: skip
        if found.failed_step is not None:
            why = os.strerror(found.error) if found.error else "it went through"
            return Availability(
                enforcer=self.name, status=Status.UNAVAILABLE, reason=f"{found.failed_step}: {why}",
                remedy=_REMEDIES.get(found.error, "run `pyisolate doctor`"), detail=detail,
            )  # fmt: skip
        seen = ["opening / was denied (EACCES)", f"opening {granted} was allowed"]
        seen += ["TCP connect was denied (EACCES)"] if found.tcp_denied else []
        seen += ["a signal to the parent was denied (EPERM)"] if found.signal_denied else []
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof="; ".join(seen), detail=detail)

    def prepare(self, policy: CompiledPolicy, view: RootView | None = None, *, tcp: bool = True) -> LandlockRuleset:
        """Compile a policy to a ruleset: once per policy version, for any number of sandboxes.

        With `view`, rules are keyed on what the cell finds in it, generated files included; without (thread isolation)
        on the host's paths. `tcp` False leaves ports to others: what Landlock refuses, they never see. Paths that do
        not exist become notes. Raises EnforcementError without Landlock.
        """
        try:
            handled = native.handled_for(self.abi())
        except OSError as error:
            raise EnforcementError(
                f"build the Landlock ruleset of policy {policy.name!r}: {error.strerror}",
                missing=self.name, hint=_REMEDIES.get(error.errno or 0, "run `pyisolate doctor`"),
            ) from error  # fmt: skip
        notes: list[str] = []
        if not tcp:
            handled = Handled(handled.fs, AccessNet(0), handled.scoped)
        handled, ports = _charge(policy, handled, notes)
        fd = native.create_ruleset(handled)
        try:
            _PathRules(fd, handled.fs, policy, view, notes).add()
            for access, chosen in ports:
                for port in sorted(chosen):
                    native.add_port_rule(fd, access, port)
        except BaseException:
            os.close(fd)
            raise
        return LandlockRuleset(fd, handled, tuple(notes))

    def unenforceable(self, policy: CompiledPolicy) -> list[str]:
        """Return the stated denials that lie below a grant of the same right: Landlock cannot subtract them."""
        if policy.mode_of("fs") is Mode.MONITOR:
            return []
        places = Places.of(policy)
        texts = [place.text for place in places if place.stated and access_of(place.lost & place.deny)]
        # A denied path that does not exist may appear later.
        texts += [
            rule.text for rule, _ in places.missing if rule.text and access_of(places.above(rule.path) & rule.deny)
        ]
        return list(dict.fromkeys(texts))


def _missing_from(abi: int) -> list[str]:
    """Name the rights that this ABI lacks of those we know."""
    now, best = native.handled_for(abi), native.handled_for(native.LOG_FLAGS_SINCE)
    lacking = (best.fs & ~now.fs, best.net & ~now.net, best.scoped & ~now.scoped)
    return [str(right.name) for rights in lacking for right in rights]


def _charge(
    policy: CompiledPolicy, handled: Handled, notes: list[str]
) -> tuple[Handled, list[tuple[AccessNet, set[int]]]]:
    """Return what the ruleset takes charge of, after monitor mode and port ranges, and the ports to grant."""
    fs, net = handled.fs, handled.net
    if policy.mode_of("fs") is Mode.MONITOR:
        fs &= AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.EXECUTE
    if policy.mode_of("process") is Mode.MONITOR:
        notes.append("process is in monitor mode: Landlock does not decide which programs run")
        fs &= ~AccessFs.EXECUTE
    if policy.mode_of("net") is Mode.MONITOR:
        notes.append("net is in monitor mode: Landlock does not decide TCP")
        net = AccessNet(0)
    ports: list[tuple[AccessNet, set[int]]] = []
    for access, action in ((AccessNet.CONNECT_TCP, NetAction.CONNECT), (AccessNet.BIND_TCP, NetAction.BIND)):
        if not net & access:
            continue
        ranges = {(rule.port_low, rule.port_high) for rule in policy.net
                  if rule.allow and rule.action == action and rule.unix_path is None}  # fmt: skip
        if sum(high - low + 1 for low, high in ranges) > _PORTS_MAX:
            notes.append(f"net.{action.name.lower()}: more than {_PORTS_MAX} ports granted: Landlock leaves TCP ports "
                         "to the other enforcers")  # fmt: skip
            net &= ~access
            continue
        ports.append((access, {port for low, high in ranges for port in range(low, high + 1)}))
    return Handled(fs, net, handled.scoped), ports


class _PathRules:
    """Adds a policy's path rules to a ruleset."""

    def __init__(
        self, fd: int, handled: AccessFs, policy: CompiledPolicy, view: RootView | None, notes: list[str]
    ) -> None:
        self._fd, self._handled, self._policy, self._view, self._notes = fd, handled, policy, view, notes
        self._budget = _CARVED_MAX

    def add(self) -> None:
        """Add a rule for each place that grants more than what lies above it, then for what is not a file rule."""
        if not self._handled & ~_NEVER:
            return
        places = Places.of(self._policy)
        self._notes += [places.note(rule, why) for rule, why in places.missing if rule.allow]
        edges = [] if self._view is not None else [p for p in places if p.lost and not p.stated]
        for place in places:
            gained = place.in_force & ~place.above
            if not gained:
                continue
            inner = place.path.rstrip("/") + "/"
            carved = [edge.path for edge in edges if edge.path.startswith(inner)]
            if carved and place.is_directory:
                self._carve(place, carved)
            else:
                self._grant(place.path, access_of(gained), place.text)
        for path in self._view.generated if self._view is not None else ():
            self._grant(path, AccessFs.READ_FILE, "generated file")
        for rule in self._policy.net:
            if rule.allow and rule.unix_path and rule.action == NetAction.BIND and rule.unix_path.startswith("/"):
                self._grant(os.path.dirname(rule.unix_path), AccessFs.MAKE_SOCK, rule.text)

    def _grant(self, path: str, access: AccessFs, text: str) -> None:
        access &= self._handled & ~_NEVER
        if not access:
            return
        try:
            target = self._open(path)
        except OSError as error:
            self._notes.append(f"{text}: {path} is left out ({os.strerror(error.errno or 0)})")
            return
        try:
            if not _is_directory(target):
                access &= native.FILE_RIGHTS
            if access:
                native.add_path_rule(self._fd, access, target, path)
        finally:
            os.close(target)

    def _open(self, path: str) -> int:
        if self._view is None:
            return mount.openat2(path, os.O_PATH, mount.RESOLVE_NO_MAGICLINKS)
        # In the tree, links must lead where they will lead the cell.
        return mount.openat2(path, os.O_PATH, mount.RESOLVE_IN_ROOT, dirfd=self._view.fd)

    def _carve(self, place: Place, carved: list[str]) -> None:
        """Grant a directory by its members, so that the edges of an implied grant inside it stay out.

        Only for what no policy states (site-packages within the standard library): a stated denial must hold for files
        that appear later too, and is reported as unenforceable instead. Listing cannot be carved: names below show.
        """
        access = access_of(place.in_force & ~place.above)
        self._grant(place.path, access & AccessFs.READ_DIR, place.text)
        for path in self._around(place.path, carved):
            self._grant(path, access, place.text)
        if self._budget <= 0:
            self._notes.append(f"{place.text}: {place.path} has too many members for Landlock: some are left out")

    def _around(self, directory: str, carved: list[str]) -> Iterator[str]:
        """Yield the outermost paths in `directory` that hold no carved path."""
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            self._notes.append(f"{directory} is left out ({os.strerror(error.errno or 0)})")
            return
        for entry in entries:
            if self._budget <= 0:
                return
            if entry.path in carved or entry.is_symlink():
                continue
            inner = [path for path in carved if path.startswith(entry.path + "/")]
            if inner:
                yield from self._around(entry.path, inner)
            else:
                self._budget -= 1
                yield entry.path


def _is_directory(fd: int) -> bool:
    return (os.fstat(fd).st_mode & 0o170000) == 0o040000
