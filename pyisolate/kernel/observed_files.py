"""What the listener saw on its way to the file enforcer, and what that enforcer makes of it: files, and programs.

A record of an observed call says that a file was asked for, not what became of it. The tables that the root view and
the Landlock ruleset were made of say so: they are asked without acting. This is telemetry: it decides nothing. It comes
after the call: what the listener met under the name as the call came (`KernelRecord.met`) says more than what is there
by now.
"""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict

import msgspec

from ..capability import Capability
from ..decision import Decision, DenialCode, Mode, Verdict
from ..policy import workspace
from ..policy.asking import NAMING, OF_FILES, asks_about
from ..policy.broker import Broker, is_unspoken_of
from ..policy.compiled import CompiledPolicy, FsRight
from ..policy.moves import mounted_at, of_folder, read_only, verdict, widened, writable
from ..policy.searched import Searched
from ..policy.suggest import crosses
from ..records import KernelRecord
from .expected_files import is_tried
from .observed_looks import not_found, refused
from .seen_names import OpenOwn, SeenNames

#: Policies in use at once; a broker is cheap to make again.
_BROKERS = 64
_NOTHING = Searched()
#: Calls that are about a name itself; the others follow it to what it leads to.
_NAMING = frozenset(("mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir"))
_DESCRIPTOR = re.compile(r"/proc/(?:self|thread-self)/fd/[0-9]+")
#: Where name services listen (native/src/notify/asked.c, notify_is_lookup).
_DAEMONS = ("/var/run/nscd/", "/run/nscd/", "/run/systemd/")
#: What the kernel grants by directories: a rule for one name says nothing of them to it.
_OF_NAMES = frozenset((Capability.FS_CREATE, Capability.FS_DELETE))
_OPENING = frozenset(("open", "openat", "creat"))
_INTERPRETERS = 6  # a script, and the five interpreters that may name one another (Linux, fs/exec.c)
_TMPFILE = 0o20000000  # __O_TMPFILE (asm-generic/fcntl.h)
_RENAMING = frozenset(("rename", "renameat", "renameat2"))
_LINKING = frozenset(("link", "linkat"))


class WatchedFiles:
    """Turns records of watched file calls into refusals, where the policy's tables refuse."""

    def __init__(self) -> None:
        #: with the names that lead to the workspace
        self._brokers: OrderedDict[tuple[str, int], tuple[Broker, tuple[str, ...]]] = OrderedDict()
        self._shadows: OrderedDict[tuple[str, int], CompiledPolicy] = OrderedDict()

    def judge(
        self,
        record: KernelRecord,
        policy: CompiledPolicy,
        searched: Searched = _NOTHING,
        own: OpenOwn | None = None,
        *,
        sealed: bool = False,
        by_guest: bool = False,
        full: bool = False,
    ) -> list[KernelRecord]:
        """Return the record, as a denial if the file enforcer refuses the call, or would have in monitor mode.

        One call is one denial: of what hooks ask first, and what else the call needs is in it. Left as it is: what is
        granted; a file that is not there at all; a relative name, whose directory is not known here; the listing of a
        directory of `searched`, which any import of an absent module is.
        `own` lends the sandbox's workspace, where what lies below it is looked up. `sealed`: it sees a root view, in
        which what may not be written is mounted read-only. `by_guest`: the guest's own process called, and no program
        of it. `full`: nothing is left out that libraries only try.
        """
        runs = record.capability is Capability.PROCESS_EXEC
        if not (runs or record.capability.family == "fs") or not record.target.startswith("/"):
            return [record]
        broker, leading = self._broker(policy)
        if leading:  # the host's /tmp is another one
            target, other = (workspace.as_reached(path, leading) for path in (record.target, record.other))
            record = msgspec.structs.replace(record, target=target, other=other)
        names = SeenNames(own, leading, record)
        if record.verdict is not Verdict.ALLOW:  # decided by the listener: only its name is to be as hooks spell it
            names_it = runs or record.syscall in (*_NAMING, *_RENAMING, *_LINKING)
            named = names.in_folder(record.target) if names_it else names.acted_on(record.target, record.flags)
            return [msgspec.structs.replace(record, target=named or record.target)]
        if runs:
            return [_would_ask(_program(record, broker, names), policy)]
        if (looked := _looked_at(record, names)) is not None:
            return [not_found(record, looked, broker, names, searched)]
        found = _refusals(record, broker, names, searched, sealed=sealed, by_guest=by_guest, full=full)
        if not found:
            return [record]
        first = _first_asked(record, found)
        also = _moved(record, names, broker, sealed=sealed)
        if not (also and crosses(also[0][1], also)):  # else a rule for one name does not do
            others = ((one.capability, one.target) for one in found if one is not first)
            also = tuple(dict.fromkeys((*first.also, *others)))
        return [msgspec.structs.replace(_would_ask(first, policy), also=also)]

    def judge_shadow(
        self,
        record: KernelRecord,
        shadow: CompiledPolicy | None,
        searched: Searched = _NOTHING,
        own: OpenOwn | None = None,
    ) -> list[KernelRecord]:
        """Return what a shadow policy, where there is one, would refuse of the call; see `judge`.

        Where it grants no program at all, the listener has said so of each.
        """
        runs = record.capability is Capability.PROCESS_EXEC
        if shadow is None or (runs and not any(rule.allow & FsRight.EXEC for rule in shadow.fs)):
            return []
        judged = self.judge(record, self._watching(shadow), searched, own)
        refused = [one for one in judged if one.verdict is Verdict.WOULD_DENY]
        # the hook that asked the broker in force has asked the shadow's as well
        said = None if record.slot_verdict is None else Verdict.WOULD_DENY
        return [msgspec.structs.replace(one, shadow=True, slot_verdict=said) for one in refused]

    def _watching(self, shadow: CompiledPolicy) -> CompiledPolicy:
        """Return a policy as one that only watches, the same one each time."""
        key = (shadow.version, shadow.generation)
        found = self._shadows.get(key)
        if found is None:
            found = self._shadows[key] = msgspec.structs.replace(
                shadow, version=f"shadow {shadow.version}", mode=Mode.MONITOR, group_modes={}
            )
            while len(self._shadows) > _BROKERS:
                self._shadows.popitem(last=False)
        return found

    def _broker(self, policy: CompiledPolicy) -> tuple[Broker, tuple[str, ...]]:
        key = (policy.version, policy.generation)
        found = self._brokers.get(key)
        if found is None:
            found = self._brokers[key] = Broker(policy), workspace.links(policy)
            while len(self._brokers) > _BROKERS:
                self._brokers.popitem(last=False)
        return found


