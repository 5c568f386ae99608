"""A file that is mapped as code, as the listener saw it, and what the policy makes of it; see `observed_files`."""

from __future__ import annotations

import errno

import msgspec

from ..capability import Capability
from ..decision import Verdict
from ..policy.broker import Broker
from ..records import KernelRecord
from .observed_looks import refused

#: What the kernel adds to the name of an open file that has none any more (Linux, fs/d_path.c).
_GONE = " (deleted)"


def is_mapped_code(record: KernelRecord) -> bool:
    """Tell whether the record is one of a file that was to be mapped as code."""
    return record.syscall == "mmap" and record.capability is Capability.IMPORT_NATIVE


def judged(record: KernelRecord, broker: Broker) -> KernelRecord:
    """Return the record as a denial where the root view refused the mapping, or would have in monitor mode.

    Where a rule grants the file, its own file system is mounted noexec at the host, and no rule would change that.
    Enforcing lets no code be mapped from what it lets not be read: that refusal comes first.
    """
    path = record.target.removesuffix(_GONE)
    decision = broker.decide(Capability.IMPORT_NATIVE, path)
    if decision.code is None or not path.startswith("/"):
        return record
    passed = decision.verdict is Verdict.WOULD_DENY
    if passed and broker.decide(Capability.FS_READ, path).code is not None:
        return record
    if passed and record.slot_verdict is Verdict.WOULD_DENY:
        return record  # the hook that was asked about the library has reported it
    if not passed and not record.errno:
        return record
    found = refused(record, decision, path)
    return msgspec.structs.replace(found, enforcer="root view", errno=0 if passed else errno.EPERM)
