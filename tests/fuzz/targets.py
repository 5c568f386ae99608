"""What is fuzzed: one function for each input that somebody else writes. It returns, or raises because of a defect.

Every function takes any bytes. What it promises is in its asserts; only the errors named there may come out.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import fractions
import json
import math
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import msgspec

from pyisolate.capability import Capability
from pyisolate.cell import values, wire
from pyisolate.decision import DenialCode, Verdict
from pyisolate.errors import PolicySyntaxError
from pyisolate.native import msgpack
from pyisolate.native.channel import SMALL_BYTES, HostEnd, Plain
from pyisolate.policy.load import load_bytes
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.guest_records import COUNT_LIMIT, InvalidRecord, validate_broker_record
from pyisolate.telemetry.merge import merge
from pyisolate.telemetry.sinks import audit_reader as reader
from tests.fuzz import seeds
from tests.fuzz.seeds import ANSWER, ASKED, CONTEXT, POLICY_WORDS, RECORD


class Bytes:
    """Takes an input apart into choices; past its end, everything is zero."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        """Return the next byte."""
        taken = self._data[self._at : self._at + 1]
        self._at += 1
        return taken[0] if taken else 0

    def take(self, count: int) -> bytes:
        """Return so many bytes, or what is left."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def text(self) -> str:
        """Return a short text."""
        return self.take(self.number() % 32).decode("utf-8", "replace")


# -- the wire ---------------------------------------------------------------------------------------------------------


LEAVES = (type(None), bool, int, float, str, bytes)
FORMS = (
    *LEAVES, bytearray, complex, decimal.Decimal, fractions.Fraction, uuid.UUID, datetime.datetime, datetime.date,
    datetime.time, datetime.timedelta,
)  # fmt: skip


def is_plain(value: object, leaves: tuple[type, ...] = LEAVES, depth: int = 0) -> bool:
    """Tell whether a decoded value is plain data, or of a known form, no deeper than the wire allows."""
    if depth > wire.MAX_DEPTH:
        return False
    tagged = leaves is not LEAVES
    if type(value) is list or (tagged and type(value) in (tuple, set, frozenset)):
        return all(is_plain(item, leaves, depth + 1) for item in cast("Iterable[object]", value))
    if type(value) is dict or (tagged and type(value) is values.Record):
        parts = cast("dict[object, object]", value).items()
        nested = depth if tagged else wire.MAX_DEPTH - 1
        return all(is_plain(key, leaves, nested + 1) and is_plain(item, leaves, depth + 1) for key, item in parts)
    return type(value) in leaves or (
        tagged and type(value).__module__.partition(".")[0] in ("numpy", "pandas", "polars", "pyarrow")
    )


def wire_frame(data: bytes) -> None:
    """One frame, and one value: a frame that says again what it said, plain data, or a WireError."""
    try:
        frame = wire.decode_guest(data)
    except wire.WireError:
        pass
    else:
        assert isinstance(frame, wire.GuestFrame)
        assert same(wire.decode_guest(wire.encode(frame)[wire.HEADER.size :]), frame)
        if isinstance(frame, wire.Done | wire.GuestMessage):
            value_of(frame.encoded)
        if isinstance(frame, wire.HostCall):
            value_of(frame.arguments)
    value_of(data)


def value_of(encoded: bytes) -> None:
    """Decode a value; it is plain or of a known form, and measured before it is decoded as what it is."""
    tagged = encoded[:1] == values.TAGGED
    try:
        size = msgpack.measure(encoded[tagged:], max_depth=wire.MAX_DEPTH, limit_bytes=wire.MAX_DECODED_BYTES)
    except msgpack.Unfit:
        size = None
    try:
        value = wire.decode_value(encoded)
    except wire.WireError:
        return
    assert size is not None
    assert is_plain(value, FORMS if tagged else LEAVES)


def tagged_value(data: bytes) -> None:
    """One value in tagged form: of a known form, or a WireError."""
    value_of(values.TAGGED + data)


def same(one: object, other: object) -> bool:
    """Compare frames; a duration that is no number equals itself."""
    if isinstance(one, wire.Shown) and isinstance(other, wire.Shown):
        return wire.encode(one) == wire.encode(other)
    if isinstance(one, wire.Done | wire.Failed) and math.isnan(one.duration_s):
        return type(one) is type(other)
    return one == other


