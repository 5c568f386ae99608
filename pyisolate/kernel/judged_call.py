"""One observed call, and what the file enforcer makes of it: what it needs, and what is refused of that."""

from __future__ import annotations

import errno
import os
import re

import msgspec

from ..capability import Capability
from ..decision import Decision, DenialCode, Mode, Verdict
from ..policy import workspace
from ..policy.broker import Broker
from ..policy.moves import mounted_at, no_device, of_folder, read_only, verdict, widened, writable
from ..policy.resolver import SHOWN_DEVICES
from ..policy.searched import Searched
from ..records import LINKING, RENAMING, KernelRecord
from .expected_files import is_import_let_through, is_tried
from .observed_looks import by_unseen_link, refused
from .seen_names import OWN_DESCRIPTOR, SeenNames

#: Calls that are about a name itself; the others follow it to what it leads to.
OF_NAME = frozenset(("mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir"))
OPENING = frozenset(("open", "openat", "creat"))
_DESCRIPTOR = re.compile(rf"/proc/(?:self|thread-self)/fd/[0-9]+|{OWN_DESCRIPTOR.pattern}")
#: What the kernel grants by directories: a rule for one name says nothing of them to it.
_OF_NAMES = frozenset((Capability.FS_CREATE, Capability.FS_DELETE))
_TMPFILE = 0o20000000  # __O_TMPFILE (asm-generic/fcntl.h)
_NEITHER = os.O_ACCMODE  # the access mode 3
#: What a call needs: (capability, path that was asked for, path that decides).
_Needs = list[tuple[Capability, str, str]]


