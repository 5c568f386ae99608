"""What a policy would say: of one operation (`explain`), compared with another (`diff`), and of itself (`check`)."""

from __future__ import annotations

from ..capability import Capability
from ..decision import Decision
from .broker import Broker, is_asked_about
from .check import Finding, check
from .compile import compile_policy
from .diff import Change, diff
from .interpreter import InterpreterFiles
from .model import PolicyModel
from .resolver import Resolve

__all__ = ["Change", "Finding", "asks", "check", "diff", "explain"]


def explain(
    policy: PolicyModel,
    capability: Capability | str,
    target: str,
    *,
    interpreter: InterpreterFiles | None = None,
    resolve: Resolve | None = None,
) -> Decision:
    """Return the broker's decision on one operation, with the rule that decides and the nearest grant."""
    compiled = compile_policy(policy, interpreter=interpreter, resolve=resolve)
    return Broker(compiled).decide(Capability(capability), target)


def asks(
    policy: PolicyModel,
    decision: Decision,
    *,
    interpreter: InterpreterFiles | None = None,
    resolve: Resolve | None = None,
) -> bool:
    """Tell whether the host is asked before what `explain`, given the same, says is refused."""
    return is_asked_about(compile_policy(policy, interpreter=interpreter, resolve=resolve), decision)
