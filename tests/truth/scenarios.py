"""Sequences, programs and libraries: each says every event that it leaves, how often, and which line asked.

A scenario's `events` are texts `CAPABILITY TARGET [xCOUNT]` (`x*`: however often), with the names of the places as
`<no>`; `|` parts what is equally right. In monitor mode the same must have been let through, or what `monitored` says
where a program that nothing stops takes another way; what it does further is its own. The floor is refused there, too.
A line of guest code that ends with `#!` is where a hook's refusal comes from.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyisolate

from .places import Places


@dataclass(frozen=True)
class Scenario:
    """One piece of guest code, or one program with its arguments, and what it leaves."""

    name: str
    code: str | tuple[str, ...]
    events: tuple[str, ...]
    policy: str = "plain"
    monitored: tuple[str, ...] | None = None


@dataclass
class Outcome:
    """What one scenario left."""

    scenario: Scenario
    mode: str
    problems: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    #: nothing was let through beside what enforcing refuses: nothing that the code did further
    alone: bool = True


#: What the kernel's refusals read like in a traceback, and in what programs say.
_REFUSED = re.compile("Permission denied|Operation not permitted|Read-only file system|cross-device", re.IGNORECASE)
_COUNT = re.compile(r" x(\d+|\*)$")


def run(
    supervisor: pyisolate.Supervisor, places: Places, scenarios: Iterable[Scenario], mode: str = "enforce"
) -> list[Outcome]:
    """Run each scenario in a sandbox of its own, among files that are as they were, and judge its events."""
    outcomes, policies = [], {}
    for one in scenarios:
        places.restore()
        policy = policies.setdefault(one.policy, places.policy(one.policy).with_mode(mode))
        outcomes.append(_run(supervisor, places, policy, one, mode))
    return outcomes


def _run(
    supervisor: pyisolate.Supervisor, places: Places, policy: pyisolate.Policy, one: Scenario, mode: str
) -> Outcome:
    outcome = Outcome(one, mode)
    carried, said = None, ""
    with supervisor.spawn("truth", policy=policy) as sandbox:
        try:
            if isinstance(one.code, tuple):
                said = str(sandbox.run([_filled(word, places) for word in one.code]).stderr)
            else:
                sandbox.exec(_filled(one.code, places))
        except pyisolate.PolicyError as error:
            carried = error.denial_event
        except pyisolate.SandboxError as error:
            said = str(error)
            replaced = mode == "monitor" and isinstance(error, pyisolate.SandboxDied)  # another program took its place
            if not isinstance(error, pyisolate.GuestError) and not replaced:
                outcome.problems.append(f"{type(error).__name__}: {error}"[:200])
        events = list(sandbox.get_denial_events())
        counted = sandbox.stats.denials
    later = sandbox.get_denial_events()
    if sum(event.count for event in events) != counted:
        outcome.problems.append("statistics count otherwise")
    if sum(event.count for event in later) != counted:
        outcome.problems.append("more was told at the end")
    outcome.events = [_text(event) for event in later]
    outcome.problems += judge(one, later, places, mode)
    outcome.alone = not beside(one, later, places, mode)
    if not later and (found := _REFUSED.search(said)) and "mine" not in said:
        outcome.problems.append(f"refused without an event: {found[0]}")
    if carried is not None and carried.event_id not in {event.event_id for event in later}:
        outcome.problems.append("the error carries an event of nobody")
    return outcome


def _filled(code: str, places: Places) -> str:
    for name, value in places.names().items():
        code = code.replace(f"<{name}>", value)
    return code


def judge(one: Scenario, events: Iterable[pyisolate.DenialEvent], places: Places, mode: str) -> list[str]:
    """Return what is wrong with all events of one scenario together; empty when they are right."""
    wanted = [_filled(text, places) for text in _wanted(one, mode)]
    left, problems = list(events), []
    for text in wanted:
        count = found[1] if (found := _COUNT.search(text)) else "1"
        capability, _, target = _COUNT.sub("", text).partition(" ")
        same = [event for event in left if _is(event, capability, target)]
        told = sum(event.count for event in same)
        left = [event for event in left if event not in same]
        if not _counted(count, told, mode) or len({_key(event) for event in same}) < len(same):
            problems.append(f"{text}: told {told} times in {len(same)} events")
        for event in same:
            problems += _verdicts(one, event, mode)
    goes_on = mode == "monitor" and wanted  # what a program does further that nothing has stopped
    return problems + [f"not expected: {_text(event)}" for event in left if not goes_on]


def beside(one: Scenario, events: Iterable[pyisolate.DenialEvent], places: Places, mode: str) -> list[str]:
    """Return the events that the scenario does not name: of what a program does further that nothing has stopped."""
    wanted = [_COUNT.sub("", _filled(text, places)).partition(" ") for text in _wanted(one, mode)]
    return [_text(event) for event in events if not any(_is(event, name, target) for name, _, target in wanted)]


def _counted(wanted: str, told: int, mode: str) -> bool:
    return told > 0 and (wanted == "*" or told == int(wanted) or (mode == "monitor" and told > int(wanted)))


def _key(event: pyisolate.DenialEvent) -> tuple[object, ...]:
    """What equal denials have in common."""
    layers = (event.broker_decision, event.kernel_decision)
    return event.capability, event.target, event.also, event.code, layers, event.origin, event.actor


def _wanted(one: Scenario, mode: str) -> tuple[str, ...]:
    return one.events if mode == "enforce" or one.monitored is None else one.monitored


def _is(event: pyisolate.DenialEvent, capabilities: str, targets: str) -> bool:
    named = any(fnmatch.fnmatchcase(event.capability.value, capability) for capability in capabilities.split("|"))
    return named and any(fnmatch.fnmatchcase(event.target, target) for target in (targets or "*").split("|"))


def _verdicts(one: Scenario, event: pyisolate.DenialEvent, mode: str) -> list[str]:
    """Refused by one layer at least, drift nowhere, and a line of the guest that asked where a hook decided."""
    problems = []
    broker, kernel = event.broker_decision.value, event.kernel_decision.value
    let_through = mode == "monitor" and event.code.value != "ALWAYS_DENIED"
    refuses = "would_deny" if let_through else "deny"
    if refuses not in (broker, kernel) or "allow" in (broker, kernel) or event.would_deny != let_through:
        problems.append(f"{event.capability.value}: broker {broker}, kernel {kernel}")
    if isinstance(one.code, str) and broker in ("deny", "would_deny"):
        lines = [number for number, line in enumerate(one.code.splitlines(), 1) if line.endswith("#!")]
        if lines and not any(f":{number} in " in str(event.origin) for number in lines):
            problems.append(f"{event.capability.value}: origin {event.origin}")
    return problems


def _text(event: pyisolate.DenialEvent) -> str:
    return (
        f"{event.capability.value} {event.target} {event.code.value} broker={event.broker_decision.value} "
        f"kernel={event.kernel_decision.value} x{event.count} {event.origin or ''} by {event.reported_by.value}"
    )


def rate(outcomes: Iterable[Outcome]) -> float:
    """Return the share of scenarios whose events are all right."""
    counts = Counter(not outcome.problems for outcome in outcomes)
    return counts[True] / max(1, counts.total())