def _first_asked(record: KernelRecord, found: list[KernelRecord]) -> KernelRecord:
    """Return the refusal that stands for a call: its hook's, which asks about names alone, or the first."""
    asked = [one for one in found if not one.beyond_name] if record.slot_verdict is Verdict.WOULD_DENY else []
    return (asked or found)[0]


def _program(record: KernelRecord, broker: Broker, names: SeenNames) -> KernelRecord:
    """Return the record, as a denial if the program is there and no rule grants it, or the interpreter of a script."""
    named, script = record.target, ""
    for _ in range(_INTERPRETERS):
        path, link = names.followed(named), names.in_folder(named)
        if not names.is_there(path) or names.is_directory(path) or names.withholds(path, 0o111):
            break  # the kernel looks at this before it asks who may run it
        decision = broker.decide(Capability.PROCESS_EXEC, path)
        if decision.code is not None:
            of_link = decision if link is None else broker.decide(Capability.PROCESS_EXEC, link)
            if is_unspoken_of(decision.code) and is_unspoken_of(of_link.code):
                decision = of_link  # as hooks name it: a rule for the link grants both
            reason = f"{script} names it as its interpreter: {decision.reason}" if script else decision.reason
            denied = refused(record, msgspec.structs.replace(decision, reason=reason), decision.target)
            asked = (names.in_folder(record.target) or record.target) if script else ""
            return msgspec.structs.replace(denied, script=asked)
        interpreter = names.interpreter(path)
        if interpreter is None:
            break
        named, script = interpreter, path
    return record


