"""The wire: only whole, small, plain, expected frames get through."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.cell import wire
from pyisolate.decision import Verdict
from pyisolate.telemetry.event import BrokerRecord

RECORD = BrokerRecord(sequence=1, capability=Capability.FS_READ, target="/x", verdict=Verdict.DENY)
GUEST_FRAMES = (
    wire.Warm(steps=("a",)),
    wire.Ready(steps=("a",), failed=(("b", "why"),)),
    wire.Done(id=1),
    wire.Failed(id=1, type_name="E", message="m", traceback="t"),
    wire.GuestMessage(encoded=b"\xc0"),
    wire.Denial(record=RECORD),
    wire.Reloaded(id=1),
)


def feed(data: bytes, limit: int = wire.MAX_GUEST_FRAME_BYTES) -> list[wire.GuestFrame]:
    buffer = wire.FrameBuffer(limit)
    buffer.feed(data)
    frames = []
    while (payload := buffer.next_payload()) is not None:
        frames.append(wire.decode_guest(payload))
    return frames


@pytest.mark.parametrize("frame", GUEST_FRAMES, ids=lambda frame: type(frame).__name__)
def test_every_guest_frame_survives_the_trip(frame: wire.GuestFrame) -> None:
    assert feed(wire.encode(frame)) == [frame]


def test_frames_arrive_whole_however_the_stream_is_cut() -> None:
    data = b"".join(wire.encode(frame) for frame in GUEST_FRAMES)
    buffer = wire.FrameBuffer(1 << 20)
    seen = []
    for index in range(len(data)):
        buffer.feed(data[index : index + 1])
        if (payload := buffer.next_payload()) is not None:
            seen.append(wire.decode_guest(payload))
    assert tuple(seen) == GUEST_FRAMES
    assert buffer.pending == 0


def test_an_announced_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    buffer = wire.FrameBuffer(1024)
    buffer.feed(wire.HEADER.pack(1025))
    with pytest.raises(wire.WireError, match="1025"):
        buffer.next_payload()


def test_sending_past_the_limit_is_refused() -> None:
    with pytest.raises(wire.WireError, match="over the limit"):
        wire.encode(wire.GuestMessage(encoded=b"x" * 200), limit=100)


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_any_bytes_decode_to_a_frame_or_a_wire_error(data: bytes) -> None:
    try:
        frame = wire.decode_guest(data)
    except wire.WireError:
        return
    assert isinstance(frame, wire.GuestFrame)


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_any_bytes_decode_to_plain_data_or_a_wire_error(data: bytes) -> None:
    try:
        value = wire.decode_value(data)
    except wire.WireError:
        return
    wire._check_plain(value)


@pytest.mark.parametrize("depth", [wire.MAX_DEPTH + 1, 500, 5000, 200_000])
def test_a_value_nested_too_deep_is_refused(depth: int) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_value(b"\x91" * depth + b"\xc0")


def test_a_value_nested_as_deep_as_allowed_passes() -> None:
    value = wire.decode_value(b"\x91" * (wire.MAX_DEPTH - 1) + b"\xc0")
    assert isinstance(value, list)


@pytest.mark.parametrize(
    "encoded",
    [
        b"\xc7\x01\x05a",  # an extension type
        msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"x")),
        b"\x81\x90\xc0",  # a list as a map key
    ],
)
def test_what_is_not_plain_data_is_refused(encoded: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_value(encoded)


PHASES = {
    wire.Phase.WARMING: {"Warm"},
    wire.Phase.HANDOUT: {"Ready"},
    wire.Phase.IDLE: {"Denial", "GuestMessage"},
    wire.Phase.RUNNING: {"Denial", "GuestMessage", "Done", "Failed"},
    wire.Phase.DEAD: set(),
}


def in_phase(phase: wire.Phase) -> wire.Conversation:
    conversation = wire.Conversation()
    conversation.phase = wire.Phase.IDLE
    if phase is wire.Phase.RUNNING:
        assert conversation.start_request() == 1
    elif phase is wire.Phase.HANDOUT:
        conversation.start_handout()
    else:
        conversation.phase = phase
    return conversation


@pytest.mark.parametrize("phase", list(wire.Phase), ids=lambda phase: phase.value)
@pytest.mark.parametrize("frame", GUEST_FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_passes_only_in_its_phase(phase: wire.Phase, frame: wire.GuestFrame) -> None:
    conversation = in_phase(phase)
    if type(frame).__name__ in PHASES[phase]:
        conversation.accept(frame)
    else:
        with pytest.raises(wire.WireError, match="unexpected"):
            conversation.accept(frame)


def test_an_answer_counts_once_and_only_for_the_request_that_waits() -> None:
    conversation = in_phase(wire.Phase.RUNNING)
    with pytest.raises(wire.WireError):
        conversation.accept(wire.Done(id=2))
    conversation.accept(wire.Done(id=1))
    with pytest.raises(wire.WireError):
        conversation.accept(wire.Done(id=1))


def test_a_second_request_cannot_start_while_one_runs() -> None:
    conversation = in_phase(wire.Phase.RUNNING)
    with pytest.raises(wire.WireError):
        conversation.start_request()


def test_reloads_are_answered_in_order_also_while_a_request_runs() -> None:
    conversation = in_phase(wire.Phase.RUNNING)
    first, second = conversation.start_reload(), conversation.start_reload()
    with pytest.raises(wire.WireError):
        conversation.accept(wire.Reloaded(id=second))
    conversation.accept(wire.Reloaded(id=first))
    conversation.accept(wire.Done(id=1))
    conversation.accept(wire.Reloaded(id=second))


def test_a_reload_is_answered_once() -> None:
    conversation = in_phase(wire.Phase.IDLE)
    number = conversation.start_reload()
    conversation.accept(wire.Reloaded(id=number))
    with pytest.raises(wire.WireError):
        conversation.accept(wire.Reloaded(id=number))
