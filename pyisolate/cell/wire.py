"""The wire between host and cell: length-capped msgpack frames and the host's strict state machine.

A frame is a 4-byte big-endian length and one msgpack map with a `t` tag. The host treats every byte from a cell as
hostile: a frame that is oversized, malformed, too deep, of an unknown kind or out of order is a `WireError`, and the
supervisor answers it by killing the cell. Values are plain data in the forms that `values` lists.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from ..choices import Step
from ..native.msgpack import measure
from ..policy.compiled import CompiledPolicy
from ..records import BrokerRecord
from . import values
from .described import Description
from .values import MAX_DECODED_BYTES, MAX_DEPTH

#: Largest frame a cell may send, and largest the host sends (bytes). Both sides refuse more.
MAX_GUEST_FRAME_BYTES = 16 << 20
MAX_HOST_FRAME_BYTES = 64 << 20
#: Exit status of a cell that could not go on: its channel is gone, or its confinement failed (EX_SOFTWARE).
BROKEN_STATUS = 70
#: Only frames that carry a value may be longer than this; the rest are records and short texts.
MAX_CONTROL_FRAME_BYTES = 1 << 20
#: The texts of an exception (characters): a cell's own code sends no more of them, and the host keeps no more.
MAX_TYPE_NAME_CHARS = 200
MAX_MESSAGE_CHARS = 4096
MAX_TRACEBACK_CHARS = 16 << 10
#: What one request may display: bundles, and their bytes; and the forms of one bundle.
MAX_SHOWN = 500
MAX_SHOWN_BYTES = 32 << 20
MAX_FORMS = 16
#: Longest name of a function of the host (characters).
MAX_FUNCTION_NAME_CHARS = 100
HEADER = struct.Struct(">I")
#: What a guest says of a program that runs beside its requests, on a pipe of that program's: its exit status, negative
#: for a signal, or that it was given the signal that the host ordered.
PROGRAM_REPORT = struct.Struct(">h")
SIGNALLED = 0x7FFF
#: The highest exit status, and the highest signal (`exit(3)`, `signal(7)`).
_LAST_STATUS, _LAST_SIGNAL = 255, 64
#: The descriptors that ride along with a request to launch one: stdin, stdout, stderr, orders, reports.
LAUNCH_DESCRIPTORS = 5
ShownKind = Literal["display_data", "execute_result"]


class WireError(Exception):
    """A peer broke the protocol; the text says how."""


class Init(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="init"):
    """Hand-out: confine yourself to this policy. Descriptors ride along in the order of `descriptors`."""

    sandbox: str
    #: None: the one of the policy zygote that forked this cell
    policy: CompiledPolicy | None
    shadow: CompiledPolicy | None = None
    descriptors: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str
    rlimits: tuple[tuple[int, int, int], ...]
    #: page of the descriptor `slots` that this cell's broker slots are in
    slot_page: int = 0
    #: cache tag of the host's interpreter: whose bytecode functions are, that come by value; empty: the cell's own
    host_tag: str = ""
    #: no request follows at once, so there is time to rehearse one
    ahead: bool = False


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="begin"):
    """A spare gets its name and environment; its confinement stays as it is."""

    sandbox: str
    #: None: as its hand-out said
    environment: dict[str, str] | None = None


class Request(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="t", tag="request"):
    """Run something: `kind` is exec, eval, call (dotted name), function (cloudpickle), script, command or launch.

    `id` and `line_buffered` are set when it is sent. A call with plain arguments has them in `args` and `kwargs`.
    """

    id: int = 0
    kind: str
    source: str = ""
    payload: bytes = b""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    filename: str = "<sandbox>"
    argv: tuple[str, ...] = ()
    line_buffered: bool = False
    #: the descriptor of its stdin rides along
    stdin: bool = False


class HostMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="post"):
    """An object that the host posts to the guest's `recv`."""

    encoded: bytes


class Reload(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="reload"):
    """A new policy table for the broker; kernel tables are swapped by the supervisor or tightened by descriptor."""

    id: int
    policy: CompiledPolicy
    descriptors: tuple[str, ...] = ()
    #: how many reloads the asked page had announced by then
    serial: int = 0


class Functions(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="functions"):
    """Functions of the host that the guest may call from now on."""

    functions: tuple[Description, ...]


class Returned(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="returned"):
    """A function of the host returned; `id` is the guest's own number of the call."""

    id: int
    encoded: bytes


class Raised(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="raised"):
    """A function of the host raised, or was not run: type and message, and the `errno` of an OSError."""

    id: int
    type_name: str
    message: str
    errno: int | None = None


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="warm"):
    """First frame of a cell, before it has seen any guest code: what it applied; its listener rides along."""

    steps: tuple[Step, ...]
    failed: tuple[tuple[Step, str], ...] = ()


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="ready"):
    """The answer to `Init`, still before any guest code: what was applied, and what failed."""

    steps: tuple[Step, ...]
    failed: tuple[tuple[Step, str], ...] = ()