def _refusals(
    record: KernelRecord,
    broker: Broker,
    names: SeenNames,
    searched: Searched,
    *,
    sealed: bool,
    by_guest: bool,
    full: bool,
) -> list[KernelRecord]:
    """Return what is refused of the rights that a call needs, in the order in which hooks ask."""
    found: list[KernelRecord] = []
    passed = broker.policy.mode_of("fs") is Mode.MONITOR  # by now a file may have its new name
    unmade: set[str] = set()  # what a rule grants that speaks of it alone, and its folder does not
    asked = _asked_for(record, passed, names, broker, hides=sealed and not passed)
    if _ends_at_link(record, broker, names, hides=sealed or passed):
        return found
    for capability, path, file in asked:
        if capability is Capability.FS_CREATE and _stood(record, file, broker, names, sealed=sealed, passed=passed):
            return found  # EEXIST comes before a refusal of this name
        listing = names.is_directory(file)
        if listing and capability is Capability.FS_READ and file in searched.directories:
            continue
        if capability is Capability.FS_READ and not full and is_tried(record, file, broker.policy, by_guest):
            continue
        decision = broker.decide(capability, file, listing=listing)
        if decision.code is None and _only_named(record, broker, capability, file, names, passed):
            unmade.add(file)
        if decision.code is not None:
            found.append(refused(record, decision, path))
        elif passed and capability is Capability.FS_CREATE and _was_only_named(broker, record, file, names):
            would = refused(record, of_folder(decision, Verdict.WOULD_DENY), path, beyond_name=True)
            also = tuple((one, of) for one, of, same in asked if same == file and one is not capability)
            found.append(msgspec.structs.replace(would, also=also))
        elif file in unmade:  # and what else is done with it then, which only the folder can grant either
            found.append(refused(record, of_folder(decision, verdict(passed)), path, beyond_name=True))
        elif sealed and not passed and capability is Capability.FS_METADATA and not writable(broker.decide, file):
            found.append(refused(record, read_only(decision, file), path, beyond_name=True))
    if record.syscall in (*_RENAMING, *_LINKING):
        found += _widened(record, broker, names)
        found += _between_mounts(record, broker, names) if sealed and not found else ()
    return found


def _stood(record: KernelRecord, file: str, broker: Broker, names: SeenNames, *, sealed: bool, passed: bool) -> bool:
    """Tell whether a call that only makes names found its name taken: the kernel says so before anything refuses.

    Where a root view hides what is there, the name is not taken to the guest.
    """
    if not (record.syscall in (*_NAMING, *_LINKING) or record.flags & os.O_EXCL) or record.flags & _TMPFILE:
        return False
    hides = (sealed or passed) and broker.decide(Capability.FS_LOOKUP, file).code is not None
    if hides:
        return False
    if record.met is not None and record.syscall not in _LINKING:
        return record.met != "nothing"
    if not passed:
        return names.is_seen(file)
    if any(rule.path.startswith(f"{file}/") and names.is_there(rule.path) for rule in broker.policy.fs):
        return True  # on the way to a place that the sandbox was made with; a busy directory's times say nothing
    return names.stood_before(file, record.monotonic_ns, new=record.syscall not in _LINKING)


def _ends_at_link(record: KernelRecord, broker: Broker, names: SeenNames, *, hides: bool) -> bool:
    """Tell whether an open that follows no link met one: the kernel says so (ELOOP) before anything refuses."""
    makes = record.flags & os.O_CREAT and record.flags & os.O_EXCL  # EEXIST: `_stood` tells
    if record.syscall not in _OPENING or not record.flags & os.O_NOFOLLOW or makes:
        return False
    link = names.acted_on(record.target, record.flags)
    hidden = hides and broker.decide(Capability.FS_LOOKUP, link).code is not None
    if record.met is not None:
        return record.met == "link" and not hidden
    return names.is_link(link) and not hidden and not _was_there(record, broker, link)


def _was_there(record: KernelRecord, broker: Broker, file: str) -> bool:
    """Tell whether the kernel refused a file, as the guest's C library says, which the guest may have removed since."""
    if record.refused != errno.EACCES or broker.policy.mode_of("fs") is Mode.MONITOR:
        return False
    return broker.decide(Capability.FS_DELETE, os.path.dirname(file)).code is None


def _only_named(
    record: KernelRecord, broker: Broker, capability: Capability, file: str, names: SeenNames, passed: bool
) -> bool:
    """Tell whether a name that is granted cannot be made or removed, because its directory does not grant that.

    Not where something has the name that is to be made, or nothing that is to be removed: then it is no refusal.
    """
    if capability not in _OF_NAMES or (passed and capability is Capability.FS_CREATE):
        return False
    there = names.is_there(file) or (passed and names.removed_since(file, record.monotonic_ns) is not None)
    if record.met is not None and (capability is Capability.FS_DELETE or record.syscall not in (*_RENAMING, *_LINKING)):
        there = record.met != "nothing"
    if there is (capability is Capability.FS_CREATE):
        return False
    return broker.decide(capability, os.path.dirname(file)).code is not None


