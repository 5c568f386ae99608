"""Run each operation in a sandbox of its own, and judge what was recorded of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyisolate

from .on_threads import as_claimed, claims_of, excused
from .operations import OPERATIONS, Operation
from .world import World

#: What the guest's operations find: `c` is the C library, `sys_` a raw system call; both return -errno when refused.
_PRELUDE = """
import ctypes, os
_libc = ctypes.CDLL(None, use_errno=True)
class _C:
    def __getattr__(self, name):
        function = getattr(_libc, name)
        if name in ("fopen", "opendir"):
            function.restype = ctypes.c_void_p
        if name == "mmap":
            function.restype = ctypes.c_long
        def call(*arguments):
            ctypes.set_errno(0)
            result = function(*arguments)
            return result
        return call
c = _C()
#: EPERM, ENOENT (the root view hides), EACCES, EXDEV, EROFS, ENOSYS; EMFILE where a quota of none stands for a refusal
_REFUSALS = (1, 2, 13, 18, 30, 38, 24)
def sys_(number, *arguments):
    _libc.syscall.restype = ctypes.c_long
    return _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
"""
_ATTEMPT = """
try:
    _outcome = eval(_CODE) if _EXPRESSION else (exec(_CODE), 0)[1]
    if isinstance(_outcome, int) and _outcome < 0:  # a call that went round the interpreter, or connect_ex
        _errno = -_outcome if _outcome < -1 else ctypes.get_errno()
        _outcome = "refused" if _errno in _REFUSALS else f"failed: errno {_errno}"
    else:
        _outcome = "done"
except PermissionError as error:
    _outcome = "refused"
except ImportError as error:
    _told = error if hasattr(error, "denial_event") else error.__cause__
    _refused = hasattr(_told, "denial_event") or isinstance(error, PermissionError)
    _outcome = "refused" if _refused else "failed: " + repr(error)
except OSError as error:  # of its own: it is no link (EINVAL), no directory (ENOTDIR)
    _outcome = f"failed: errno {error.errno}" if error.errno in (20, 22) else "refused"
except Exception as error:
    _outcome = "refused" if "denied" in repr(error) or "unable to open" in repr(error) else "failed: " + repr(error)
_outcome
"""


@dataclass
class Verdict:
    """What became of one operation done one way."""

    operation: str
    way: str
    outcome: str
    problems: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    denials: list[pyisolate.DenialEvent] = field(default_factory=list)
    #: what the sandbox's report says of such a refusal, which is less than its event: maybe none
    claimed: bool = False

    @property
    def refused(self) -> bool:
        return self.outcome == "refused"

    @property
    def right(self) -> bool:
        return self.refused and not self.problems


@dataclass
class Rates:
    """The sums of one configuration."""

    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def refused(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.refused]

    def rate(self, wanted: str) -> float:
        """Return the share of refused operations with a `right` event, or with `any` event."""
        refused = self.refused
        good = [v for v in refused if (v.right if wanted == "right" else bool(v.events) or v.claimed)]
        return len(good) / len(refused) if refused else 0.0

    @property
    def misses(self) -> list[Verdict]:
        return [v for v in self.verdicts if (v.refused and not v.right) or (not v.refused and v.events)]


def cases(world: World, ways: Iterable[str] = ("python", "native", "raw")) -> Iterator[tuple[Operation, str, str]]:
    """Return every operation done in every way: (operation, way, code of the guest)."""
    names = world.names()
    for operation in OPERATIONS:
        for way, text in operation.ways().items():
            if way in ways:
                yield operation, way, text.format(**names)


def measure(
    supervisor: pyisolate.Supervisor, world: World, cases: Iterable[tuple[Operation, str, str]], **spawn: Any
) -> Rates:
    """Do each case in a sandbox of its own and judge its events."""
    rates = Rates()
    policy = world.policy()
    claims = claims_of(supervisor, policy, **spawn) if spawn.get("isolation") == "thread" else None
    for operation, way, code in cases:
        outcome, events = attempt(supervisor, policy, code, **spawn)
        verdict = Verdict(operation.name, way, outcome, events=[_text(event) for event in events], denials=events)
        if verdict.refused and claims is None:
            verdict.problems = judge(operation, way, events, world)
        elif verdict.refused:
            left = as_claimed(operation, way, events, str(claims))
            verdict.claimed = left is None
            verdict.problems = [] if left is None else excused(operation, left, judge(operation, way, left, world))
        rates.verdicts.append(verdict)
    return rates


def attempt(
    supervisor: pyisolate.Supervisor, policy: pyisolate.Policy, code: str, **spawn: Any
) -> tuple[str, list[pyisolate.DenialEvent]]:
    """Run one piece of guest code; return what became of it, and the events. Statistics must count the same."""
    with supervisor.spawn("truth", policy=policy, **spawn) as sandbox:
        sandbox.exec(_PRELUDE)
        assert not sandbox.get_denial_events(), "the prelude is refused nothing"
        try:
            expression = bool(compile(code, "<truth>", "eval"))
        except SyntaxError:
            expression = False
        outcome = str(sandbox.exec(f"_CODE, _EXPRESSION = {code!r}, {expression}\n" + _ATTEMPT).value)
        events = sandbox.get_denial_events()
        assert sandbox.stats.denials == sum(event.count for event in events)
        return outcome, events


def judge(operation: Operation, way: str, events: list[Any], world: World) -> list[str]:
    """Return what is wrong with the events of one refused operation; empty when they are right."""
    if "fs.lookup" not in operation.capability:  # sqlite looks before it opens: operations of their own
        events = [event for event in events if event.capability.value != "fs.lookup"]
    if not events:
        return ["no event"]
    if len(events) > 1 or events[0].count != 1:
        return [f"{sum(event.count for event in events)} operations in {len(events)} events"]
    event, names, problems = events[0], world.names(), []
    if event.capability.value not in operation.capability:
        problems.append(f"capability {event.capability.value}")
    targets = [target.format(**names) for target in operation.target]
    if not any(fnmatch.fnmatchcase(event.target, target) for target in targets):
        problems.append(f"target {event.target}")
    if event.code.value not in operation.code:
        problems.append(f"code {event.code.value}")
    broker, kernel = event.broker_decision.value, event.kernel_decision.value
    if way == "python":
        if broker != "deny" and not (broker in ("allow", "not_consulted") and kernel == "deny"):
            problems.append(f"broker {broker}, kernel {kernel}")
    elif broker != "not_consulted" or kernel != "deny":
        problems.append(f"broker {broker}, kernel {kernel}")
    if broker != "not_consulted" and way == "python" and not event.origin:
        problems.append("no origin")
    return problems


def _text(event: Any) -> str:
    return (
        f"{event.capability.value} {event.target} {event.code.value} broker={event.broker_decision.value} "
        f"kernel={event.kernel_decision.value} x{event.count}"
    )
