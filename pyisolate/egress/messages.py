"""What the supervisor and its egress proxy send each other: frames of a length (4 bytes, big-endian) and msgpack.

The proxy reads what guests and the Internet send, so the supervisor reads its frames as it reads a guest's.
"""

from __future__ import annotations

import struct

import msgspec

from ..capability import Capability
from ..decision import DenialCode
from ..policy import web
from ..policy.compiled import CompiledPolicy
from ..policy.secrets import Injection
from ..records import REFUSALS, BrokerRecord
from .authority import Authority
from .meter import Carried

LENGTH = struct.Struct("!I")
#: A policy of 10 000 rules has less; what the proxy reports is a few lines.
MAX_ORDER_BYTES, MAX_REPORT_BYTES = 64 << 20, 64 << 10
_TEXT_CHARS = 4096
#: What the proxy names a request by; a longer one is refused under the name that it begins with, and not asked about.
MOST_TARGET_CHARS = 2000
_MOST_COUNTED, _MOST_NUMBER, _MOST_TIMES = 1 << 53, 1 << 63, 1 << 31


class Led(msgspec.Struct, frozen=True):
    """By what a sandbox's connections are known: its number at the listener, or its control group. 0: not by that."""

    number: int = 0
    group: int = 0


class Admit(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A sandbox: who knows `token` is `key`, and may do what `policy` says. Again for another policy."""

    key: str
    token: str
    policy: CompiledPolicy
    secrets: tuple[Injection, ...] = ()
    #: signs what the sandbox is shown inside of TLS
    authority: Authority | None = None
    led: Led = Led()
    number: int = 0


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first order: whom to run as (None: as who started it), and addresses of names that are not looked up.

    `admitted` are the sandboxes that a proxy before it served. `authorities`: whom it trusts (PEM), None: this
    machine's.
    """

    host_pid: int
    uid: int | None
    gid: int
    hosts: dict[str, tuple[str, ...]]
    readable: tuple[str, ...]
    admitted: tuple[Admit, ...]
    authorities: str | None = None


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to a question about a request of a sandbox."""

    key: str
    number: int
    allow: bool


class Dismiss(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A sandbox has ended: what it has open is closed."""

    key: str


class Serving(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The proxy has given up its rights and serves. `confined`: what it applied."""

    confined: tuple[str, ...]


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The order of this number is in force."""

    number: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request was refused; its guest is answered after this. `key` is empty where no sandbox is known."""

    key: str
    record: BrokerRecord
    #: the question that was asked about it before, 0: none
    question: int = 0


class Questioned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """No rule speaks of a request, which waits for an answer. The number is no other question's, of any proxy."""

    key: str
    number: int
    target: str


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What was carried for a sandbox in all, how many connections it has, and what processor time it took (seconds)."""

    key: str
    carried: Carried
    connections: int
    spent_s: float = 0.0


Order = Start | Admit | Dismiss | Answered
Report = Serving | Applied | Refused | Counted | Questioned
decode_order = msgspec.msgpack.Decoder(Order).decode
_decode_report = msgspec.msgpack.Decoder(Report).decode


class BadReport(ValueError):
    """A frame of the proxy's breaks the protocol."""


def encode(message: Order | Report) -> bytes:
    """Return a frame."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


def can_be_asked(target: str) -> bool:
    """Tell whether a question about a request can be put: it names all of it. The proxy asks no other one."""
    return len(target) <= MOST_TARGET_CHARS and target.isprintable() and web.parse(target) is not None


def decode_report(data: bytes) -> Report:
    """Return a report, its text capped. Raises BadReport for what the proxy may not say."""
    try:
        report = _decode_report(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadReport(str(error)[:200]) from None
    if isinstance(report, Counted):
        figures = (*msgspec.structs.astuple(report.carried), report.connections, report.spent_s)
        if not all(0 <= figure < _MOST_COUNTED for figure in figures):
            raise BadReport("counts that cannot be")
    if isinstance(report, Questioned) and not (can_be_asked(report.target) and 0 < report.number < _MOST_NUMBER):
        raise BadReport("a question about no request")
    if not isinstance(report, Refused):
        return report
    record = report.record
    if not 0 <= report.question < _MOST_NUMBER or not 0 <= (record.waited_ms or 0) < _MOST_COUNTED:
        raise BadReport("an answer to no question")
    if record.asked_by is not None or record.answer not in (None, "would_ask"):
        raise BadReport("an answer that the supervisor gives")
    if record.capability is not Capability.NET_HTTP or record.verdict not in REFUSALS:
        raise BadReport("a record of something else than a refused request")
    if not 0 < record.count < _MOST_TIMES or (record.count > 1 and record.code is not DenialCode.LIMIT_EXCEEDED):
        raise BadReport("a request that was refused that often")
    cut = {name: text[:_TEXT_CHARS] for name in ("target", "reason") if (text := getattr(record, name))}
    own = {"sequence": 0, "pid": 0, "tid": 0, "monotonic_ns": 0, "errno": None, "also": (), "origin": None}
    cut |= {name: text[:_TEXT_CHARS] for name in ("rule", "presented") if (text := getattr(record, name)) is not None}
    record = msgspec.structs.replace(record, **cut, **own, syscall=None, shadow=False)
    return Refused(key=report.key, record=record, question=report.question)
