"""For your own tests: assert what a policy refuses and what it allows, against the real kernel.

    from pyisolate import Policy
    from pyisolate.testing import assert_allowed, assert_denied, sandbox_fixture

    sandbox = sandbox_fixture(Policy.preset("compute").allow_read("/srv/data"))

    def test_only_the_data_can_be_read(sandbox):
        assert_allowed(sandbox, "open('/srv/data/x.csv').read()")
        assert_denied(sandbox, "open('/etc/passwd').read()", capability="fs.read", target="/etc/passwd")

A denial test proves something only beside an allowed one: the operation might have failed for another reason.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from .decision import Verdict
from .errors import GuestError, LimitExceeded, PolicyError

if TYPE_CHECKING:
    from .policy import Policy
    from .sandbox.result import Result
    from .supervisor.supervisor import Supervisor
    from .telemetry.event import DenialEvent

__all__ = ["assert_allowed", "assert_denied", "sandbox_fixture"]


#: A look-up of what is not granted finds nothing; that it was made is no denial unless one asks for it.
_LOOKUP = "fs.lookup"


class Runs(Protocol):
    """What the assertions need of a sandbox."""

    def exec(self, source: str, *, timeout: float | None = None) -> Result:
        """Run statements in the guest."""

    def get_denial_events(self) -> list[DenialEvent]:
        """Return the stored denials, oldest first."""


def assert_denied(
    sandbox: Runs,
    source: str,
    *,
    capability: str | None = None,
    target: str | None = None,
    code: str | None = None,
    timeout: float | None = None,
) -> DenialEvent:
    """Run `source` and return the denial that it caused; AssertionError when there is none that fits.

    `capability` and `code` are compared as text, `target` as a shell pattern (`/etc/*`). Whether the guest catches the
    refusal makes no difference. A limit counts, as `limit.*`. What monitor mode lets through is not denied.
    """
    __tracebackhide__ = True
    events, error = _run(sandbox, source, timeout)
    denied = [event for event in events if Verdict.DENY in (event.broker_decision, event.kernel_decision)]
    for event in denied:
        if _fits(event, capability, target, code):
            return event
    wanted = _wanted(capability, target, code)
    if events and not denied:
        raise AssertionError(f"expected {wanted}, but monitor mode let it through:{_listing(events)}")
    if denied:
        raise AssertionError(f"expected {wanted}, but these were denied instead:{_listing(denied)}") from error
    if error is not None:
        raise AssertionError(f"expected {wanted}, but it failed for another reason: {error}") from error
    raise AssertionError(f"expected {wanted}, but nothing was denied and the source ran to its end: {source!r}")


def assert_allowed(
    sandbox: Runs,
    source: str,
    *,
    capability: str | None = None,
    target: str | None = None,
    timeout: float | None = None,
) -> Result:
    """Run `source` and return its result; AssertionError when it raises or when anything in it was denied.

    With `capability` or `target` only denials that fit them count, as in `assert_denied`; an exception always does. A
    look-up that finds nothing (`fs.lookup`) counts where it is asked for.
    What monitor mode would have denied counts as denied.
    """
    __tracebackhide__ = True
    kept: list[Result] = []
    events, error = _run(sandbox, source, timeout, kept)
    refused = [event for event in events if _fits(event, capability, target, None)]
    if refused:
        raise AssertionError(f"expected {source!r} to be allowed, but:{_listing(refused)}") from error
    if error is not None:
        raise AssertionError(f"expected {source!r} to be allowed, but it failed: {error}") from error
    return kept[0]


def sandbox_fixture(
    policy: Policy | str | Callable[[Any], Policy | str] | None = None,
    *,
    scope: Any = "function",
    supervisor: Supervisor | None = None,
    name: str = "test",
    **options: Any,
) -> Any:
    """Return a pytest fixture that gives each test (or each `scope`) a sandbox and closes it afterwards.

    `policy` may be a function of pytest's fixture request: `lambda request: Policy.preset("compute").allow_read(
    request.getfixturevalue("tmp_path"))`. `options` go to `spawn`. Without `supervisor` the default one is used.
    """
    import pytest

    @pytest.fixture(scope=scope)
    def sandbox(request: Any) -> Iterator[Any]:
        from . import api

        chosen = policy(request) if callable(policy) else policy
        spawn = api.spawn if supervisor is None else supervisor.spawn
        with spawn(name, chosen, **options) as spawned:
            yield spawned

    return sandbox


def _run(
    sandbox: Runs, source: str, timeout: float | None, results: list[Result] | None = None
) -> tuple[list[DenialEvent], Exception | None]:
    """Run; return the events that are new or have risen in count, and what was raised."""
    before = {event.event_id: event.count for event in sandbox.get_denial_events()}
    raised: PolicyError | LimitExceeded | GuestError | None = None
    try:
        result = sandbox.exec(source, timeout=timeout)
    except (PolicyError, LimitExceeded, GuestError) as error:
        raised = error
    else:
        if results is not None:
            results.append(result)
    events = [event for event in sandbox.get_denial_events() if event.count > before.get(event.event_id, 0)]
    # A store is bounded: the error's own event may have been pushed out by others.
    own = getattr(raised, "denial_event", None)
    if own is not None and own.event_id not in {event.event_id for event in events}:
        events.append(own)
    return events, raised


def _fits(event: DenialEvent, capability: str | None, target: str | None, code: str | None) -> bool:
    return (
        (event.capability != _LOOKUP if capability is None else str(event.capability) == str(capability))
        and (target is None or event.target == target or fnmatch.fnmatchcase(event.target, target))
        and (code is None or str(event.code) == str(code))
    )


def _wanted(capability: str | None, target: str | None, code: str | None) -> str:
    words = ["a denial"]
    words += [f"of {capability}"] if capability else []
    words += [f"on {target}"] if target else []
    words += [f"with code {code}"] if code else []
    return " ".join(words)


def _listing(events: list[DenialEvent]) -> str:
    return "".join(f"\n  {event}" for event in events)
