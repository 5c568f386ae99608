"""The wire: only whole, small, plain, expected frames get through."""

from __future__ import annotations

import contextlib
import itertools
import sys
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.cell import wire
from pyisolate.decision import Verdict
from pyisolate.native import msgpack
from pyisolate.records import BrokerRecord

RECORD = BrokerRecord(sequence=1, capability=Capability.FS_READ, target="/x", verdict=Verdict.DENY)
GUEST_FRAMES = (
    wire.Warm(steps=("seccomp",)),
    wire.Ready(steps=("landlock",), failed=(("root view", "why"),)),
    wire.Done(id=1),
    wire.Failed(id=1, type_name="E", message="m", traceback="t"),
    wire.GuestMessage(encoded=b"\xc0"),
    wire.Shown(kind="display_data", text={"text/plain": "x"}, data={"image/png": b"\x89"}, metadata={"a": {"b": 1.5}}),
    wire.HostCall(id=1, name="f", arguments=b"\x92\x90\x80"),
    wire.GaveUp(id=1),
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
    assert not buffer.kept


def test_a_begun_frame_says_what_it_lacks() -> None:
    buffer = wire.FrameBuffer(1 << 20)
    assert buffer.missing == 0
    buffer.feed(wire.HEADER.pack(1000)[:2])
    assert buffer.missing == 0
    buffer.feed(wire.HEADER.pack(1000)[2:] + bytes(100))
    assert buffer.missing == 900
    buffer.feed(bytes(900))
    assert (len(buffer.next_payload() or b""), buffer.missing) == (1000, 0)


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
    assert is_plain(value)


def is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(not isinstance(key, list | dict) for key in value) and all(is_plain(item) for item in value.values())
    return value is None or type(value) in (bool, int, float, str, bytes)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers(0, 9) | st.text(), inner),
    max_leaves=40,
)


def size_of(value: object) -> int:
    own = sys.getsizeof(value) if type(value) in (int, float, str, bytes, list, dict) else 0
    if isinstance(value, list):
        return own + sum(map(size_of, value))
    if isinstance(value, dict):
        return own + sum(size_of(key) + size_of(item) for key, item in value.items())
    return own if value not in range(-5, 257) and value not in ("", b"") else 0


@given(plain)
def test_what_a_value_takes_is_not_underestimated(value: object) -> None:
    encoded = msgspec.msgpack.encode(value)
    measured = msgpack.measure(encoded, max_depth=64, limit_bytes=1 << 40)
    decoded = wire.decode_value(encoded)
    assert size_of(decoded) <= 1.25 * measured + 64
    assert measured <= 12 * size_of(decoded) + 100 * len(encoded)


@given(plain, st.integers(0, 400), st.integers(0, 255))
def test_a_value_that_was_cut_or_changed_is_measured_like_it_is_decoded(value: object, place: int, byte: int) -> None:
    encoded = bytearray(msgspec.msgpack.encode(value))
    place %= len(encoded)
    for changed in (bytes(encoded[:place]), bytes(encoded[:place]) + bytes([byte]) + bytes(encoded[place + 1 :])):
        try:
            decoded = msgspec.msgpack.decode(changed)
        except (msgspec.DecodeError, TypeError, ValueError):
            with contextlib.suppress(msgpack.Unfit):  # it may look whole: text that is no UTF-8, unhashable keys
                msgpack.measure(changed, max_depth=64, limit_bytes=1 << 40)
            continue
        try:
            msgpack.measure(changed, max_depth=64, limit_bytes=1 << 40)
        except msgpack.Unfit:
            assert not is_plain(decoded)
        else:
            assert is_plain(decoded)


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd" + (15_000_000).to_bytes(4) + b"\x80" * 15_000_000,
        b"\xdd" + (15_000_000).to_bytes(4) + b"\x90" * 15_000_000,
        b"\xdd" + (7_000_000).to_bytes(4) + b"\xa1x" * 7_000_000,
        b"\xdd" + (15_000_000).to_bytes(4) + b"\xe0" * 15_000_000,
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["maps", "lists", "texts", "numbers", "announced"],
)
def test_what_is_small_on_the_wire_and_huge_in_memory_is_refused_before_it_is_decoded(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError):
            wire.decode_value(body)
        with pytest.raises(wire.WireError):
            wire.decode_guest(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_only_frames_with_a_value_may_be_large() -> None:
    large = "x" * wire.MAX_CONTROL_FRAME_BYTES
    with pytest.raises(wire.WireError):
        wire.decode_guest(msgspec.msgpack.encode(wire.Ready(steps=(), failed=(("landlock", large),))))
    frame = wire.GuestMessage(encoded=msgspec.msgpack.encode(large))
    assert wire.decode_guest(msgspec.msgpack.encode(frame)) == frame


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "stream"},
        {"kind": "display_data", "data": {"text/plain": {"deep": 1}}},
        {"kind": "display_data", "data": {"image/png": "text"}},
        {"kind": "display_data", "text": {str(number): "" for number in range(wire.MAX_FORMS + 1)}},
        {"kind": "display_data", "text": {"x" * 101: ""}},
        {"kind": "display_data", "metadata": {"a": {"b": [1]}}},
        {"kind": "display_data", "metadata": {"a": {str(number): 1 for number in range(wire.MAX_FORMS + 1)}}},
        {"text": {}},
    ],
)
def test_a_bundle_of_another_shape_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_guest(msgspec.msgpack.encode({"t": "shown"} | body))
    assert wire.decode_guest(msgspec.msgpack.encode({"t": "shown", "kind": "display_data"}))


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
    wire.Phase.IDLE: {"Denial", "GuestMessage", "Shown", "HostCall", "GaveUp"},
    wire.Phase.RUNNING: {"Denial", "GuestMessage", "Shown", "HostCall", "GaveUp", "Done", "Failed"},
    wire.Phase.DEAD: set(),
}


def in_phase(phase: wire.Phase) -> wire.Conversation:
    conversation = wire.Conversation(new_id=itertools.count(1).__next__)
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


def test_a_guest_cannot_tell_the_number_of_the_next_request() -> None:
    numbers = set()
    for _ in range(100):
        conversation = wire.Conversation()
        conversation.phase = wire.Phase.IDLE
        numbers.add(conversation.start_request())
        conversation.cancel_request()
        numbers.add(conversation.start_request())
    assert len(numbers) == 200
    assert all(abs(one - another) > 1 for one, another in itertools.pairwise(sorted(numbers)))


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


def test_a_cell_reports_no_step_that_there_is_not() -> None:
    with pytest.raises(wire.WireError, match="Invalid enum value"):
        wire.decode_guest(msgspec.msgpack.encode({"t": "warm", "steps": ["trust me"]}))
    assert wire.decode_guest(msgspec.msgpack.encode({"t": "warm", "steps": ["seccomp"]})) == wire.Warm(
        steps=("seccomp",)
    )


def test_numbers_of_requests_are_drawn_in_bulk_and_never_twice() -> None:
    one, other = wire.Numbers(), wire.Numbers()
    drawn = [one() for _ in range(200)] + [other() for _ in range(200)]
    assert len(set(drawn)) == 400
    assert all(0 <= number < 1 << 63 for number in drawn)
    assert sum(number >> 62 for number in drawn) in range(100, 300)  # all bits are drawn