class JudgedCall(msgspec.Struct, frozen=True):
    """One call, the policy's tables and what is seen of its names. `sealed`, `by_guest`, `full`: see `judge`."""

    record: KernelRecord
    broker: Broker
    names: SeenNames
    searched: Searched
    sealed: bool
    by_guest: bool
    full: bool

    @property
    def passed(self) -> bool:
        """Nothing refused it: by now a file may have its new name."""
        return self.broker.policy.mode_of("fs") is Mode.MONITOR

    @property
    def hides(self) -> bool:
        """A root view hid from it what no rule grants."""
        return self.sealed and not self.passed

    def refusals(self) -> list[KernelRecord]:
        """Return what is refused of the rights that a call needs, in the order in which hooks ask."""
        found: list[KernelRecord] = []
        unmade: set[str] = set()
        asked = self._asked_for(passed=self.passed)
        if self._ends_at_link():
            return found
        for capability, path, file in asked:
            if capability is Capability.FS_CREATE and self._stood(file):
                return found  # EEXIST comes before a refusal of this name
            if (one := self._refusal(capability, path, file, asked, unmade)) is not None:
                found.append(one)
        if self.record.syscall in RENAMING | LINKING and asked:
            found += self._widened() if self.passed or self.names.is_there(asked[0][2]) else ()
            found += self._between_mounts() if self.sealed and not found else ()
        return found

    def _refusal(
        self, capability: Capability, path: str, file: str, asked: _Needs, unmade: set[str]
    ) -> KernelRecord | None:
        """Return the refusal of one right that a call needs.

        `unmade`: what a rule grants that speaks of it alone, and its folder does not; it is added to.
        """
        record, decide = self.record, self.broker.decide
        listing = self.names.is_directory(file)
        if capability is Capability.FS_READ:
            leads = self.names.leads_to(file)
            if listing and file in self.searched.directories:
                return None
            if self.passed and is_import_let_through(record, file, self.searched):
                return None
            if not self.full and is_tried(record, leads, self.broker.policy, self.by_guest):
                return None
        decision = decide(capability, file, listing=listing)
        if decision.code is not None:
            denied = by_unseen_link(refused(record, decision, path), self.names, passed=self.passed)
            if capability is not Capability.FS_CREATE and (Capability.FS_CREATE, path, file) in asked:
                # as hooks say it: no rule for a name that is not there yet lets the rest of the call pass
                denied = msgspec.structs.replace(denied, also=((Capability.FS_CREATE, path),))
            narrower = bool(record.other) and OWN_DESCRIPTOR.fullmatch(record.target) is not None
            return msgspec.structs.replace(denied, no_rule=True) if narrower else denied
        if self._only_named(capability, file):
            unmade.add(file)
        if self.passed and capability is Capability.FS_CREATE and self._was_only_named(file):
            would = refused(record, of_folder(decision, Verdict.WOULD_DENY), path, beyond_name=True)
            also = tuple((one, of) for one, of, same in asked if same == file and one is not capability)
            return msgspec.structs.replace(would, also=also)
        if file in unmade:  # and what else is done with it then, which only the folder can grant either
            return refused(record, of_folder(decision, verdict(self.passed)), path, beyond_name=True)
        if self.sealed and not self.passed and capability is Capability.FS_METADATA and not writable(decide, file):
            return refused(record, read_only(decision, file), path, beyond_name=True)
        if self._is_hidden_device(file):
            kept = refused(record, no_device(decision), path, beyond_name=True)
            return msgspec.structs.replace(kept, enforcer="root view", errno=errno.EACCES)
        return None

    def _is_hidden_device(self, file: str) -> bool:
        """Tell whether a call opens a device that no sandbox has; what it opens by its own descriptor it has."""
        record = self.record
        if not self.sealed or self.passed or record.syscall not in OPENING or record.other:
            return False
        return file not in SHOWN_DEVICES and self.names.is_device(file)

    def _stood(self, file: str) -> bool:
        """Tell whether a call that only makes names found its name taken: the kernel says so before anything refuses.

        Where a root view hides what is there, the name is not taken to the guest.
        """
        record, broker, names = self.record, self.broker, self.names
        if not (record.syscall in (*OF_NAME, *LINKING) or record.flags & os.O_EXCL) or record.flags & _TMPFILE:
            return False
        if self._is_hidden(file) or record.refused:  # to the first of two tries the kernel did not say that
            return False
        if record.met is not None and record.syscall not in LINKING:
            return record.met != "nothing"
        if not self.passed:
            return names.is_seen(file)
        if any(rule.path.startswith(f"{file}/") and names.is_there(rule.path) for rule in broker.policy.fs):
            return True  # on the way to a place that the sandbox was made with; a busy directory's times say nothing
        return names.stood_before(file, record.monotonic_ns, new=record.syscall not in LINKING)

    def _ends_at_link(self) -> bool:
        """Tell whether an open that follows no link met one: the kernel says so (ELOOP) before anything refuses."""
        record, names = self.record, self.names
        makes = record.flags & os.O_CREAT and record.flags & os.O_EXCL  # EEXIST: `_stood` tells
        if record.syscall not in OPENING or not record.flags & os.O_NOFOLLOW or makes:
            return False
        link = names.acted_on(record.target, record.flags)
        hidden = self._is_hidden(link)
        if record.met is not None:
            return record.met == "link" and not hidden
        return names.is_link(link) and not hidden and not self._was_there(link)

    def _was_there(self, file: str) -> bool:
        """Tell whether the kernel refused a file, as its C library says, which the guest may have removed since."""
        if self.record.refused != errno.EACCES or self.passed:
            return False
        return self.broker.decide(Capability.FS_DELETE, os.path.dirname(file)).code is None

    def _only_named(self, capability: Capability, file: str) -> bool:
        """Tell whether a name that is granted cannot be made or removed, because its directory does not grant that.

        Not where something has the name that is to be made, or nothing that is to be removed: then it is no refusal.
        """
        record, broker, names = self.record, self.broker, self.names
        if capability not in _OF_NAMES or (self.passed and capability is Capability.FS_CREATE):
            return False
        there = names.is_there(file) or (self.passed and names.removed_since(file, record.monotonic_ns) is not None)
        its_own = capability is Capability.FS_DELETE or record.syscall not in RENAMING | LINKING
        if record.met is not None and its_own:
            there = record.met != "nothing"
        moves = capability is Capability.FS_CREATE and record.syscall in RENAMING  # it makes a name that is there, too
        if not moves and there is (capability is Capability.FS_CREATE):
            return False
        return broker.decide(capability, os.path.dirname(file)).code is not None

    def _was_only_named(self, file: str) -> bool:
        """Tell the same of a name that monitor mode lets the call make, or has let it."""
        record, broker, names = self.record, self.broker, self.names
        given = record.syscall in RENAMING | LINKING or record.met == "nothing"
        stood = not given and names.is_there(file) and not names.born_after(file, record.monotonic_ns)
        if stood or (not given and record.met == "other"):
            return False
        return broker.decide(Capability.FS_CREATE, os.path.dirname(file)).code is not None

    def moved(self) -> tuple[tuple[Capability, str], ...]:
        """Return what a move or a link needs, granted or not; nothing for other calls."""
        if self.record.syscall not in RENAMING | LINKING:
            return ()
        return tuple([(capability, path) for capability, path, _ in self._asked_for(passed=True)])

    def _widened(self) -> list[KernelRecord]:
        """Return the refusals of a move to where more is granted."""
        record, broker, names = self.record, self.broker, self.names
        links, target = record.syscall in LINKING, names.in_folder(record.other)
        source = names.acted_on(record.target, record.flags) if links else names.in_folder(record.target)
        if source is None or target is None:
            return []
        why = f"{target} grants more: a move or a link may not widen what can be done with a file"
        return [
            refused(record, msgspec.structs.replace(one, reason=why), source, beyond_name=True)
            for one in widened(broker.decide, source, target, directory=names.is_directory(source))
        ]

    def _between_mounts(self) -> list[KernelRecord]:
        """Return the refusal of a move or a link from one granted place to another: in the root view each is a mount.

        None between two file systems of the host, nor to or from the workspace: no move goes there anywhere.
        """
        record, broker, names = self.record, self.broker, self.names
        asked = self.moved()
        if not asked:
            return []
        source, (_, target) = asked[0][1], next(one for one in asked if one[0] is Capability.FS_CREATE)
        mounts = [mounted_at(broker.decide, os.path.dirname(path)) for path in (source, target)]
        if mounts[0] == mounts[1] or not names.on_one_file_system(*map(os.path.dirname, (source, target))):
            return []
        decision = Decision(
            verdict=verdict(self.passed),
            capability=Capability.FS_CREATE,
            target=target,
            code=DenialCode.SCOPE_INSUFFICIENT,
            reason=f"{mounts[0]} and {mounts[1]} are two grants, and no move or link leads from one to the other. "
            "Hint: copy and remove, or grant a directory above both",
        )
        moved = refused(record, decision, target, beyond_name=True)
        number = errno.EXDEV if decision.verdict is Verdict.DENY else 0
        return [msgspec.structs.replace(moved, enforcer="root view", errno=number)]

    def _found(self, path: str) -> bool | None:
        """Tell whether a call found something of its (first) name; None where it followed a link, or it is not known.

        What a root view `hides` the call did not find, whether it is there or not.
        """
        record, broker = self.record, self.broker
        if record.met != "nothing":
            return True if record.met == "other" else None
        hidden = self.hides and broker.decide(Capability.FS_LOOKUP, path).code is not None
        return None if hidden else False

    def _asked_for(self, *, passed: bool) -> _Needs:
        """Return what the call needs, in the order of hooks.

        /lib is a symbolic link: the rule says /usr/lib. Of a name of an own descriptor its file decides. Nothing
        where nothing is there, which is no refusal.
        """
        record, names = self.record, self.names
        asked: list[tuple[Capability, str]]
        if record.syscall in RENAMING:
            source, target = names.in_folder(record.target), names.in_folder(record.other)
            there = target is not None and names.is_there(target)
            if source is None or target is None:
                return []
            if not self._is_moved(source, passed=passed, replaces=there) and not self._stops_before(source, target):
                return []
            replaced = [(Capability.FS_DELETE, target)] if there and not passed else []
            asked = [(Capability.FS_DELETE, source), (Capability.FS_CREATE, target), *replaced]
        elif record.syscall in LINKING:
            source, target = names.acted_on(record.target, record.flags), names.in_folder(record.other)
            found = self._found(source)
            if target is None or not (names.is_there(source) if found is None else found):
                return []
            asked = [(Capability.FS_READ, source), (Capability.FS_CREATE, target)]
        elif record.syscall in OF_NAME:
            name = names.in_folder(record.target)
            if name is None and passed and record.capability is Capability.FS_DELETE:
                name = names.removed_since(record.target, record.monotonic_ns)  # with its folder, by now
            if name is not None and self._removed_nothing(name):
                name = None
            asked = [] if name is None else [(record.capability, name)]
        else:
            return self._opened(passed=passed)
        return [(capability, path, path) for capability, path in asked]

    def _is_moved(self, source: str, *, passed: bool, replaces: bool) -> bool:
        """Tell whether a move found something under its first name."""
        found = self.record.met == "link" or self._found(source)
        return found if found is not None else self.names.is_there(source) or (passed and replaces)

    def _stops_before(self, source: str, target: str) -> bool:
        """Tell whether a root view refuses a move before it looks for what is moved (EXDEV, EROFS).

        As it does a removal. It comes so far where it shows both directories.
        """
        shown = [self.broker.decide(Capability.FS_LOOKUP, os.path.dirname(path)).code for path in (source, target)]
        return self.hides and shown == [None, None]

    def _removed_nothing(self, name: str) -> bool:
        """Tell whether the call removed a name that nothing had, and that leads to the workspace if enforced.

        Where it is not known what the call met, native code may have removed a file of the host's: enforcing has none.
        """
        record, names = self.record, self.names
        if record.capability is not Capability.FS_DELETE or not workspace.is_of_host_files(name):
            return False
        if not (self.passed and workspace.keeps_host_files(self.broker.policy)):
            return False
        if record.slot_verdict is Verdict.WOULD_DENY:
            return False  # the hook found it there
        return not names.is_there(name) if record.met is None else record.met == "nothing"

    def _is_directory_written(self, file: str) -> bool:
        """Tell whether an open asks to write to a directory, which Linux never lets through (EISDIR).

        Not where a hook has refused it: a guest that does not see the directory opens nothing.
        """
        record = self.record
        if not record.flags & (os.O_ACCMODE | os.O_TRUNC | os.O_CREAT) or record.flags & (_TMPFILE | os.O_PATH):
            return False
        if record.slot_verdict is Verdict.WOULD_DENY or not self.names.is_directory(file):
            return False
        return not self._is_hidden(file)

    def _is_hidden(self, file: str) -> bool:
        """Tell whether a root view hides a file, or would where the policy is enforced."""
        return (self.sealed or self.passed) and self.broker.decide(Capability.FS_LOOKUP, file).code is not None

    def _opened(self, *, passed: bool) -> _Needs:
        record, names = self.record, self.names
        path = names.acted_on(record.target, record.flags)
        file = record.other or path
        if not file.startswith("/") or (not record.other and _DESCRIPTOR.fullmatch(path)):
            return []  # a pipe or a socket that it has open, which no rule speaks of; or not known
        found, flags = None if record.other else self._found(file), record.flags
        there = names.is_there(file) if found is None else found
        if record.syscall not in OPENING:
            return [(record.capability, path, file)] if there or self._was_there(file) else []
        if not (there or flags & (os.O_CREAT | _TMPFILE) or self._was_there(file)) or self._is_directory_written(file):
            return []
        asked = []
        accesses = flags & os.O_ACCMODE
        # open(2): a descriptor that neither reads nor writes, of which no enforcer asks a right
        neither = accesses == _NEITHER and not self._is_hidden(file)
        # what is there now the call may have made, where it went on: surely with O_EXCL
        made = not there or bool(flags & os.O_EXCL)
        made = made or (found is None and passed and names.born_after(file, record.monotonic_ns))
        # the first of two tries may have made it: Landlock refuses to open it only then
        made = made or (record.refused == errno.EACCES and names.is_just_made(file, record.monotonic_ns))
        if flags & _TMPFILE or (flags & os.O_CREAT and made):
            asked.append(Capability.FS_CREATE)
        if (accesses and not neither) or flags & os.O_TRUNC:
            asked.append(Capability.FS_WRITE)
        if accesses != os.O_WRONLY and not neither and not flags & _TMPFILE:
            asked.append(Capability.FS_READ)
        # no hook asks about these names, and no rule can name them: what a rule has to grant is the file
        named = file if there and OWN_DESCRIPTOR.fullmatch(path) else path
        return [(capability, named, file) for capability in asked]
