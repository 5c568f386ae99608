"""What `pyisolate policy learn` makes of a run's refusals: a policy, tried on the script until nothing is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..policy import Policy
    from ..telemetry.event import DenialEvent
    from .guest_run import Ran

#: Runs under enforcement that may each add something; a name that is other in every run would add for ever.
ROUNDS = 5
#: How Python tells which file is not there (OSError.__str__).
_MISSING = re.compile(r"\[Errno 2\] [^:]*: (['\"])(/.*?)\1")


class Learning:
    """Refusals that grow from run to run, and the policy that they make."""

    def __init__(self, events: list[Any], base: Policy, generalise: int) -> None:
        self._events, self._base, self._generalise = list(events), base.with_name("learned"), generalise
        #: what a grant cannot give, because the files' own permissions do not
        self.out_of_reach: set[tuple[str, str]] = set()
        self.policy = self._learn(self._events)

    def verify(self, run: Callable[[Policy], Ran]) -> Ran:
        """Run under the policy, and learn what is still refused, a few times; return how it went in the end."""
        ran = run(self.policy)
        for _ in range(ROUNDS):
            self._leave_out(ran.error)
            events = [*self._events, *ran.denials, *_read_as_well(ran.denials), *_hidden(ran)]
            policy = self._learn(events)
            if policy == self.policy:
                break
            self._events, self.policy = events, policy
            ran = run(self.policy)
        return ran

    def missing(self, ran: Ran) -> list[DenialEvent]:
        """Return the refusals of a run that a grant could lift."""
        return self._within_reach(ran.denials)

    def _leave_out(self, error: BaseException | None) -> None:
        """Leave out a file rule that the files' own permissions make useless: its writing first, then its reading."""
        from ..errors import EnforcementError

        if not isinstance(error, EnforcementError) or error.rule is None:
            return
        for rule in self.policy.files:
            if rule.text == error.rule and rule not in self._base.files:
                rights = {right for right in rule.allow if right != "read"} or set(rule.allow)
                if "write" in rights:  # a grant of metadata is one of writing, too (policy/suggest.py)
                    rights.add("metadata")
                self.out_of_reach |= {(f"fs.{right}", rule.path) for right in rights}

    def _within_reach(self, events: list[Any]) -> list[Any]:
        return [event for event in events if not self._is_out_of_reach(event.capability, event.target)]

    def _is_out_of_reach(self, capability: str, target: str) -> bool:
        if capability == "fs.lookup":  # under the learned policy such a file is absent, as in the run
            return True
        return any(capability == refused and f"{target}/".startswith(f"{path}/") for refused, path in self.out_of_reach)

    def write(self, output: str | None) -> None:
        """Write the policy to a file, or to stdout."""
        from ..policy.learn import learn_yaml

        wanted = self._within_reach(self._events)
        text = learn_yaml(wanted, generalise=self._generalise, base=self._base)
        if output is None:
            click.echo(text, nl=False)
            return
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
        click.echo(f"pyisolate: learned from {len(self._events)} operations, written to {output}", err=True)

    def _learn(self, events: list[Any]) -> Policy:
        from ..policy.learn import learn

        return learn(self._within_reach(events), generalise=self._generalise, base=self._base)


def _read_as_well(denials: list[DenialEvent]) -> list[DenialEvent]:
    """Return the reading of what native code may have opened for both: its one record only tells of writing."""
    import msgspec

    from ..capability import Capability

    writing = (Capability.FS_CREATE, Capability.FS_WRITE)
    return [
        msgspec.structs.replace(event, capability=Capability.FS_READ)
        for event in denials
        if event.capability in writing and event.broker_decision in ("not_consulted", "unavailable")
    ]


def _hidden(ran: Ran) -> list[DenialEvent]:
    """Return what ended a run as missing and is there: it was only looked at (stat), which no record tells of."""
    from ..errors import GuestError

    if not isinstance(ran.error, GuestError) or ran.error.type_name != "FileNotFoundError":
        return []
    found = _MISSING.search(ran.error.message)
    if found is None or not os.path.isfile(found[2]):
        return []
    from ..capability import Capability
    from ..decision import Verdict
    from ..records import BrokerRecord, SandboxContext
    from ..telemetry.merge import merge

    record = BrokerRecord(
        sequence=0, capability=Capability.FS_READ, target=found[2], verdict=Verdict.DENY, syscall="stat"
    )
    context = SandboxContext(
        sandbox="", sandbox_id="", policy="", policy_version="", policy_generation=0, isolation="process"
    )
    return [merge(context, record, None)]
