"""What layers report to each other: records of the broker and of the kernel, and whose they are.

Light: guests import it. `telemetry.merge` makes an event of them.
"""

from __future__ import annotations

import enum
import errno as errno_names
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any, Literal, Protocol

import msgspec

from .capability import Capability, FsRight
from .choices import EnforcerName, Origin
from .decision import DenialCode, Mode, Verdict

#: What came of a question: allowed (once, in this sandbox, as a rule), or refused, and why. `would_ask`: monitor mode.
AskAnswer = Literal[
    "once", "sandbox", "rule", "deny", "timeout", "failed", "full", "unanswered", "gave_up", "would_ask"
]
#: Where a call is that waited: answered or given up by its task, at its listener, or past it (a program's start alone).
CallStage = Literal["gone", "waits", "went_on"]
#: What a call found under its name, in a directory that was there: nothing, a link, or anything else.
Met = Literal["nothing", "link", "other"]
#: The system calls that take a file from one name to another, and that give it one more: both have two names.
RENAMING = frozenset(("rename", "renameat", "renameat2"))
LINKING = frozenset(("link", "linkat"))


class Evaluation(enum.StrEnum):
    """How the kernel's decision became known."""

    ENFORCED = "enforced"  # the kernel mechanism decided and we hold its own record
    ERRNO = "errno"  # the system call's errno, seen at the hook in the guest
    PROBED = "probed"  # the same kernel tables were asked without acting
    COUNTED = "counted"  # a kernel counter says that it happened, without the target
    NONE = "none"  # no kernel record; kernel_decision says why


class Reporter(enum.StrEnum):
    """Who saw it. What only the guest reported could be forged by the guest; the rest could not."""

    GUEST = "guest"
    SUPERVISOR = "supervisor"
    KERNEL = "kernel"


#: A call needs at most so much besides what was refused: a move of a directory to where more is granted.
ALSO_LIMIT = 8


#: What a call needs: (capability, target).
Wanted = tuple[Capability, str]


class RefusedOperation(msgspec.Struct, frozen=True):
    """What is known of a refused operation, for its suggestion."""

    capability: Capability
    target: str
    #: what else the same call needs and is not granted, such as the writing of a file that it makes
    also: tuple[Wanted, ...] = ()
    #: native code made the call, and no hook was asked
    by_native: bool = False
    #: a rule refuses it, of a module inside of a package maybe
    denied: bool = False
    #: it went on all the same, in monitor mode or by the host's yes: what was to be made is there by now
    passed: bool = False
    #: it is about a link itself, and not about what that leads to
    of_link: bool = False


#: Returns the smallest rules under which an operation on a raw target passes, as a piece of a policy file.
Suggest = Callable[[RefusedOperation], "dict[str, Any] | None"]


class BrokerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker decided, as the guest's interpreter reports it (a hostile input on the host)."""

    sequence: int
    capability: Capability
    target: str
    verdict: Verdict
    code: DenialCode | None = None
    reason: str = ""
    rule: str | None = None
    presented: str | None = None
    origin: str | None = None
    pid: int = 0
    tid: int = 0
    monotonic_ns: int = 0
    count: int = 1
    #: set when the operation went on and the kernel then refused it: errno as the hook saw it
    errno: int | None = None
    syscall: str | None = None
    #: what else the same call needs and is not granted, as (capability, target): for the suggestion
    also: tuple[Wanted, ...] = ()
    #: it is about a link itself: the call followed none
    of_link: bool = False
    #: decided by the shadow policy: the one in force may have allowed it
    shadow: bool = False
    #: the host was asked first, of a request at the egress proxy: as in KernelRecord. No guest says so
    answer: AskAnswer | None = None
    asked_by: str | None = None
    waited_ms: int | None = None


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one enforcer decided or saw. `pid` and `tid` are the supervisor's view (kernel: tgid and pid).

    `sequence`, `slot_capability` and `slot_verdict` are the broker slot as the kernel program copied it (the listener
    has no sequence), 0/None where there is none; `broker_consulted` is None where it cannot be known.
    """

    sandbox_id: str
    enforcer: EnforcerName
    hook: str
    capability: Capability
    target: str
    verdict: Verdict
    errno: int = 0
    evaluation: Evaluation = Evaluation.ENFORCED
    syscall: str | None = None
    code: DenialCode | None = None
    reason: str = ""
    rule: str | None = None
    presented: str | None = None
    pid: int = 0
    tid: int = 0
    monotonic_ns: int = 0
    generation: int = 0
    count: int = 1
    sequence: int = 0
    slot_capability: Capability | None = None
    slot_verdict: Verdict | None = None
    broker_consulted: bool | None = None
    #: decided by the shadow policy: the one in force may have allowed it
    shadow: bool = False
    #: the second name of a call that has two (rename, link), or the file of a descriptor that the first one names
    other: str = ""
    #: device and inode of an open file whose name is "/" here: it is the root of a mount of its own
    file: tuple[int, int] | None = None
    #: what else the same call needs and is not granted: for the suggestion
    also: tuple[Wanted, ...] = ()
    #: the script that was to be run, of which hooks ask, where its interpreter (`target`) was refused
    script: str = ""
    #: its directory, its mount or where it would be moved decided, of which hooks ask nothing: they ask about names
    beyond_name: bool = False
    #: opened by a name of an own descriptor, which has not the right: no rule lets that call pass
    no_rule: bool = False
    #: open(2) flags of a call that opens a file; O_NOFOLLOW of one that is about a link itself
    flags: int = 0
    #: of a look-up: it also asks to enter or to use what it finds (chdir, access with a mode), which no cover allows
    uses: bool = False
    #: in the guest's own view, as the call came; None: not known. Links of its directory are followed in `target` then.
    #: `link`: what the link said that it met
    met: Met | None = None
    link: str = ""
    #: the C library calls for a look-up of a name, which a hook has seen
    resolves: bool = False
    #: importlib reads for an import that the broker has let through, and reported (monitor mode): the guest's own word
    imports: bool = False
    #: how often the kernel was asked for this one operation
    tries: int = 1
    #: what the kernel said to the first of two tries, by the guest's own word; 0: not known
    refused: int = 0
    #: the host was asked before it was decided: what came of it, by whom, and how long the call waited (ms)
    answer: AskAnswer | None = None
    asked_by: str | None = None
    waited_ms: int | None = None
    #: what the question was about besides, as in Asked
    detail: str | None = None
    #: number of the question, 0: none
    question: int = 0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits for the host's answer. `number` is the question's; `pid`, `tid` are the supervisor's view."""

    number: int
    capability: Capability
    target: str
    pid: int = 0
    tid: int = 0
    #: of the call
    flags: int = 0
    mode: int = 0
    #: the call itself, whose stage its listener tells
    call: int = 0
    syscall: str = ""
    #: the second name of a call that has two; else what the call says besides (native/src/notify/details.c)
    other: str = ""
    said: bytes = b""
    #: the same in words: where a link leads, or how a file is changed; and contents, which are in no event
    detail: str = ""
    content: str = ""
    #: what else the call needs and no rule grants
    also: tuple[Wanted, ...] = ()
    #: the file that the question is about, by what says which one it is; None where it is about a name, or no file
    file: tuple[int, ...] | None = None


class Actor(msgspec.Struct, frozen=True):
    """On whose behalf a sandbox or a guarded function runs."""

    kind: str
    id: str


class FileGrant(Protocol):
    """A rule about files, as far as it is asked here (policy/compiled.py, FsRule)."""

    @property
    def path(self) -> str:
        """Absolute, without a slash at its end."""

    @property
    def allow(self) -> int:
        """The rights that it grants; 0: none."""

    @property
    def deny(self) -> int:
        """The rights that it denies; 0: none."""

    @property
    def text(self) -> str:
        """The rule as a policy states it; empty where none does."""


