"""The Landlock enforcer: file rights by hierarchy, TCP ports, and scopes, for cells and sandbox threads alike.

Everything this kernel's ABI knows is handled, so what no rule grants is refused. What Landlock cannot say is stated:
`unenforceable(policy)` lists denials below a grant (it cannot subtract), a ruleset's `notes` the rest.

Not decided by Landlock at any ABI, hence not claimed: stat, chmod, utime, xattrs, mapping code from readable files,
network addresses, UDP, pathname unix sockets. Root view, seccomp and notification decide those.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..capability import Capability
from ..choices import EnforcerName
from ..decision import Mode
from ..enforcement import Availability, Status
from ..errors import EnforcementError
from ..native import landlock as native
from ..native import mount
from ..native.landlock import AccessFs, AccessNet, Handled
from ..native.result import cause_of
from ..policy import workspace
from ..policy.compiled import CompiledPolicy, FsRight, NetAction
from .enforcer import Enforcer
from .excess import KeptOut, kept_out
from .prepared import Draft
from .rootview.paths import Place, Places
from .rootview.tree import RootView
from .ruleset import LandlockRuleset

_BITS = {
    FsRight.READ: AccessFs.READ_FILE | AccessFs.READ_DIR,
    FsRight.LIST: AccessFs.READ_DIR,
    FsRight.WRITE: AccessFs.WRITE_FILE | AccessFs.TRUNCATE,
    # No guest may make device nodes, and sockets only where a bind rule names one.
    FsRight.CREATE: AccessFs.MAKE_REG | AccessFs.MAKE_DIR | AccessFs.MAKE_SYM | AccessFs.MAKE_FIFO,
    FsRight.DELETE: AccessFs.REMOVE_FILE | AccessFs.REMOVE_DIR,
    FsRight.EXEC: AccessFs.EXECUTE,
}
#: A move between directories takes one of these where it comes from, the other where it goes to.
_MOVE = FsRight.CREATE | FsRight.DELETE
#: No policy grants these; IOCTL_DEV comes with `_PLAIN_DEVICES`.
_NEVER = AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.IOCTL_DEV

#: Devices without ioctl(2) requests of their own that an unprivileged process may make (drivers/char/mem.c, random.c):
#: every `open` of Python asks them whether they are a terminal, and Landlock would count that as a refusal.
_PLAIN_DEVICES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})

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
    if rights & _MOVE:
        access |= AccessFs.REFER
    return access


class LandlockEnforcer(Enforcer):
    """Landlock as an `Enforcer`. `simulate_missing` is for tests of what happens without it."""

    name: EnforcerName = "landlock"

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
                enforcer=self.name, status=Status.UNAVAILABLE, reason=cause_of(error), remedy=remedy, errno=error.errno
            )
        detail = {"abi": abi, "errata": native.errata(), "missing": _missing_from(abi),
                  "tcp_denied": found.tcp_denied, "signal_denied": found.signal_denied}  # fmt: skip
        if found.failed_step is not None:
            why = os.strerror(found.error) if found.error else "it went through"
            return Availability(
                enforcer=self.name, status=Status.UNAVAILABLE, reason=f"{found.failed_step}: {why}",
                remedy=_REMEDIES.get(found.error, "run `pyisolate doctor`"), detail=detail,
                errno=found.error or None,
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
                operation=f"build the Landlock ruleset of policy {policy.name!r}", cause=cause_of(error),
                missing=self.name, errno=error.errno, hint=_REMEDIES.get(error.errno or 0, "run `pyisolate doctor`"),
            ) from error  # fmt: skip
        notes: list[str] = []
        unenforced: list[str] = []
        if not tcp:
            handled = Handled(handled.fs, AccessNet(0), handled.scoped)
        handled, ports = _charge(policy, handled, notes)
        fd = native.create_ruleset(handled)
        try:
            _PathRules(fd, handled.fs, policy, view, notes, unenforced).add()
            for access, chosen in ports:
                for port in sorted(chosen):
                    native.add_port_rule(fd, access, port)
        except BaseException:
            os.close(fd)
            raise
        return LandlockRuleset(fd, handled, tuple(notes), tuple(unenforced))

    def add_to(self, draft: Draft) -> None:
        """Add the policy's ruleset. After the root view: its rules are keyed on the files that the cell finds there."""
        if draft.programs_decide:
            return  # in monitor mode too; Landlock would keep a reload from loosening
        enforced = draft.compiled.mode_of("fs") is Mode.ENFORCE
        if not enforced:
            _note_monitored(draft)
        if draft.usable(self.name):
            # Landlock would refuse first, and the programs of a control group would have nothing to record
            tcp = not (enforced and draft.host_network)
            draft.ruleset = self.prepare(draft.held, draft.root_view, tcp=tcp)
            draft.notes += draft.ruleset.notes
            draft.missing += [f"rule {rule}" for rule in draft.ruleset.unenforced]
        else:
            draft.lack(self.name, "fs rules" if enforced else "programs and scopes")
        if enforced and draft.root_view is None:
            rules = self.unenforceable(draft.held)
            draft.missing += [f"rule {rule}: Landlock cannot subtract a path from a grant" for rule in rules]

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


