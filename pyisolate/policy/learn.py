"""Denials -> a policy: what `Policy.learn` does, and its text with a comment after each learned rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..telemetry.event import DenialEvent
from .learning import learned, learned_yaml
from .policy import Policy, default_base


def learn(
    events: Iterable[DenialEvent], *, generalise: int = 1, base: Policy | None = None, **compile_options: Any
) -> Policy:
    """Return `base` (default: preset compute) with what `events` needed; see `learning.learned` for `generalise`."""
    return learned(events, generalise=generalise, base=base or default_base(), **compile_options)


def learn_yaml(
    events: Iterable[DenialEvent], *, generalise: int = 1, base: Policy | None = None, **compile_options: Any
) -> str:
    """Return the learned policy as text, with how often each learned rule was needed, and where first."""
    return learned_yaml(
        events, generalise=generalise, base=base or default_base(), given=base is not None, **compile_options
    )
