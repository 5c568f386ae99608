"""Every event that the suite produces fits the shipped JSON Schema: a fixture for all tests, and how it watches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.schema import load_schema

_VALIDATOR = jsonschema.Draft202012Validator(load_schema())
#: Fields whose value or absence makes an event of another kind; one event of each kind is validated.
_TELLING = ("capability", "code", "mode", "broker_decision", "kernel_decision", "kernel_evaluation", "reported_by",
            "isolation", "retryable", "shadow", "would_deny")  # fmt: skip
_OPTIONAL = ("actor", "kernel_enforcer", "kernel_errno", "kernel_hook", "origin", "policy_rule", "presented_capability",
             "suggestion", "syscall", "would_deny_reason", "answer", "asked_by", "waited_ms", "detail",
             "traceparent", "rule_reason")  # fmt: skip


class Watch:
    """Validates what recorders take in. `kinds` counts the kinds of events seen, `wrong` holds what does not fit."""

    def __init__(self) -> None:
        self.kinds: set[tuple[Any, ...]] = set()
        self.wrong: list[str] = []

    def see(self, event: DenialEvent) -> None:
        """Validate an event if it is the first of its kind."""
        kind = (
            *[getattr(event, name) for name in _TELLING],
            *[getattr(event, name) is None for name in _OPTIONAL],
        )
        if kind in self.kinds:
            return
        self.kinds.add(kind)
        for data in (event.to_dict(), json.loads(event.to_json())):
            self.wrong += [f"{error.json_path}: {error.message}" for error in _VALIDATOR.iter_errors(data)]


WATCH = Watch()


def _watching(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(self: Recorder, *events: DenialEvent) -> Any:
        for event in events:
            if isinstance(event, DenialEvent):
                WATCH.see(event)
        recorded = method(self, *events)
        if isinstance(recorded, DenialEvent):
            WATCH.see(recorded)
        return recorded

    return wrapper


@pytest.fixture(autouse=True, scope="session")
def _events_are_watched() -> Iterator[None]:
    originals = {name: getattr(Recorder, name) for name in ("record", "completed")}
    for name, method in originals.items():
        setattr(Recorder, name, _watching(method))
    yield
    for name, method in originals.items():
        setattr(Recorder, name, method)


@pytest.fixture(autouse=True)
def _every_event_fits_the_schema(_events_are_watched: None) -> Iterator[None]:
    yield
    wrong, WATCH.wrong = WATCH.wrong, []
    if wrong:
        pytest.fail("an event does not fit the schema: " + "; ".join(wrong), pytrace=False)
