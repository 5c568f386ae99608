"""Calls that change mode, times, owner or attributes, and wait for an answer: what is asked about each.

One question, about the file that the name leads to and about what becomes of it. Not asked about: links themselves,
open files, set-user-id and set-group-id bits (no policy grants them), users that the guest's namespace has no number
for, and attributes other than `user.`, which are the kernel's or the machine's.
"""

from __future__ import annotations

import datetime
import stat
import struct
from typing import NoReturn

from ..capability import Capability
from ..kernel.rootview.metadata import UNCHANGED, MetadataChange
from ..policy.asking import CHANGING
from ..policy.broker import Broker
from ..records import Asked
from .naming import Name, Named, missing, name_of

_NO_FOLLOW = 0x100  # AT_SYMLINK_NOFOLLOW, linux/fcntl.h
_OF_LINKS = ("lchown", "lsetxattr", "lremovexattr")
_SETS_IDS = 0o6000
#: Two times, as each call has them: of seconds and nanoseconds, or microseconds, or seconds alone.
_TIMES = {"utimensat": (struct.Struct("=4q"), 1), "utime": (struct.Struct("=2q"), 0)}
_MICROSECONDS = struct.Struct("=4q"), 1000
_OWNERS = struct.Struct("=2i")
_NOW, _OMIT = 0x3FFFFFFF, 0x3FFFFFFE  # UTIME_NOW, UTIME_OMIT, linux/stat.h
_SECOND_NS = 1_000_000_000
_OWN_ATTRIBUTES = "user."


def changed_by(asked: Asked, broker: Broker) -> Named | None:
    """Return the call if the host is to be asked about it; None: the kernel decides. Raises OSError, ValueError."""
    at = _changed(asked, broker)
    if at is None:
        return None
    wanted = [(Capability.FS_METADATA, at)]
    needs = missing(wanted, broker)
    if not needs:
        return None
    change, detail = _change_of(asked, at)
    content = f"={change.value!r}" if change.call == "setxattr" else ""
    named = Named(change, needs, (at.written, at.path), ((Capability.FS_METADATA, at.path),), detail, content)
    return None if named.is_denied(broker) else named


def _changed(asked: Asked, broker: Broker) -> Name | None:
    """Return what is changed; None for anything but a file or a directory that is there."""
    call = CHANGING[asked.syscall]
    flags = 0 if call in ("chmod", "chown", "utime") and asked.syscall not in _WITH_FLAGS else asked.flags
    if call != "setxattr" and flags not in (0, _NO_FOLLOW):
        return None
    itself = asked.syscall in _OF_LINKS or (call != "setxattr" and flags == _NO_FOLLOW)
    at = name_of(asked.target, broker, follow=not itself)
    seen = at.seen
    return at if seen is not None and (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)) else None


_WITH_FLAGS = ("fchmodat2", "fchownat", "utimensat")


def _change_of(asked: Asked, at: Name) -> tuple[MetadataChange, str]:
    """Return what is to be done, and the same in words."""
    call, on_host = CHANGING[asked.syscall], at.on_host
    if call == "chmod":
        if asked.mode & _SETS_IDS:
            _refuse("set-id bits")
        return MetadataChange("chmod", on_host, mode=asked.mode), f"mode {asked.mode:04o}"
    if call == "chown":
        user, group = _owners(asked)
        words = [f"{what} {'unchanged' if one < 0 else one}" for what, one in (("owner", user), ("group", group))]
        return MetadataChange("chown", on_host, owner=(user, group)), ", ".join(words)
    if call == "utime":
        times = _times(asked)
        return MetadataChange("utime", on_host, times=times), _in_words(times)
    name, _, value = asked.said.partition(b"\0")
    attribute = name.decode("ascii")
    if not attribute.startswith(_OWN_ATTRIBUTES) or not attribute.isprintable():
        _refuse("an attribute that is not the guest's to change")
    if call == "removexattr":
        return MetadataChange("removexattr", on_host, attribute=attribute), f"without attribute {attribute}"
    change = MetadataChange("setxattr", on_host, attribute=attribute, value=value, flags=asked.flags)
    return change, f"attribute {attribute}"


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"{what}: the kernel decides")


def _times(asked: Asked) -> tuple[int, int] | None:
    """Return the times of access and change in nanoseconds; None: both of now."""
    if not asked.said:
        return None
    form, unit = _TIMES.get(asked.syscall, _MICROSECONDS)
    numbers = form.unpack(asked.said)
    if not unit:
        return numbers[0] * _SECOND_NS, numbers[1] * _SECOND_NS
    parts = numbers[1], numbers[3]
    if unit == 1 and parts == (_NOW, _NOW):
        return None
    if unit == 1 and (_NOW in parts or parts == (_OMIT, _OMIT)):
        _refuse("one time of now, or none")
    if any(not 0 <= part * unit < _SECOND_NS and not (unit == 1 and part == _OMIT) for part in parts):
        _refuse("no time")
    accessed, modified = (
        UNCHANGED if unit == 1 and part == _OMIT else second * _SECOND_NS + part * unit
        for second, part in zip(numbers[::2], parts, strict=True)
    )
    return accessed, modified


def _in_words(times: tuple[int, int] | None) -> str:
    if times is None:
        return "accessed and modified now"
    return ", ".join(f"{what} {_time(one)}" for what, one in zip(("accessed", "modified"), times, strict=True))


def _time(one: int) -> str:
    if one == UNCHANGED:
        return "unchanged"
    try:
        return datetime.datetime.fromtimestamp(one // _SECOND_NS, datetime.UTC).isoformat(sep=" ")
    except (OverflowError, OSError):
        _refuse("a time that no calendar has")


def _owners(asked: Asked) -> tuple[int, int]:
    """Return the user and group that the guest named, by their numbers here; -1: unchanged."""
    numbers = _OWNERS.unpack(asked.said)
    found = [_here(asked.tid, kind, one) for kind, one in zip(("uid", "gid"), numbers, strict=True)]
    return found[0], found[1]


def _here(tid: int, kind: str, number: int) -> int:
    if number == -1:
        return -1
    with open(f"/proc/{tid}/{kind}_map") as file:
        for line in file:
            inside, outside, count = map(int, line.split())
            if inside <= number & 0xFFFFFFFF < inside + count:
                return outside + (number & 0xFFFFFFFF) - inside
    _refuse(f"{kind} {number}, which its namespace has not")