class Done(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="t", tag="done"):
    """A request succeeded. `encoded` is the msgpack of its value; `is_repr` marks a repr of what is not plain data."""

    id: int
    encoded: bytes = b"\xc0"
    is_repr: bool = False
    exit_code: int | None = None
    duration_s: float = 0.0


class Failed(msgspec.Struct, kw_only=True, tag_field="t", tag="failed"):
    """A request raised. `sequence` names the denial record that caused it, if one did.

    `raised_by_guest`: a `raise` statement of the guest's own code made the exception, and no call into native code.
    `shown`: the guest's own `sys.excepthook` was given it. `made_no_process`: it is EAGAIN of a fork that was allowed.
    """

    id: int
    type_name: str
    message: str
    traceback: str
    sequence: int | None = None
    errno: int | None = None
    raised_by_guest: bool = False
    shown: bool = False
    made_no_process: bool = False
    duration_s: float = 0.0


class GuestMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="message"):
    """An object that the guest posts to the host's `recv`."""

    encoded: bytes


_Name = Annotated[str, msgspec.Meta(max_length=100)]
_Few = msgspec.Meta(max_length=MAX_FORMS)
_Facts = Annotated[dict[_Name, str | int | float | bool | None], _Few]


class Shown(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="shown"):
    """Something that the guest displays: its forms by MIME type, and plain facts about them."""

    kind: ShownKind
    text: Annotated[dict[_Name, str], _Few] = {}
    data: Annotated[dict[_Name, bytes], _Few] = {}
    metadata: Annotated[dict[_Name, _Facts], _Few] = {}


class HostCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="host_call"):
    """The guest calls a function of the host. `arguments` are encoded: a list of those by position, a dict by name."""

    id: int
    name: Annotated[str, msgspec.Meta(max_length=MAX_FUNCTION_NAME_CHARS)]
    arguments: bytes


class GaveUp(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="gave_up"):
    """The guest does not wait for the answer of its call `id` any more: out of time, or interrupted."""

    id: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="wanted"):
    """A reload was announced, and its table did not come: the guest waits for it."""


class Denial(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="denial"):
    """A record of the broker in the guest's interpreter."""

    record: BrokerRecord


class Reloaded(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="reloaded"):
    """The broker now uses the new table; `failed` says what could not be applied."""

    id: int
    failed: tuple[tuple[Step, str], ...] = ()


GuestFrame = Warm | Ready | Done | Failed | GuestMessage | Shown | HostCall | GaveUp | Denial | Reloaded | Wanted
#: What answers a call of a function of the host.
HostAnswer = Returned | Raised
HostFrame = Init | Begin | Request | HostMessage | Reload | Functions | Returned | Raised

#: What answers a request, and what a guest may send by itself. (A union of types is made anew at each use.)
_ANSWERS = (Done, Failed)
_AT_ANY_TIME = (Denial, GuestMessage, Shown, HostCall, GaveUp, Wanted)

_encoder = msgspec.msgpack.Encoder()
_plain_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()
_guest_decoder: msgspec.msgpack.Decoder[GuestFrame] = msgspec.msgpack.Decoder(GuestFrame)
_ValueFrame = Done | GuestMessage | Shown | HostCall
_value_frame_decoder: msgspec.msgpack.Decoder[_ValueFrame] = msgspec.msgpack.Decoder(_ValueFrame)
_host_decoder: msgspec.msgpack.Decoder[HostFrame] = msgspec.msgpack.Decoder(HostFrame)


def encode(frame: GuestFrame | HostFrame, *, limit: int = MAX_HOST_FRAME_BYTES) -> bytes:
    """Return header and payload. Raises WireError past `limit` bytes."""
    payload = _encoder.encode(frame)
    if len(payload) > limit:
        raise WireError(f"frame of {len(payload)} bytes is over the limit of {limit}")
    return HEADER.pack(len(payload)) + payload


def decode_guest(payload: bytes) -> GuestFrame:
    """Decode one frame of a cell. Raises WireError on anything that is not exactly one.

    MemoryError is this process's own shortage: what a frame may ask for is measured before.
    """
    try:
        measure(payload, max_depth=MAX_DEPTH, limit_bytes=MAX_DECODED_BYTES)
        if len(payload) > MAX_CONTROL_FRAME_BYTES:
            return _value_frame_decoder.decode(payload)
        return _guest_decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise WireError(f"malformed frame: {error}") from None


def decode_host(payload: bytes) -> HostFrame:
    """Decode one frame of the host, in the cell."""
    return _host_decoder.decode(payload)


def check_value(encoded: bytes) -> None:
    """Raise WireError unless `encoded` is one value of plain data, and neither too large nor too deep."""
    try:
        values.check(encoded)
    except ValueError as error:
        raise WireError(f"bad value: {error}") from None


def decode_value(encoded: bytes) -> Any:
    """Decode a guest's value. Raises WireError."""
    check_value(encoded)
    try:
        return values.decode(encoded)
    except Exception as error:  # whatever the standard library or numpy says of a hostile one
        raise WireError(f"malformed value: {error}") from None


