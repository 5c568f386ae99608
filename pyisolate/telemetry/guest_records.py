"""Records that a guest reports: a hostile input. Checked and capped here, before anything on the host reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from ..decision import DenialCode, Verdict
from ..records import ALSO_LIMIT, REFUSAL_ERRNOS, REFUSALS, BrokerRecord
from .sanitize import escape, unescape

#: One record can stand for at most this many operations: a guest's flood must not be one frame that lies by 2**63.
COUNT_LIMIT = 1_000_000
_INT_LIMIT = 1 << 63
_TEXT_LIMITS = {
    "target": 4096,
    "reason": 1024,
    "rule": 1024,
    "presented": 1024,
    "origin": 1024,
    "syscall": 64,
}
#: Texts that are no longer together are no longer each; a call has a short name.
_PLAIN_LIMIT = 1024
#: What only the host decides, so no guest has a say in it.
_HOST_CODES = frozenset({DenialCode.TOKEN_INVALID, DenialCode.ACTOR_REQUIRED})


class InvalidRecord(ValueError):
    """A guest's record breaks the protocol; the frame it came in is to be treated as hostile."""


def escaped_record(record: BrokerRecord) -> BrokerRecord:
    """Return a record fit for a frame: msgpack carries no undecodable bytes, so all text is escaped."""
    texts = f"{record.target}{record.reason}{record.rule}{record.presented}{record.origin}{record.syscall}"
    if len(texts) <= _PLAIN_LIMIT and not record.also and texts.isprintable() and "\\" not in texts:
        return record
    changes: dict[str, Any] = {
        field: shown
        for field, limit in _TEXT_LIMITS.items()
        if (text := getattr(record, field)) is not None and (shown := escape(text, limit)) is not text
    }
    if record.also:
        changes["also"] = tuple((one, escape(target, _TEXT_LIMITS["target"])) for one, target in record.also)
    return msgspec.structs.replace(record, **changes) if changes else record


def validate_broker_record(data: object) -> BrokerRecord:
    """Return a guest's record (a BrokerRecord or its plain data, text as `escaped_record` left it), checked.

    Its text is unescaped again, and capped.

    Raises InvalidRecord for a wrong shape, a value out of range, an operation that only the host decides, or a
    record that refuses nothing.
    """
    try:
        record = data if isinstance(data, BrokerRecord) else msgspec.convert(data, BrokerRecord, strict=True)
    except (msgspec.ValidationError, TypeError, ValueError, RecursionError) as error:
        raise InvalidRecord(f"denial record, from the guest: {escape(str(error), 256)}") from None
    _check(record)
    changes: dict[str, Any] = {
        field: capped
        for field, limit in _TEXT_LIMITS.items()
        if (text := getattr(record, field)) is not None and (capped := unescape(text[: limit + 32])[:limit]) is not text
    }
    if record.also:
        limit = _TEXT_LIMITS["target"]
        changes["also"] = tuple((one, unescape(target[: limit + 32])[:limit]) for one, target in record.also)
    if record.count > COUNT_LIMIT:
        changes["count"] = COUNT_LIMIT
    return msgspec.structs.replace(record, **changes) if changes else record


def _check(record: BrokerRecord) -> None:
    for field in ("sequence", "pid", "tid", "monotonic_ns", "count"):
        if not 0 <= getattr(record, field) < _INT_LIMIT:
            raise InvalidRecord(f"denial record, from the guest: {field} is out of range")
    if record.count < 1:
        raise InvalidRecord("denial record, from the guest: count is 0")
    if record.also and (len(record.also) > ALSO_LIMIT or any(one.family != "fs" for one, _ in record.also)):
        raise InvalidRecord("denial record, from the guest: a call needs no such thing besides")
    if (record.answer, record.asked_by, record.waited_ms) != (None, None, None):
        raise InvalidRecord("denial record, from the guest: who was asked is the host's to say")
    if record.errno is not None and not 0 < record.errno < 4096:  # MAX_ERRNO, include/linux/err.h
        raise InvalidRecord("denial record, from the guest: errno is out of range")
    if record.capability.family == "control" or record.code in _HOST_CODES:
        raise InvalidRecord(f"denial record, from the guest: {record.capability.value} is decided by the host alone")
    if record.verdict in REFUSALS or (record.verdict is Verdict.ALLOW and record.errno in REFUSAL_ERRNOS):
        return
    raise InvalidRecord(f"denial record, from the guest: verdict {record.verdict.value} refuses nothing")
