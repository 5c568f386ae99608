"""What a guest reports is a hostile input."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.records import BrokerRecord
from pyisolate.telemetry.guest_records import COUNT_LIMIT, InvalidRecord, escaped_record, validate_broker_record
from pyisolate.telemetry.merge import merge
from tests.telemetry_events import CONTEXT, broker


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_a_record_survives_the_frame_whatever_its_text(text: str) -> None:
    record = broker(target=text, origin=text)
    frame = msgspec.msgpack.encode(escaped_record(record))
    assert validate_broker_record(msgspec.msgpack.decode(frame, type=BrokerRecord)) == record
    assert validate_broker_record(msgspec.msgpack.decode(frame)) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": -1},
        {"sequence": 1 << 63},
        {"count": 0},
        {"count": -5},
        {"tid": -1},
        {"monotonic_ns": 1 << 64},
        {"errno": 0},
        {"errno": 1 << 20},
        {"verdict": "allow"},
        {"verdict": "allow", "errno": 2},
        {"verdict": "not_consulted"},
        {"verdict": "maybe"},
        {"capability": "control.reload"},
        {"capability": "fs"},
        {"code": "TOKEN_INVALID"},
        {"code": "ACTOR_REQUIRED"},
        {"code": "NOPE"},
        {"target": 7},
        {"target": None},
        {"sequence": True},
        {"sequence": 1.5},
        {"reason": []},
        {"answer": "once"},
        {"asked_by": "callback"},
        {"waited_ms": 1},
    ],
)
def test_what_breaks_the_protocol_is_refused(changes: dict[str, Any]) -> None:
    sound = {"sequence": 1, "capability": "fs.read", "target": "/x", "verdict": "deny"}
    assert validate_broker_record(sound).target == "/x"
    with pytest.raises(InvalidRecord) as caught:
        validate_broker_record({**sound, **changes})
    assert str(caught.value).isprintable()


def _deep() -> Any:
    data: Any = []
    for _ in range(100_000):
        data = [data]
    return data


@pytest.mark.parametrize("data", [None, [], "x", b"x", 7, {}, {"sequence": _deep()}, {1: 2}])
def test_other_shapes_are_refused(data: object) -> None:
    with pytest.raises(InvalidRecord):
        validate_broker_record(data)


def test_text_and_counts_are_capped() -> None:
    record = validate_broker_record(
        {
            "sequence": 1,
            "capability": "fs.read",
            "target": "x" * 10**6,
            "verdict": "deny",
            "origin": "\\x00" * 10**5,
            "count": 1 << 60,
        }
    )
    assert len(record.target) == 4096
    assert record.count == COUNT_LIMIT
    assert len(merge(CONTEXT, record, None).to_json()) < 20_000


def test_limits_and_floor_may_be_reported_but_say_the_guest_did() -> None:
    record = validate_broker_record(escaped_record(broker(capability=Capability.KERNEL_BPF)))
    event = merge(CONTEXT, record, None)
    assert event.reported_by.value == "guest"
    assert event.code is DenialCode.ALWAYS_DENIED
    assert event.broker_decision is Verdict.DENY


def test_what_a_call_needs_besides_is_checked_as_the_rest() -> None:
    record = msgspec.structs.replace(broker(), also=((Capability.FS_READ, "/srv/a"),))
    assert validate_broker_record(escaped_record(record)).also == record.also
    for also in (((Capability.FS_READ, "/a"),) * 9, ((Capability.NET_CONNECT, "h:1"),)):
        with pytest.raises(InvalidRecord):
            validate_broker_record(msgspec.structs.replace(record, also=also))
    long = msgspec.structs.replace(record, also=((Capability.FS_READ, "/" + "x" * 9000),))
    assert len(validate_broker_record(long).also[0][1]) <= 4096