def _note_monitored(draft: Draft) -> None:
    """Say what monitoring files means: they stay in sight; programs, TCP ports and scopes are enforced all the same."""
    compiled = draft.compiled
    draft.notes.append(
        "fs is in monitor mode: the guest sees the host's files as its user may, and Landlock cannot record without "
        "refusing. The listener records the guest's file calls (about 8 us each), native code's too, until guest code "
        "that wants to hide them makes them where the zygote's C library does; with telemetry='full' it cannot"
    )
    if compiled.mode_of("import") is Mode.ENFORCE:
        draft.notes.append("import is enforced by the broker alone: while fs is in monitor mode, all files can be read")
    if compiled.mode_of("random") is Mode.ENFORCE and not compiled.allow_random:
        draft.notes.append("random is refused by the listener; /dev/urandom can be read while fs is in monitor mode")


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
        # REFER: what no ruleset handles is refused all the same; `_PathRules.add` grants it everywhere
        fs &= AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.EXECUTE | AccessFs.REFER
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
        self,
        fd: int,
        handled: AccessFs,
        policy: CompiledPolicy,
        view: RootView | None,
        notes: list[str],
        unenforced: list[str],
    ) -> None:
        self._unenforced = unenforced
        self._fd, self._handled, self._policy, self._view, self._notes = fd, handled, policy, view, notes
        self._budget = _CARVED_MAX

    def add(self) -> None:
        """Add a rule for each place that grants more than what lies above it, then for what is not a file rule."""
        if self._policy.mode_of("fs") is Mode.MONITOR:
            self._grant("/", AccessFs.REFER, "fs in monitor mode")
        if not self._handled & ~(_NEVER | AccessFs.REFER):
            return
        places = Places.of(self._policy)
        self._notes += [places.note(rule, why) for rule, why in places.missing if rule.allow]
        # the view of a policy in monitor mode covers nothing
        covered = self._view is not None and self._policy.mode_of("fs") is Mode.ENFORCE
        edges = [] if covered else [p for p in places if p.lost and not p.stated]
        found = kept_out(places) if covered else []
        self._unenforced += dict.fromkeys(one.why for one in found if one.why)
        for place in places:
            gained = place.in_force & ~place.above
            if not gained:
                continue
            inner = place.path.rstrip("/") + "/"
            carved = [edge.path for edge in edges if edge.path.startswith(inner)]
            held_back = [one for one in found if one.grant is place and not one.why]
            if held_back:
                self._hold_back(place, gained, held_back)
            elif carved and place.is_directory:
                self._carve(place, gained, carved)
            else:
                self._grant(place.path, access_of(gained), place.text)
        if self._view is not None and self._view.has_workspace:  # what is mounted below it is each sandbox's own
            sockets = AccessFs.MAKE_SOCK if self._policy.own_sockets else AccessFs(0)
            programs = AccessFs.EXECUTE if workspace.may_run(self._policy) else AccessFs(0)
            self._grant(workspace.ROOT, access_of(workspace.RIGHTS) | sockets | programs, "workspace")
        for path in self._view.generated if self._view is not None else ():
            self._grant(path, AccessFs.READ_FILE, "generated file")
        for rule in self._policy.net:
            if rule.allow and rule.unix_path and rule.action == NetAction.BIND and rule.unix_path.startswith("/"):
                self._grant(os.path.dirname(rule.unix_path), AccessFs.MAKE_SOCK, rule.text)

    def _grant(self, path: str, access: AccessFs, text: str) -> None:
        access &= self._handled & ~_NEVER
        if not access:
            return
        if path in _PLAIN_DEVICES:
            access |= self._handled & AccessFs.IOCTL_DEV
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

    def _hold_back(self, place: Place, gained: int, found: list[KeptOut]) -> None:
        """Grant a directory, but some rights of it by its members alone: around what lies below and lacks them."""
        rights = 0
        for one in found:
            rights |= one.rights
        self._grant(place.path, access_of(gained & ~rights), place.text)
        self._carve(place, gained & rights, sorted({one.edge.path for one in found}))

    def _carve(self, place: Place, rights: int, carved: list[str]) -> None:
        """Grant a directory by its members, so that the edges of an implied grant inside it stay out.

        Only for what no policy states (site-packages within the standard library): a stated denial must hold for files
        that appear later too, and is reported as unenforceable instead. Listing cannot be carved: names below show.
        """
        access = access_of(rights)
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