def _was_only_named(broker: Broker, record: KernelRecord, file: str, names: SeenNames) -> bool:
    """Tell the same of a name that monitor mode lets the call make, or has let it."""
    given = record.syscall in (*_RENAMING, *_LINKING) or record.met == "nothing"
    stood = not given and names.is_there(file) and not names.born_after(file, record.monotonic_ns)
    if stood or (not given and record.met == "other"):
        return False
    return broker.decide(Capability.FS_CREATE, os.path.dirname(file)).code is not None


def _looked_at(record: KernelRecord, names: SeenNames) -> str | None:
    """Return the path that was only looked at, its links followed; None for any other call.

    A link that was itself looked at is named, and not where it leads, which may be a name that no guest sees.
    """
    is_look = record.capability is Capability.FS_LOOKUP
    if not is_look and not (record.syscall in _OPENING and record.flags & os.O_PATH):
        return None
    link = names.in_folder(record.target) if record.flags & os.O_NOFOLLOW else None
    return names.followed(record.target) if link is None else link


def _moved(
    record: KernelRecord, names: SeenNames, broker: Broker, *, sealed: bool
) -> tuple[tuple[Capability, str], ...]:
    """Return what a move or a link needs, granted or not; nothing for other calls."""
    if record.syscall not in (*_RENAMING, *_LINKING):
        return ()
    hides = sealed and broker.policy.mode_of("fs") is not Mode.MONITOR
    return tuple([(capability, path) for capability, path, _ in _asked_for(record, True, names, broker, hides=hides)])


def _widened(record: KernelRecord, broker: Broker, names: SeenNames) -> list[KernelRecord]:
    """Return the refusals of a move to where more is granted."""
    links, target = record.syscall in _LINKING, names.in_folder(record.other)
    source = names.acted_on(record.target, record.flags) if links else names.in_folder(record.target)
    if source is None or target is None:
        return []
    why = f"{target} grants more: a move or a link may not widen what can be done with a file"
    return [
        refused(record, msgspec.structs.replace(one, reason=why), source, beyond_name=True)
        for one in widened(broker.decide, source, target, directory=names.is_directory(source))
    ]


def _between_mounts(record: KernelRecord, broker: Broker, names: SeenNames) -> list[KernelRecord]:
    """Return the refusal of a move or a link from one granted place to another: in the root view each is a mount.

    None between two file systems of the host, nor to or from the workspace: no move goes there anywhere.
    """
    asked = _moved(record, names, broker, sealed=True)
    if not asked:
        return []
    source, (_, target) = asked[0][1], next(one for one in asked if one[0] is Capability.FS_CREATE)
    mounts = [mounted_at(broker.decide, os.path.dirname(path)) for path in (source, target)]
    if mounts[0] == mounts[1] or not names.on_one_file_system(*map(os.path.dirname, (source, target))):
        return []
    decision = Decision(
        verdict=verdict(broker.policy.mode_of("fs") is Mode.MONITOR),
        capability=Capability.FS_CREATE,
        target=target,
        code=DenialCode.SCOPE_INSUFFICIENT,
        reason=f"{mounts[0]} and {mounts[1]} are two grants, and no move or link leads from one to the other. "
        "Hint: copy and remove, or grant a directory above both",
    )
    moved = refused(record, decision, target, beyond_name=True)
    number = errno.EXDEV if decision.verdict is Verdict.DENY else 0
    return [msgspec.structs.replace(moved, enforcer="root view", errno=number)]


def _would_ask(record: KernelRecord, policy: CompiledPolicy) -> KernelRecord:
    """Return what monitor mode let through, and whether its host would have been asked instead."""
    if record.verdict is not Verdict.WOULD_DENY or not is_unspoken_of(record.code):
        return record
    opened = record.capability is Capability.FS_CREATE or os.path.isfile(record.target)
    opens = opened and record.capability in OF_FILES and record.syscall in _OPENING
    if not (opens or record.capability in (*NAMING.get(record.syscall or "", ()), Capability.PROCESS_EXEC)):
        return record
    asked = asks_about(policy, record.capability, record.target)
    return msgspec.structs.replace(record, answer="would_ask") if asked else record


