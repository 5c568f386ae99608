"""Whether a file's own permissions refused a call: then no rule did, and none would allow it.

For telemetry only, as `SeenNames` is. The kernel looks at a file's mode before it asks any security module (Linux,
fs/namei.c, inode_permission), and guests have no capability to pass it over.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from ..capability import Capability
from ..native import looks
from ..policy import workspace
from ..policy.compiled import CompiledPolicy
from ..records import BrokerRecord
from .seen_names import OpenOwn, SeenNames

_SEARCH = 0o111
#: The bits of which one is needed of the file itself.
_NEEDED = {Capability.FS_READ: 0o444, Capability.FS_WRITE: 0o222, Capability.PROCESS_EXEC: 0o111}
#: What needs the bits to write to the directory, and to search it.
_OF_NAMES = (Capability.FS_CREATE, Capability.FS_DELETE)
_CHANGES = 0o222


class User(NamedTuple):
    """Whom the kernel takes a guest for, as this process sees it."""

    uid: int
    gids: frozenset[int]


def user_of(pid: int) -> User | None:
    """Return a process's user; None once it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("Uid:", "Gid:", "Groups:")))
        uids, gids = ([int(one) for one in fields[name].split()] for name in ("Uid", "Gid"))
        return User(uids[3], frozenset((gids[3], *map(int, fields["Groups"].split()))))  # of files: proc(5)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def refused_by_mode(
    record: BrokerRecord, policy: CompiledPolicy, own: OpenOwn | None, user: User | None = None
) -> bool:
    """Tell whether what a hook saw fail is what a file's own mode refuses, for sure: to everybody, or to its `user`.

    A directory is no program. Who does not own a file changes none of its metadata. `own` lends the workspace.
    """
    names, path = SeenNames(own, workspace.links(policy) if own is not None else ()), record.target
    if not path.startswith("/"):
        return False
    file = names.followed(path)
    if record.errno == errno.EPERM:
        return record.capability is Capability.FS_METADATA and user is not None and _is_anothers(file, user)
    needed = _NEEDED.get(record.capability)
    if record.errno != errno.EACCES or (needed is None and record.capability not in _OF_NAMES):
        return False
    if record.capability is Capability.PROCESS_EXEC and names.is_directory(file):
        return True
    above = os.path.dirname(file)
    if _withholds(names, *((above, _CHANGES) if needed is None else (file, needed)), user):
        return True
    while above != "/":
        if _withholds(names, above, _SEARCH, user):
            return True
        above = os.path.dirname(above)
    return False


def _withholds(names: SeenNames, path: str, bits: int, user: User | None) -> bool:
    """Tell whether a mode has none of these bits, for all users or this one. Access control lists may grant more."""
    if names.withholds(path, bits):
        return True
    if user is None or workspace.is_place(path):
        return False
    try:
        found = looks.lstat(path)
        if stat.S_ISLNK(found.st_mode) or looks.has_attribute(path, "system.posix_acl_access"):
            return False
    except OSError:
        return False
    of = 0o700 if found.st_uid == user.uid else 0o070 if found.st_gid in user.gids else 0o007
    return not found.st_mode & bits & of


def _is_anothers(path: str, user: User) -> bool:
    try:
        return not workspace.is_place(path) and looks.lstat(path).st_uid != user.uid
    except OSError:
        return False