class Model:
    """What the host's state machine must accept, said again in other words."""

    def __init__(self) -> None:
        self.state, self.asked, self.reloads, self.issued = "warming", 0, list[int](), list[int]()

    def may(self, frame: Any) -> bool:
        """Say whether this frame may come now, and go on if so."""
        kind = type(frame).__name__
        if kind in ("Denial", "GuestMessage", "Shown", "HostCall", "GaveUp"):
            return self.state in ("idle", "running")
        if kind == "Reloaded":
            if not self.reloads or self.reloads[0] != frame.id:
                return False
            self.reloads.pop(0)
            return True
        expected = {"Warm": "warming", "Ready": "handout", "Done": "running", "Failed": "running"}[kind]
        if self.state != expected or (kind in ("Done", "Failed") and frame.id != self.asked):
            return False
        self.state = "idle"
        return True

    def host(self, step: str) -> bool:
        """Say whether the host may do this now, and go on if so."""
        if step == "reload":
            return self.state in ("idle", "running")
        if self.state != "idle":
            return False
        self.state = {"request": "running", "handout": "handout"}[step]
        return True

    def numbered(self, step: str, number: Any) -> None:
        """Note the number that the host gave to what it asked."""
        if step in ("request", "reload"):
            self.issued.append(number)
        if step == "request":
            self.asked = number
        elif step == "reload":
            self.reloads.append(number)


def a_frame(source: Bytes, issued: list[int]) -> wire.GuestFrame:
    """Build a frame from an input; it answers one of the requests that were made, or none."""
    kind, number = source.number() % 10, source.number() % 8
    answered = issued[-number] if 0 < number <= len(issued) else number
    if kind == 0:
        return wire.Warm(steps=(source.text(),))
    if kind == 1:
        return wire.Ready(steps=(), failed=((source.text(), source.text()),))
    if kind == 2:
        return wire.Done(id=answered, encoded=source.take(number))
    if kind == 3:
        return wire.Failed(id=answered, type_name=source.text(), message="", traceback="", sequence=number)
    if kind == 4:
        return wire.GuestMessage(encoded=source.take(number))
    if kind == 5:
        return wire.Denial(record=msgspec.structs.replace(RECORD, target=source.text(), count=number))
    if kind == 6:
        return wire.Shown(kind="display_data", text={source.text()[:100]: source.text()})
    if kind == 8:
        return wire.GaveUp(id=answered)
    if kind == 7:
        return wire.HostCall(
            id=answered, name=source.text()[: wire.MAX_FUNCTION_NAME_CHARS], arguments=source.take(number)
        )
    return wire.Reloaded(id=answered)


def conversation(data: bytes) -> None:
    """A stream of frames, whole, cut, changed or made up, while the host asks: what the model says, or a WireError."""
    source, model, host, buffer = Bytes(data), Model(), wire.Conversation(), wire.FrameBuffer(1 << 16)
    while source:
        step = source.number()
        if step < 48:
            name = ("request", "handout", "reload")[step % 3]
            start: Callable[[], Any] = getattr(host, f"start_{name}")
            if model.host(name):
                model.numbered(name, start())
            else:
                with contextlib.suppress(wire.WireError):
                    start()
                    raise AssertionError(f"the host may not start a {name} while {model.state}")
            continue
        raw = source.take(source.number()) if step < 80 else wire.encode(a_frame(source, model.issued))
        if 80 <= step < 112:
            place, byte = source.number(), source.number()
            raw = bytes((*raw[:place], byte, *raw[place + 1 :])) if step % 2 else raw[:place]
        try:
            buffer.feed(raw)
            while (payload := buffer.next_payload()) is not None:
                frame = wire.decode_guest(payload)
                _accepted(model, host, frame)
        except wire.WireError:
            return  # the cell is killed
        assert len(buffer.kept) < (1 << 16) + wire.HEADER.size + len(raw)
        assert host.phase.value == model.state


def _accepted(model: Model, host: wire.Conversation, frame: wire.GuestFrame) -> None:
    if model.may(frame):
        try:
            host.accept(frame)
        except wire.WireError as error:
            raise AssertionError(f"a frame that may come is refused: {frame}") from error
        if isinstance(frame, wire.Denial):
            with contextlib.suppress(InvalidRecord):
                validate_broker_record(frame.record)
        return
    host.accept(frame)
    raise AssertionError(f"a frame that may not come passes while {model.state}: {frame}")


def plain_answer(data: bytes) -> None:
    """What comes for a request: an answer that C reads is what Python reads of it, all else is left as it came."""
    sent = (wire.HEADER.pack(len(data)) + data)[:SMALL_BYTES]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        found = HostEnd(ours.fileno(), -1, -1, values.MAX_DEPTH).ask(b"x", ASKED, 0)
    assert isinstance(found, Plain) or found == sent
    if isinstance(found, Plain):
        wire.check_value(found.encoded)
        read = wire.Done(id=ASKED, encoded=found.encoded, duration_s=found.duration_s)
        assert repr(wire.decode_guest(data)) == repr(read)  # a duration may be no number


