"""The wire between host and cell: length-capped msgpack frames and the host's strict state machine.

A frame is a 4-byte big-endian length and one msgpack map with a `t` tag. The host treats every byte from a cell as
hostile: a frame that is oversized, malformed, too deep, of an unknown kind or out of order is a `WireError`, and the
supervisor answers it by killing the cell. Only plain data comes back (None, bool, int, float, str, bytes, list, dict).
"""

from __future__ import annotations

import enum
import secrets
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from ..native.msgpack import Unfit, measure
from ..policy.compiled import CompiledPolicy
from ..telemetry.event import BrokerRecord

#: Largest frame a cell may send, and largest the host sends (bytes). Both sides refuse more.
MAX_GUEST_FRAME_BYTES = 16 << 20
MAX_HOST_FRAME_BYTES = 64 << 20
#: Only frames that carry a value may be longer than this; the rest are records and short texts.
MAX_CONTROL_FRAME_BYTES = 1 << 20
#: What one value may take on the wire, its frame's other fields aside, and as Python objects on the host (bytes).
MAX_VALUE_BYTES = MAX_GUEST_FRAME_BYTES - (1 << 10)
MAX_DECODED_BYTES = 256 << 20
#: Nesting of a value that a guest returns or posts; deeper is refused, so that host code may recurse over it.
MAX_DEPTH = 64
#: A guest may not report more denial records in one frame than this.
MAX_TEXT_CHARS = 64 << 10
HEADER = struct.Struct(">I")


class WireError(Exception):
    """A peer broke the protocol; the text says how."""


class Init(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="init"):
    """Hand-out: confine yourself to this policy. Descriptors ride along in the order of `descriptors`."""

    sandbox: str
    policy: CompiledPolicy
    shadow: CompiledPolicy | None = None
    descriptors: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str
    rlimits: tuple[tuple[int, int, int], ...]
    #: page of the descriptor `slots` that this cell's broker slots are in
    slot_page: int = 0


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="begin"):
    """A spare gets its name and environment; its confinement stays as it is."""

    sandbox: str
    environment: dict[str, str]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="request"):
    """Run something: `kind` is exec, eval, call (dotted name), function (cloudpickle) or script."""

    id: int
    kind: str
    source: str = ""
    payload: bytes = b""
    filename: str = "<sandbox>"
    argv: tuple[str, ...] = ()
    line_buffered: bool = False


class HostMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="post"):
    """An object that the host posts to the guest's `recv`."""

    data: Any


class Reload(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="reload"):
    """A new policy table for the broker; kernel tables are swapped by the supervisor or tightened by descriptor."""

    id: int
    policy: CompiledPolicy
    descriptors: tuple[str, ...] = ()


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="warm"):
    """First frame of a cell, before it has seen any guest code: what it applied; its listener rides along."""

    steps: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="ready"):
    """The answer to `Init`, still before any guest code: what was applied, and what failed."""

    steps: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="done"):
    """A request succeeded. `encoded` is the msgpack of its value; `is_repr` marks a repr of what is not plain data."""

    id: int
    encoded: bytes = b"\xc0"
    is_repr: bool = False
    exit_code: int | None = None
    duration_s: float = 0.0


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="failed"):
    """A request raised. `sequence` names the denial record that caused it, if one did."""

    id: int
    type_name: str
    message: str
    traceback: str
    sequence: int | None = None
    errno: int | None = None
    duration_s: float = 0.0


class GuestMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="message"):
    """An object that the guest posts to the host's `recv`."""

    encoded: bytes


class Denial(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="denial"):
    """A record of the broker in the guest's interpreter."""

    record: BrokerRecord


class Reloaded(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="reloaded"):
    """The broker now uses the new table; `failed` says what could not be applied."""

    id: int
    failed: tuple[tuple[str, str], ...] = ()


GuestFrame = Warm | Ready | Done | Failed | GuestMessage | Denial | Reloaded
HostFrame = Init | Begin | Request | HostMessage | Reload

_encoder = msgspec.msgpack.Encoder()
_guest_decoder: msgspec.msgpack.Decoder[GuestFrame] = msgspec.msgpack.Decoder(GuestFrame)
_value_frame_decoder: msgspec.msgpack.Decoder[Done | GuestMessage] = msgspec.msgpack.Decoder(Done | GuestMessage)
_host_decoder: msgspec.msgpack.Decoder[HostFrame] = msgspec.msgpack.Decoder(HostFrame)
_value_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def encode(frame: GuestFrame | HostFrame, *, limit: int = MAX_HOST_FRAME_BYTES) -> bytes:
    """Return header and payload. Raises WireError past `limit` bytes."""
    payload = _encoder.encode(frame)
    if len(payload) > limit:
        raise WireError(f"frame of {len(payload)} bytes is over the limit of {limit}")
    return HEADER.pack(len(payload)) + payload


