"""What the listener saw on its way to the file enforcer, and what that enforcer makes of it: files, and programs.

A record of an observed call says that a file was asked for, not what became of it. The tables that the root view and
the Landlock ruleset were made of say so: they are asked without acting. This is telemetry: it decides nothing. It comes
after the call: what the listener met under the name as the call came (`KernelRecord.met`) says more than what is there
by now.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from ..capability import Capability
from ..decision import Mode, Verdict
from ..native import looks
from ..policy import workspace
from ..policy.asking import NAMING, OF_FILES, asks_about
from ..policy.broker import Broker, is_unspoken_of
from ..policy.compiled import CompiledPolicy, FsRight
from ..policy.searched import Searched
from ..policy.suggest import crosses
from ..records import LINKING, RENAMING, KernelRecord
from .judged_call import OF_NAME, OPENING, JudgedCall
from .observed_code import is_mapped_code, judged
from .observed_looks import barred, by_unseen_link, not_found, refused, too_late
from .seen_names import OpenOwn, SeenNames
from .shown_links import ShownLinks

#: Policies in use at once; a broker is cheap to make again.
_BROKERS = 64
_NOTHING = Searched()
#: Where name services listen (native/src/notify/asked.c, notify_is_lookup).
_DAEMONS = ("/var/run/nscd/", "/run/nscd/", "/run/systemd/")
_INTERPRETERS = 6  # a script, and the five interpreters that may name one another (Linux, fs/exec.c)


class WatchedFiles:
    """Turns records of watched file calls into refusals, where the policy's tables refuse."""

    def __init__(self) -> None:
        #: with the names that lead to the workspace, and the links of the root view
        self._brokers: OrderedDict[tuple[str, int], tuple[Broker, tuple[str, ...], ShownLinks]] = OrderedDict()
        #: those that are judged by in place of one in force
        self._policies: OrderedDict[tuple[str, int], CompiledPolicy] = OrderedDict()

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
        left_out: frozenset[str] = frozenset(),
    ) -> list[KernelRecord]:
        """Return the record, as a denial if the file enforcer refuses the call, or would have in monitor mode.

        One call is one denial: of what hooks ask first, and what else the call needs is in it. Left as it is: what is
        granted; a file that is not there at all; a relative name, whose directory is not known here; the listing of a
        directory of `searched`, which any import of an absent module is.
        `own` lends the sandbox's workspace, where what lies below it is looked up. `sealed`: it sees a root view, in
        which what may not be written is mounted read-only. `by_guest`: the guest's own process called, and no program
        of it. `full`: nothing is left out that libraries only try. `left_out`: granted paths that were not there when
        the sandbox started, so that its tables do not have them.
        """
        if left_out and policy.mode_of("fs") is Mode.ENFORCE:
            found = self.judge(record, policy, searched, own, sealed=sealed, by_guest=by_guest, full=full)
            if any(one.verdict is not Verdict.ALLOW for one in found):
                return found  # the rules themselves do not do: they grant a file that is there, and no making of it
            held = self._held(policy, left_out)
            found = self.judge(record, held, searched, own, sealed=sealed, by_guest=by_guest, full=full)
            return [too_late(one, self._broker(policy)[0], left_out) for one in found]
        runs = record.capability is Capability.PROCESS_EXEC
        unix = record.capability.family == "net" and record.target.startswith("unix:/")
        maps = is_mapped_code(record) and record.verdict is Verdict.ALLOW
        if not (unix or maps) and (not (runs or record.capability.family == "fs") or not record.target.startswith("/")):
            return [record]
        broker, leading, shown = self._broker(policy)
        if maps:
            return [
                judged(msgspec.structs.replace(record, target=workspace.as_reached(record.target, leading)), broker)
            ]
        if unix:  # decided by the listener: only its name is to be as hooks spell it
            names = SeenNames(own, leading, record, shown if sealed else None)
            path = names.followed(workspace.as_reached(record.target[5:], leading))
            return [msgspec.structs.replace(record, target=f"unix:{path}")]
        if leading:  # the host's /tmp is another one
            target, other = (workspace.as_reached(path, leading) for path in (record.target, record.other))
            record = msgspec.structs.replace(record, target=target, other=other)
        names = SeenNames(own, leading, record, shown if sealed else None)
        if record.verdict is not Verdict.ALLOW:  # decided by the listener: only its name is to be as hooks spell it
            names_it = runs or record.syscall in OF_NAME | RENAMING | LINKING
            named = names.in_folder(record.target) if names_it else names.acted_on(record.target, record.flags)
            return [msgspec.structs.replace(record, target=named or record.target)]
        if (out_of_view := barred(record, names, broker, searched)) is not None:
            return [out_of_view]
        if runs:
            program = by_unseen_link(
                _program(record, broker, names), names, passed=policy.mode_of("fs") is Mode.MONITOR
            )
            return [_would_ask(program, policy)]
        if (looked := _looked_at(record, names)) is not None:
            return [not_found(record, looked, broker, names, searched)]
        call = JudgedCall(record, broker, names, searched, sealed, by_guest, full)
        found = call.refusals()
        if not found:
            return [record]
        first, also = _first_asked(record, found), call.moved()
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
        *,
        sealed: bool = False,
        by_guest: bool = False,
        full: bool = False,
    ) -> list[KernelRecord]:
        """Return what a shadow policy, where there is one, would refuse of the call; see `judge`.

        What the listener decides itself it has asked both policies about. Where the shadow policy grants no program at
        all, that is each of them; else a program is judged here, whatever became of it.
        """
        runs = record.capability is Capability.PROCESS_EXEC
        if shadow is None or record.shadow or (runs and not any(rule.allow & FsRight.EXEC for rule in shadow.fs)):
            return []
        if record.verdict is not Verdict.ALLOW:
            if not runs:
                return []
            record = msgspec.structs.replace(record, verdict=Verdict.ALLOW, code=None, answer=None)
        if is_mapped_code(record) and record.broker_consulted:
            return []  # the hook has reported it
        watching = self._watching(shadow)
        found = self.judge(record, watching, searched, own, sealed=sealed, by_guest=by_guest, full=full)
        refused = [one for one in found if one.verdict is Verdict.WOULD_DENY]
        # the hook that asked the broker in force has asked the shadow's as well
        said = None if record.slot_verdict is None else Verdict.WOULD_DENY
        return [msgspec.structs.replace(one, shadow=True, slot_verdict=said) for one in refused]

    def _watching(self, shadow: CompiledPolicy) -> CompiledPolicy:
        """Return a policy as one that only watches, the same one each time; names lead where it would lead them."""
        version = f"shadow {shadow.version}"
        watching = self._derived(
            (version, shadow.generation),
            lambda: msgspec.structs.replace(shadow, version=version, mode=Mode.MONITOR, group_modes={}),
        )
        self._broker(watching, workspace.links(shadow))
        return watching

    def _held(self, policy: CompiledPolicy, left_out: frozenset[str]) -> CompiledPolicy:
        """Return a policy as the tables have it, without what was not there, the same one each time."""
        version = f"{policy.version} without {' '.join(sorted(left_out))}"
        return self._derived(
            (version, policy.generation),
            lambda: msgspec.structs.replace(
                policy, version=version, fs=tuple([rule for rule in policy.fs if rule.path not in left_out])
            ),
        )

    def _derived(self, key: tuple[str, int], make: Callable[[], CompiledPolicy]) -> CompiledPolicy:
        found = self._policies.get(key)
        if found is None:
            found = self._policies[key] = make()
            while len(self._policies) > _BROKERS:
                self._policies.popitem(last=False)
        return found

    def _broker(
        self, policy: CompiledPolicy, leading: tuple[str, ...] | None = None
    ) -> tuple[Broker, tuple[str, ...], ShownLinks]:
        """Return what a policy is judged by, the same each time; `leading`: names to the workspace, else its own."""
        key = (policy.version, policy.generation)
        found = self._brokers.get(key)
        if found is None:
            broker, links = Broker(policy), workspace.links(policy) if leading is None else leading
            found = self._brokers[key] = broker, links, ShownLinks(broker)
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
            made = link is not None and broker.decide(Capability.FS_CREATE, link).code is None  # the guest's own
            if is_unspoken_of(decision.code) and is_unspoken_of(of_link.code) and not made:
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


def _would_ask(record: KernelRecord, policy: CompiledPolicy) -> KernelRecord:
    """Return what monitor mode let through, and whether its host would have been asked instead."""
    if record.verdict is not Verdict.WOULD_DENY or not is_unspoken_of(record.code):
        return record
    opened = record.capability is Capability.FS_CREATE or looks.is_file(record.target)
    opens = opened and record.capability in OF_FILES and record.syscall in OPENING
    if not (opens or record.capability in (*NAMING.get(record.syscall or "", ()), Capability.PROCESS_EXEC)):
        return record
    asked = asks_about(policy, record.capability, record.target)
    return msgspec.structs.replace(record, answer="would_ask") if asked else record


def _looked_at(record: KernelRecord, names: SeenNames) -> str | None:
    """Return the path that was only looked at, its links followed; None for any other call.

    A link that was itself looked at is named, and not where it leads, which may be a name that no guest sees.
    """
    is_look = record.capability is Capability.FS_LOOKUP
    if not is_look and not (record.syscall in OPENING and record.flags & os.O_PATH):
        return None
    link = names.in_folder(record.target) if record.flags & os.O_NOFOLLOW else None
    return names.followed(record.target) if link is None else link


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