def program_reports(data: bytes) -> None:
    """Reports of a program, while the host orders signals: one for each order, then one end; or a WireError."""
    source, reports, unanswered, ended = Bytes(data), wire.ProgramReports(), 0, False
    while source:
        if source.number() % 4 == 0:
            reports.order()
            unanswered += 1
            continue
        report = source.take(source.number() % 4)
        number = int.from_bytes(report, "big", signed=True)
        ordered, end = number == wire.SIGNALLED and unanswered > 0, -65 < number < 256
        if len(report) != 2 or ended or not (ordered or end):
            with contextlib.suppress(wire.WireError):
                reports.accept(report)
                raise AssertionError(f"a report that may not come passes: {report!r}")
            return  # the cell is killed
        reports.accept(report)
        unanswered, ended = unanswered - ordered, end
        assert reports.status == (number if end else None)


def denial_record(data: bytes) -> None:
    """A guest's record becomes an event that is safe to print and can be read back, or an InvalidRecord."""
    try:
        plain = wire.decode_value(data)
        record = validate_broker_record(plain)
    except (wire.WireError, InvalidRecord):
        return
    assert 0 < record.count <= COUNT_LIMIT
    event = merge(CONTEXT, record, None)
    line = event.to_json()
    assert line.isascii() or line.isprintable()
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in line)
    again = reader.parse_line(line.encode("utf-8"))
    assert again is not None
    assert again.to_json() == line


# -- policies ---------------------------------------------------------------------------------------------------------

FORMATS = ("yaml", "toml", "json")


def policy(data: bytes) -> None:
    """Text of a format that its first byte chooses: a policy that survives being written down, or PolicySyntaxError."""
    format = FORMATS[data[0] % 3] if data else "yaml"
    try:
        read = load_bytes(data[1:], format=format)
    except PolicySyntaxError:
        return
    assert load_bytes(read.to_yaml().encode()) == read
    assert load_bytes(json.dumps(read.to_dict()).encode(), format="json").version == read.version


# -- the audit log ----------------------------------------------------------------------------------------------------


def audit_log(data: bytes) -> None:
    """A log that others wrote into: its whole events and nothing else, the same by reading and by following."""
    chunk = data[0] + 1 if data else 1
    text = data[1:]
    expected = _events(text.split(b"\n"))
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as file:
        file.write(text)
        file.flush()
        whole, reader._CHUNK = reader._CHUNK, chunk
        try:
            found = list(reader.read_events(file.name, rotated=False))
            followed = _follow(file.name, len(text))
        finally:
            reader._CHUNK = whole
    assert found == expected
    complete = text[: text.rfind(b"\n") + 1].split(b"\n")
    assert followed == _events(complete)
    for event in found:
        assert isinstance(event, DenialEvent)
        assert reader.parse_line(event.to_json().encode()) == event


def _follow(path: str, size: int) -> list[DenialEvent]:
    """Follow a log up to its end, as `follow_events` does, but for its clock."""
    tail, lines = reader._Tail(path, from_start=True), []
    try:
        while os.lseek(tail._fd, 0, os.SEEK_CUR) < size:
            lines += tail.read()
    finally:
        tail.close()
    return _events(lines)


def _events(lines: list[bytes]) -> list[DenialEvent]:
    return [event for event in map(reader.parse_line, lines) if event is not None]


# -- all of them ------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A function to fuzz, inputs to begin with, and words that inputs are made of."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


TARGETS = {
    "tagged_value": Target(
        tagged_value, seeds.tagged_values(), tuple(b"\x92" + msgspec.msgpack.encode(f) for f in values.NAMES)
    ),
    "wire_frame": Target(wire_frame, seeds.frames(), (b"\xdf\xff", b"\xdd\xff", b"\xc7", b"\x91" * 70, b"encoded")),
    "conversation": Target(conversation, seeds.conversations()),
    "plain_answer": Target(plain_answer, (ANSWER[wire.HEADER.size :],)),
    "program_reports": Target(
        program_reports,
        (
            b"\x00\x00\x01\x02\x7f\xff\x01\x02\x7f\xff\x01\x02\xff\xf7",
            b"\x01\x02\x00\xff\x01\x02\x00\x00",
            b"\x01\x02\x7f\xff",
        ),
    ),
    "denial_record": Target(
        denial_record,
        seeds.records(),
        (*(one.value.encode() for one in (*Capability, *Verdict, *DenialCode)), b"count", b"\x1b[", b"\xed\xa0\x80"),
    ),
    "policy": Target(policy, seeds.policies(), tuple(word.encode("latin-1") for word in POLICY_WORDS.split("|"))),
    "audit_log": Target(audit_log, seeds.logs(), (b"\n", b'{"schema":"pyisolate.denial/1"', b"\\ud800", b"null")),
}
