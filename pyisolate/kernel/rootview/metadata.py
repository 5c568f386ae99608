"""What a yes changes of a file of the host's but its data: mode, times, owner, attributes.

The file is opened without a link at its end, compared with the one that was looked at, and changed by that descriptor:
whatever has its name by then is not touched.
"""

from __future__ import annotations

import contextlib
import os
from typing import Literal

import msgspec

from .names import HostName, directory_of, error_of, file_of

Change = Literal["chmod", "chown", "utime", "setxattr", "removexattr"]
#: As a time: leave it as it is.
UNCHANGED = -1


class MetadataChange(msgspec.Struct, frozen=True, tag="metadata"):
    """A call that changes a file which has a name: `at.found` is which."""

    call: Change
    at: HostName
    mode: int = 0
    #: user and group; -1: as it is
    owner: tuple[int, int] = (-1, -1)
    #: accessed and modified, in nanoseconds; UNCHANGED; None: both now
    times: tuple[int, int] | None = None
    attribute: str = ""
    value: bytes = b""
    #: XATTR_CREATE, XATTR_REPLACE
    flags: int = 0


def change_metadata(change: MetadataChange) -> int:
    """Make the call; return its error number, or 0. Raises OSError where the file is not what it was, before that."""
    with contextlib.ExitStack() as held:
        at = held.enter_context(directory_of(change.at))
        file = held.enter_context(file_of(change.at, at))
        found = os.fstat(file)
        return error_of(lambda: _change(change, f"/proc/self/fd/{file}", found))


def _change(change: MetadataChange, file: str, found: os.stat_result) -> None:
    if change.call == "chmod":
        os.chmod(file, change.mode)
    elif change.call == "chown":
        os.chown(file, *change.owner)
    elif change.call == "setxattr":
        os.setxattr(file, change.attribute, change.value, change.flags)
    elif change.call == "removexattr":
        os.removexattr(file, change.attribute)
    elif change.times is None:
        os.utime(file)
    else:
        accessed, modified = change.times
        accessed = found.st_atime_ns if accessed == UNCHANGED else accessed
        os.utime(file, ns=(accessed, found.st_mtime_ns if modified == UNCHANGED else modified))