def decode_plain(encoded: bytes) -> Any:
    """Decode a guest's value that is plain, and neither too large nor too deep. Raises WireError."""
    try:
        return _plain_decoder.decode(encoded)
    except Exception as error:
        raise WireError(f"malformed value: {error}") from None


class FrameBuffer:
    """Cuts a byte stream into frames, refusing a length over `limit` before any of its bytes are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: bytes of an unfinished frame
        self.kept = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self.kept += data

    def take(self, data: bytes) -> bytes | None:
        """Add received bytes, and return one frame's payload, or None until it is whole. Raises WireError."""
        if not self.kept and len(data) >= HEADER.size:
            (length,) = HEADER.unpack_from(data)
            if length == len(data) - HEADER.size and length <= self._limit:
                return data[HEADER.size :]  # one frame, as nearly always
        self.kept += data
        return self.next_payload()

    def next_payload(self) -> bytes | None:
        """Return one frame's payload, or None until it is whole. Raises WireError."""
        if len(self.kept) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self.kept)
        if length > self._limit:
            raise WireError(f"frame announces {length} bytes, the limit is {self._limit}")
        end = HEADER.size + length
        if len(self.kept) < end:
            return None
        payload = bytes(memoryview(self.kept)[HEADER.size : end])
        del self.kept[:end]
        return payload

    @property
    def missing(self) -> int:
        """Bytes that an unfinished frame, its header read, still lacks; 0 for none."""
        if len(self.kept) < HEADER.size:
            return 0
        return HEADER.size + int(HEADER.unpack_from(self.kept)[0]) - len(self.kept)


class Phase(enum.Enum):
    """Where a cell stands, as the host knows it; the cell has no say in it."""

    WARMING = "warming"
    HANDOUT = "handout"
    IDLE = "idle"
    RUNNING = "running"
    DEAD = "dead"


class Numbers:
    """Draws numbers that cannot be guessed, 64 at once: the kernel's generator takes as long for one.

    For one conversation: a forked process has none of its parent's.
    """

    def __init__(self) -> None:
        self._left: list[int] = []

    def __call__(self) -> int:
        """Return a number below 2**63."""
        if not self._left:
            self._left = [number >> 1 for number in struct.unpack("=64Q", os.urandom(64 * 8))]
        return self._left.pop()


class ProgramReports:
    """What a guest may say of one program: for each order that it passed that signal on, and once how it ended."""

    def __init__(self) -> None:
        self._ordered = 0
        #: signals that were passed on
        self.passed_on = 0
        #: its exit status, negative for a signal; None while it runs
        self.status: int | None = None

    def order(self) -> None:
        """A signal is about to be ordered."""
        self._ordered += 1

    def accept(self, report: bytes) -> None:
        """Take a report. Raises WireError for what may not come now."""
        if len(report) != PROGRAM_REPORT.size or self.status is not None:
            raise WireError(f"program report: {len(report)} bytes, or one after its end")
        (status,) = PROGRAM_REPORT.unpack(report)
        if status == SIGNALLED:
            if self.passed_on >= self._ordered:
                raise WireError("program report: a signal that was not ordered")
            self.passed_on += 1
        elif not -_LAST_SIGNAL <= status <= _LAST_STATUS:
            raise WireError(f"program report: {status} is no exit status")
        else:
            self.status = status


class Conversation:
    """The host's state machine for one cell: which frame may come now. Holds no descriptor and does no I/O."""

    def __init__(self, new_id: Callable[[], int] | None = None) -> None:
        self.phase = Phase.WARMING
        # Counted ids would let a guest answer a request before it is sent: its frame may arrive just after.
        self._new_id = new_id or Numbers()
        self._outstanding: int | None = None
        self._reloading: list[int] = []

    def start_handout(self) -> None:
        """`Init` is about to be sent."""
        self._expect(Phase.IDLE)
        self.phase = Phase.HANDOUT

    def start_request(self) -> int:
        """Return the id for a new request. Raises WireError while another runs."""
        if self.phase is not Phase.IDLE:
            self._expect(Phase.IDLE)
        self._outstanding = number = self._new_id()
        self.phase = Phase.RUNNING
        return number

    def answered(self) -> None:
        """The answer to the request that runs has come, and was read elsewhere: `accept` was not given it."""
        if self.phase is Phase.RUNNING:  # else another thread met the end of the cell
            self._outstanding, self.phase = None, Phase.IDLE

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

    def cancel_reload(self, number: int) -> None:
        """The reload that was started was not sent: another one comes in its place."""
        self._reloading.remove(number)

    def accept(self, frame: GuestFrame) -> None:
        """Check a decoded frame against the phase and move on. Raises WireError for one that may not come now."""
        phase = self.phase
        if isinstance(frame, _ANSWERS):
            if phase is Phase.RUNNING and frame.id == self._outstanding:
                self._outstanding = None
                self.phase = Phase.IDLE
                return
        elif isinstance(frame, _AT_ANY_TIME):
            if phase in (Phase.IDLE, Phase.RUNNING):
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