def decode_guest(payload: bytes) -> GuestFrame:
    """Decode one frame of a cell. Raises WireError on anything that is not exactly one."""
    try:
        measure(payload, max_depth=MAX_DEPTH, limit_bytes=MAX_DECODED_BYTES)
        if len(payload) > MAX_CONTROL_FRAME_BYTES:
            return _value_frame_decoder.decode(payload)
        return _guest_decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError, MemoryError) as error:
        raise WireError(f"malformed frame: {error}") from None


def decode_host(payload: bytes) -> HostFrame:
    """Decode one frame of the host, in the cell."""
    return _host_decoder.decode(payload)


def encode_value(value: Any) -> bytes:
    """Encode a guest's value; sets and tuples become lists.

    Raises TypeError for what is not plain data, ValueError for what is too large or too deep for the host to take.
    """
    encoded = _encoder.encode(value)
    if len(encoded) > MAX_VALUE_BYTES:
        raise ValueError(f"{len(encoded)} bytes are over the limit of {MAX_VALUE_BYTES}: send it in parts")
    try:
        measure(encoded, max_depth=MAX_DEPTH, limit_bytes=MAX_DECODED_BYTES)
    except Unfit as error:
        raise (ValueError if error.too_large else TypeError)(str(error)) from None
    return encoded


def check_value(encoded: bytes) -> None:
    """Raise WireError unless `encoded` is one value of plain data, and neither too large nor too deep."""
    try:
        measure(encoded, max_depth=MAX_DEPTH, limit_bytes=MAX_DECODED_BYTES)
    except Unfit as error:
        raise WireError(f"bad value: {error}") from None


def decode_value(encoded: bytes) -> Any:
    """Decode a guest's value into plain data no deeper than MAX_DEPTH. Raises WireError."""
    check_value(encoded)
    try:
        return _value_decoder.decode(encoded)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError, TypeError, MemoryError) as error:
        raise WireError(f"malformed value: {error}") from None


class FrameBuffer:
    """Cuts a byte stream into frames, refusing a length over `limit` before any of its bytes are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    def next_payload(self) -> bytes | None:
        """Return one frame's payload, or None until it is whole. Raises WireError."""
        if len(self._data) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._data)
        if length > self._limit:
            raise WireError(f"frame announces {length} bytes, the limit is {self._limit}")
        end = HEADER.size + length
        if len(self._data) < end:
            return None
        payload = bytes(memoryview(self._data)[HEADER.size : end])
        del self._data[:end]
        return payload

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._data)


class Phase(enum.Enum):
    """Where a cell stands, as the host knows it; the cell has no say in it."""

    WARMING = "warming"
    HANDOUT = "handout"
    IDLE = "idle"
    RUNNING = "running"
    DEAD = "dead"


def _unguessable() -> int:
    return secrets.randbits(63)


class Conversation:
    """The host's state machine for one cell: which frame may come now. Holds no descriptor and does no I/O."""

    def __init__(self, new_id: Callable[[], int] = _unguessable) -> None:
        self.phase = Phase.WARMING
        # Counted ids would let a guest answer a request before it is sent: its frame may arrive just after.
        self._new_id = new_id
        self._outstanding: int | None = None
        self._reloading: list[int] = []

    def start_handout(self) -> None:
        """`Init` is about to be sent."""
        self._expect(Phase.IDLE)
        self.phase = Phase.HANDOUT

    def start_request(self) -> int:
        """Return the id for a new request. Raises WireError while another runs."""
        self._expect(Phase.IDLE)
        self._outstanding = number = self._new_id()
        self.phase = Phase.RUNNING
        return number

    def cancel_request(self) -> None:
        """The request that was started could not be sent."""
        self._outstanding, self.phase = None, Phase.IDLE

    def start_reload(self) -> int:
        """Return the id for a reload; the cell answers reloads in order, whatever else it does."""
        if self.phase not in (Phase.IDLE, Phase.RUNNING):
            raise WireError(f"cannot reload while {self.phase.value}")
        number = self._new_id()
        self._reloading.append(number)
        return number

    def accept(self, frame: GuestFrame) -> None:
        """Check a decoded frame against the phase and move on. Raises WireError for one that may not come now."""
        phase = self.phase
        if isinstance(frame, Denial | GuestMessage):
            if phase in (Phase.IDLE, Phase.RUNNING):
                return
        elif isinstance(frame, Done | Failed):
            if phase is Phase.RUNNING and frame.id == self._outstanding:
                self._outstanding = None
                self.phase = Phase.IDLE
                return
        elif isinstance(frame, Ready):
            if phase is Phase.HANDOUT:
                self.phase = Phase.IDLE
                return
        elif isinstance(frame, Warm):
            if phase is Phase.WARMING:
                self.phase = Phase.IDLE
                return
        elif isinstance(frame, Reloaded) and self._reloading and frame.id == self._reloading[0]:
            del self._reloading[0]
            return
        raise WireError(f"unexpected {type(frame).__name__.lower()} frame while {phase.value}")

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise WireError(f"cannot start this while {self.phase.value}")
