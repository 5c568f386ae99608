"""Cases of a policy: operations and the verdicts that it must give, decided by the broker that guests have.

A file of cases names a policy and, one a line, what is expected of it:

    policy: ./report.yaml
    cases:
      - {fs.read: /srv/data/2024.csv, expect: allow}
      - {net.connect: "10.0.0.5:443", expect: deny, code: EXPLICIT_DENY}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from ..capability import Capability
from ..decision import Decision, DenialCode, Verdict
from ..errors import PolicySyntaxError
from . import parse, units
from .broker import Broker
from .compile import compile_policy
from .model import PolicyModel
from .reader import Where

#: What a broker can answer.
EXPECTED = (Verdict.ALLOW, Verdict.DENY, Verdict.WOULD_DENY)
_KEYS = ("expect", "code", "rule")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One operation and what is expected: a verdict and, where they are given, the code and the rule's text."""

    capability: Capability
    target: str
    expect: Verdict
    code: DenialCode | None = None
    rule: str | None = None
    line: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A case and the broker's decision on it. `missed` says what is other than expected, None: nothing."""

    case: Case
    decision: Decision
    missed: str | None


def load_cases(path: Path) -> tuple[str | None, list[Case]]:
    """Return the policy that a file of cases names, and its cases. Raises PolicySyntaxError, OSError."""
    data, lines = parse.parse_path(path)
    reader = _Reader(str(path), lines)
    top = reader.mapping((), data, ("policy", "cases"))
    policy = top.get("policy")
    if policy is not None and (not isinstance(policy, str) or not policy):
        reader.fail(("policy",), "policy: expected a file's path, or the name of a preset")
    cases = top.get("cases")
    if not isinstance(cases, list) or not cases:
        reader.fail(("cases",), "cases: expected a list", "write - {fs.read: /srv/data, expect: allow}")
    return policy, [reader.case(("cases", number), item) for number, item in enumerate(cases)]


def judge(policy: PolicyModel, cases: list[Case]) -> list[Outcome]:
    """Return what a policy says to each case. Host names are resolved; nothing else is asked of this machine."""
    broker = Broker(compile_policy(policy))
    return [_outcome(case, broker.decide(case.capability, case.target)) for case in cases]


def _outcome(case: Case, decision: Decision) -> Outcome:
    missed = None
    if decision.verdict is not case.expect:
        missed = f"expected {case.expect}, got {decision.verdict}: {decision.reason or decision.rule or 'no rule'}"
    elif case.code is not None and decision.code is not case.code:
        missed = f"expected code {case.code}, got {decision.code}"
    elif case.rule is not None and decision.rule != case.rule:
        missed = f"expected rule {case.rule}, got {decision.rule}"
    return Outcome(case=case, decision=decision, missed=missed)


class _Reader:
    """Reads the data of a file of cases, and says where it is wrong."""

    def __init__(self, file: str, lines: Mapping[Where, int]) -> None:
        self._file, self._lines = file, lines

    def fail(self, where: Where, message: str, hint: str | None = None) -> NoReturn:
        raise PolicySyntaxError(message, file=self._file, line=self.line(where), hint=hint)

    def line(self, where: Where) -> int | None:
        return self._lines.get(where) or (self.line(where[:-1]) if where else None)

    def mapping(self, where: Where, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(where, "cases: expected a mapping", f"keys are: {', '.join(known)}")
        for key in value:
            if key not in known:
                self.fail((*where, str(key)), f"unknown key {str(key)[:60]!r}", units.did_you_mean(str(key), known))
        return value

    def case(self, where: Where, item: Any) -> Case:
        item = self.mapping(where, item, (*_KEYS, *map(str, Capability)))
        named = [key for key in item if key not in _KEYS]
        if len(named) != 1 or not isinstance(item[named[0]], str):
            self.fail(where, "a case needs one capability with a target", "write {fs.read: /srv/data, expect: allow}")
        if "expect" not in item:
            self.fail(where, f"{named[0]} {item[named[0]]}: expects nothing", "add expect: allow, or deny")
        rule = item.get("rule")
        if rule is not None and not isinstance(rule, str):
            self.fail((*where, "rule"), "rule: expected its text", "as `pyisolate policy explain` prints it")
        code = item.get("code")
        return Case(
            capability=Capability(named[0]),
            target=item[named[0]],
            expect=self._one_of((*where, "expect"), item["expect"], Verdict, [str(one) for one in EXPECTED]),
            code=None
            if code is None
            else self._one_of((*where, "code"), code, DenialCode, [str(c) for c in DenialCode]),
            rule=rule,
            line=self.line(where),
        )

    def _one_of(self, where: Where, value: Any, kind: Callable[[str], Any], known: list[str]) -> Any:
        if value not in known:
            self.fail(where, f"{where[-1]} {str(value)[:40]!r}: unknown", units.did_you_mean(str(value), known))
        return kind(value)