def _met(record: KernelRecord, path: str, broker: Broker, *, hides: bool) -> bool | None:
    """Tell whether a call found something of its (first) name; None where it followed a link, or it is not known.

    What a root view `hides` the call did not find, whether it is there or not.
    """
    if record.met != "nothing":
        return True if record.met == "other" else None
    hidden = hides and broker.decide(Capability.FS_LOOKUP, path).code is not None
    return None if hidden else False


def _asked_for(
    record: KernelRecord, passed: bool, names: SeenNames, broker: Broker, *, hides: bool
) -> list[tuple[Capability, str, str]]:
    """Return what the call needs, as (capability, path that was asked for, path that decides), in the order of hooks.

    /lib is a symbolic link: the rule says /usr/lib. Of a name of an own descriptor its file decides. Nothing
    where nothing is there, which is no refusal.
    """
    asked: list[tuple[Capability, str]]
    if record.syscall in _RENAMING:
        source, target = names.in_folder(record.target), names.in_folder(record.other)
        there = target is not None and names.is_there(target)
        if source is None or target is None:
            return []
        found = record.met == "link" or _met(record, source, broker, hides=hides)
        if not (names.is_there(source) or (passed and there) if found is None else found):
            return []
        replaced = [(Capability.FS_DELETE, target)] if there and not passed else []
        asked = [(Capability.FS_DELETE, source), (Capability.FS_CREATE, target), *replaced]
    elif record.syscall in _LINKING:
        source, target = names.acted_on(record.target, record.flags), names.in_folder(record.other)
        found = _met(record, source, broker, hides=hides)
        if target is None or not (names.is_there(source) if found is None else found):
            return []
        asked = [(Capability.FS_READ, source), (Capability.FS_CREATE, target)]
    elif record.syscall in _NAMING:
        name = names.in_folder(record.target)
        if name is None and passed and record.capability is Capability.FS_DELETE:
            name = names.removed_since(record.target, record.monotonic_ns)  # with its folder, by now
        asked = [] if name is None else [(record.capability, name)]
    else:
        return _opened(record, passed, names, broker, hides=hides)
    return [(capability, path, path) for capability, path in asked]


def _opened(
    record: KernelRecord, passed: bool, names: SeenNames, broker: Broker, *, hides: bool
) -> list[tuple[Capability, str, str]]:
    path = names.acted_on(record.target, record.flags)
    file = record.other or path
    if not file.startswith("/") or (not record.other and _DESCRIPTOR.fullmatch(path)):
        return []  # a pipe or a socket that it has open, which no rule speaks of; or not known
    found, flags = None if record.other else _met(record, file, broker, hides=hides), record.flags
    there = names.is_there(file) if found is None else found
    if record.syscall not in _OPENING:
        return [(record.capability, path, file)] if there or _was_there(record, broker, file) else []
    if not (there or flags & (os.O_CREAT | _TMPFILE) or _was_there(record, broker, file)):
        return []
    asked = []
    # what is there now the call may have made, where it went on: surely with O_EXCL
    made = not there or bool(flags & os.O_EXCL)
    made = made or (found is None and passed and names.born_after(file, record.monotonic_ns))
    if flags & _TMPFILE or (flags & os.O_CREAT and made):
        asked.append(Capability.FS_CREATE)
    if flags & (os.O_ACCMODE | os.O_TRUNC):
        asked.append(Capability.FS_WRITE)
    if flags & os.O_ACCMODE != os.O_WRONLY and not flags & _TMPFILE:
        asked.append(Capability.FS_READ)
    return [(capability, path, file) for capability in asked]


def let_through(record: KernelRecord) -> KernelRecord | None:
    """Return the record of a program or socket that monitor mode let through, named as the broker names it.

    None for a process that is made for a program that a hook has reported: one call, and a rule for the program grants
    it. None where nothing is there, which is not refused: a search in PATH tries each directory, and the C library asks
    for daemons that do not run. Another socket may be gone by now that was there. Enforcing refuses native code of the
    guest's own process any program, and a child to search for one as well.
    """
    if record.capability is Capability.PROCESS_FORK and record.slot_capability is Capability.PROCESS_EXEC:
        return None
    if record.capability is Capability.PROCESS_EXEC and record.target.startswith("/"):
        names = SeenNames()
        path = names.in_folder(record.target) or record.target
        kept = record.broker_consulted is False or names.is_there(path)
        return msgspec.structs.replace(record, target=path) if kept else None
    if record.target.startswith("unix:/"):
        path = record.target[5:]
        return None if path.startswith(_DAEMONS) and not SeenNames().is_there(path) else record
    return record
