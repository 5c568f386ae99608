"""Whether a file's own permissions refused a call: then no rule did, and none would allow it.

For telemetry only, as `SeenNames` is. The kernel looks at a file's mode before it asks any security module (Linux,
fs/namei.c, inode_permission), and guests have no capability to pass it over.
"""

from __future__ import annotations

import errno
import os

from ..capability import Capability
from ..policy import workspace
from ..policy.compiled import CompiledPolicy
from ..records import BrokerRecord
from .seen_names import OpenOwn, SeenNames

_SEARCH = 0o111
#: The bits of which one is needed of the file itself.
_NEEDED = {Capability.FS_READ: 0o444, Capability.FS_WRITE: 0o222, Capability.PROCESS_EXEC: 0o111}


def refused_by_mode(record: BrokerRecord, policy: CompiledPolicy, own: OpenOwn | None) -> bool:
    """Tell whether what a hook saw fail is what the mode of a file refuses to everybody, for sure.

    A mode that grants something to other users says nothing here. A directory is no program. `own` lends the workspace.
    """
    names, path = SeenNames(own, workspace.links(policy) if own is not None else ()), record.target
    needed = _NEEDED.get(record.capability)
    if record.errno != errno.EACCES or needed is None or not path.startswith("/"):
        return False
    file = names.followed(path)
    if record.capability is Capability.PROCESS_EXEC and names.is_directory(file):
        return True
    if names.withholds(file, needed):
        return True
    above = file
    while (above := os.path.dirname(above)) != "/":
        if names.withholds(above, _SEARCH):
            return True
    return False