#: What no mount can take from a place that stays in sight, where it is granted above; and from one that may be written.
_KEPT = FsRight.READ.value | FsRight.DELETE.value | FsRight.METADATA.value
_CHANGED = FsRight.WRITE.value | FsRight.CREATE.value | FsRight.DELETE.value
_OF_FILES = FsRight.WRITE.value | FsRight.METADATA.value
_path_of: Callable[[FileGrant], str] = attrgetter("path")


def is_above_grant(path: str, rules: Sequence[FileGrant], besides: Collection[str] = ()) -> bool:
    """Tell whether a rule grants something below the path, of a name that is none of `besides`.

    `rules` are sorted by path, as compiled ones are.
    """
    below = path.rstrip("/") + "/"
    for at in range(bisect_left(rules, below, key=_path_of), len(rules)):
        if not rules[at].path.startswith(below):
            return False
        if rules[at].allow and rules[at].path != below and rules[at].path not in besides:
            return True
    return False


def is_above_denial(path: str, rules: Sequence[FileGrant]) -> bool:
    """Tell whether the policy denies something below the path, which a root view cannot take from a writable mount."""
    below = path.rstrip("/") + "/"
    for at in range(bisect_left(rules, below, key=_path_of), len(rules)):
        if not rules[at].path.startswith(below):
            return False
        if rules[at].deny and rules[at].text:
            return True
    return False


def is_denied_in_part(path: str, rights: int, rules: Sequence[FileGrant]) -> bool:
    """Tell whether a grant of `rights` at a path would leave it denied another that holds above.

    No root view does that. What a rule denies there altogether is covered.
    """
    own = _rule_at(path, rules)
    if own is None or not own.text:
        return False
    if rights & _CHANGED and not rights & _OF_FILES and own.deny & FsRight.METADATA.value:
        return True  # a writable mount lets its owner change modes and times, which what denies writing denies too
    lost = own.deny & ~rights & (_KEPT | (_CHANGED if rights & _CHANGED else 0))
    while lost and path != "/":
        path = path.rpartition("/")[0] or "/"
        if (above := _rule_at(path, rules)) is not None and above.allow & lost:
            return True
    return False


def is_denied_by_import(path: str, rights: int, rules: Sequence[FileGrant]) -> bool:
    """Tell whether a rule of `import` denies rights at a path itself: no rule about files changes that."""
    own = _rule_at(path, rules)
    return own is not None and own.deny & rights != 0 and "import: {" in own.text


def _rule_at(path: str, rules: Sequence[FileGrant]) -> FileGrant | None:
    at = bisect_left(rules, path, key=_path_of)
    return rules[at] if at < len(rules) and rules[at].path == path else None


class SandboxContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor knows of a sandbox, for its events."""

    sandbox: str
    sandbox_id: str
    policy: str
    policy_version: str
    policy_generation: int
    isolation: Origin
    mode: Mode = Mode.ENFORCE
    actor: Actor | None = None
    #: W3C trace context of the caller of the request that runs
    traceparent: str | None = None
    #: rule's text -> what the policy says of it
    reasons: dict[str, str] = {}
    #: of the policy, sorted by path: no event suggests a rule about what lies above one that grants
    files: Sequence[FileGrant] = ()
    #: granted hosts without an address: no rule would change what is refused of them
    unresolved: Collection[str] = ()
    #: modules that a rule denies: what is below one needs it too
    denied_modules: Collection[str] = ()


REFUSALS = frozenset({Verdict.DENY, Verdict.WOULD_DENY})


#: errno values by which a Linux security mechanism refuses (errno(3)).
REFUSAL_ERRNOS = frozenset({errno_names.EACCES, errno_names.EPERM})


def is_denial(broker: BrokerRecord | None, kernel: KernelRecord | None = None) -> bool:
    """Tell whether at least one layer refused (or would have): whether `merge` has an event to make."""
    if broker is not None and (broker.verdict in REFUSALS or broker.errno in REFUSAL_ERRNOS):
        return True
    return kernel is not None and kernel.verdict in REFUSALS


#: Asks the kernel tables, without acting, what they say about an operation that the broker refused.
Probe = Callable[[BrokerRecord], "KernelRecord | None"]
