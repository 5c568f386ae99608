"""What the grant of a name does not reach: its directory, its mount, and where it would be moved or linked.

A move or link from one mount to another, or one that widens what can be done with a file, is refused with EXDEV: by the
root view, where each place with rights of its own is a mount, and by Landlock.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..capability import Capability
from ..decision import Decision, DenialCode, Verdict

#: What the kernel compares of both places (linux/landlock.h, LANDLOCK_ACCESS_FS_REFER); METADATA is none of its rights.
_OF_FILES = (Capability.FS_READ, Capability.FS_WRITE, Capability.FS_EXEC)
#: What makes a mount of the root view writable.
_OF_MOUNTS = (Capability.FS_WRITE, Capability.FS_CREATE, Capability.FS_DELETE)
_OF_DIRECTORIES = (*_OF_FILES, Capability.FS_CREATE, Capability.FS_DELETE)


def widened(
    decide: Callable[[Capability, str], Decision], source: str, target: str, *, directory: bool
) -> list[Decision]:
    """Return the refusals, at `source`, of what its new directory grants: each must be granted where it comes from."""
    place = os.path.dirname(target)
    if os.path.dirname(source) == place:
        return []
    missing = [decide(capability, source) for capability in (_OF_DIRECTORIES if directory else _OF_FILES)]
    return [one for one in missing if one.code is not None and decide(one.capability, place).code is None]


def mounted_at(decide: Callable[[Capability, str], Decision], directory: str) -> str:
    """Return the outermost directory of the root view's mount that shows a directory.

    Above it more or less can be written or run, or nothing is shown.
    """

    def attributes(path: str) -> tuple[bool, ...]:
        shown, runs = (decide(one, path).code is None for one in (Capability.FS_LOOKUP, Capability.FS_EXEC))
        return shown, any(decide(one, path).code is None for one in _OF_MOUNTS), runs

    own = attributes(directory)
    while directory != "/" and attributes(above := os.path.dirname(directory)) == own:
        directory = above
    return directory


def writable(decide: Callable[[Capability, str], Decision], file: str) -> bool:
    """Tell whether a file's mount is writable in the root view."""
    return any(decide(one, file).code is None for one in _OF_MOUNTS)


def verdict(passed: bool) -> Verdict:
    """Return the verdict of a refusal: in monitor mode the call has passed."""
    return Verdict.WOULD_DENY if passed else Verdict.DENY


def of_folder(granted: Decision, verdict: Verdict) -> Decision:
    """Return the refusal of a granted name, and of what is done with it, by a directory that does not grant it."""
    folder = os.path.dirname(granted.target)
    hint = f"grant it on {folder}"
    if granted.capability is not Capability.FS_DELETE:
        hint += ", or make the file before the sandbox starts"
    return Decision(
        verdict=verdict,
        capability=granted.capability,
        target=granted.target,
        code=DenialCode.SCOPE_INSUFFICIENT,
        reason=f"its directory grants no making or removing of names, and the rule is of this one alone. Hint: {hint}",
        presented=granted.rule,
    )


def read_only(granted: Decision, file: str) -> Decision:
    """Return the refusal of a change of metadata that the policy grants for what may not be written."""
    return Decision(
        verdict=Verdict.DENY,
        capability=Capability.FS_METADATA,
        target=file,
        code=DenialCode.SCOPE_INSUFFICIENT,
        reason="what may not be written is mounted read-only, its metadata too. Hint: grant write as well",
        presented=granted.rule,
    )


def no_device(granted: Decision) -> Decision:
    """Return the refusal of a device file that the policy grants: no mount of the root view lets one be opened."""
    return Decision(
        verdict=Verdict.DENY,
        capability=granted.capability,
        target=granted.target,
        code=DenialCode.SCOPE_INSUFFICIENT,
        reason="a rule grants data and no device: what a sandbox is shown is mounted nodev",
        presented=granted.rule,
    )
