"""Calls that make, remove or move names, and wait for an answer: what is asked about each, and what a yes does.

A call that needs two things that no rule speaks of, as a move does, is two questions, one after the other. Not asked
about: what a rule speaks of, a name of which a rule denies anything (under another name it could be done), a move of
anything but a regular file or a directory, and a move or link to where more may be done with it, which no answer about
its names covers. Nor is a move of a directory in which the guest makes names itself, since links and pipes that it put
there are in no question, or of one in which, or in whose place, a rule speaks of anything: it would be about something
else afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import msgspec

from ..capability import Capability
from ..decision import DenialCode
from ..kernel.rootview.metadata import MetadataChange
from ..kernel.rootview.names import HostName, Identity, NameCall, NameChange, identity_of
from ..native.mount import RENAME_NOREPLACE
from ..policy import workspace
from ..policy.asking import NAMING
from ..policy.broker import Broker, is_asked_about
from ..policy.moves import widened
from ..policy.near_grants import FS_BITS
from ..policy.suggest import crosses
from ..records import Asked, Wanted

_REMOVES_DIRECTORY, _FOLLOWS = 0x200, 0x400  # AT_REMOVEDIR, AT_SYMLINK_FOLLOW, linux/fcntl.h
#: What is asked about as such.
_OF_NAMES = (Capability.FS_CREATE, Capability.FS_DELETE)
#: The calls that have two names.
_TWO = ("rename", "link")
#: The calls of which nothing may have the name.
_MAKING = ("mkdir", "symlink")
#: What lies there is another one for each process, or is no file: never the supervisor's for a guest.
_NOT_FILES = ("/proc", "/sys", "/dev")
#: A capability, the name, and where that is about the file that has it, which one.
Need = tuple[Capability, str, Identity | None]


class Named(msgspec.Struct, frozen=True):
    """A call, and what its guest needs for it that no rule speaks of."""

    change: NameChange | MetadataChange
    needs: tuple[Need, ...]
    #: all that it names
    paths: tuple[str, ...]
    #: what it needs, granted or not
    wanted: tuple[Wanted, ...] = ()
    #: what its names do not say, and contents
    detail: str = ""
    content: str = ""

    @property
    def anew(self) -> str | None:
        """The name that leads to another file after the call."""
        if isinstance(self.change, MetadataChange):
            return None
        new = self.change.at if self.change.call == "symlink" else self.change.to
        return None if new is None else os.path.join(new.directory, new.name)

    def also(self, need: Need) -> tuple[Wanted, ...]:
        """Return what it needs besides, for the suggestion; of a move between directories all, as no rule allows it."""
        if crosses(need[1], self.wanted):
            return self.wanted
        return tuple([one[:2] for one in self.needs if one is not need])

    def is_denied(self, broker: Broker) -> bool:
        """Tell whether a rule denies anything of what it names: what that is about could be done by another name."""
        return any(
            broker.decide(capability, path).code is DenialCode.EXPLICIT_DENY
            for capability in FS_BITS
            for path in self.paths
        )


class Name(msgspec.Struct, frozen=True):
    """A name as the guest wrote it, and where it lies: in a directory whose links are followed."""

    written: str
    path: str
    seen: os.stat_result | None
    on_host: HostName


def named_by(asked: Asked, broker: Broker, umask: int) -> Named | None:
    """Return the call if the host is to be asked about it; None: the kernel decides. Raises OSError, ValueError."""
    names = [name_of(one, broker) for one in (asked.target, asked.other) if one]
    call = _call_of(asked)
    if call is None or len(names) != (2 if call in _TWO else 1):
        return None
    at, to = names[0], names[-1]
    if (at.seen is None) != (call in _MAKING):
        return None  # EEXIST, ENOENT: nothing refuses it
    if at.seen is not None and call != "rename" and stat.S_ISDIR(at.seen.st_mode) != (call == "rmdir"):
        return None
    if call in _TWO and not _may_move(call, at, to, asked, broker):
        return None
    wanted = _wanted(call, at, to)
    needs = missing(wanted, broker)
    if not needs:
        return None
    text = os.fsdecode(asked.said) if call == "symlink" else ""
    change = NameChange(
        call=call,
        at=at.on_host,
        to=to.on_host if call in _TWO else None,
        mode=asked.mode & 0o777 & ~umask,
        text=text,
    )
    leads = _led_to(at, text) if call == "symlink" else ()
    paths = (*(path for one in names for path in (one.written, one.path)), *leads)
    detail = f"symbolic link to {text}" if call == "symlink" else ""
    named = Named(change, needs, paths, tuple([(one, name.path) for one, name in wanted]), detail)
    return None if named.is_denied(broker) else named


def _call_of(asked: Asked) -> NameCall | None:
    if asked.syscall.startswith("mkdir"):
        return "mkdir"
    if asked.syscall.startswith("rename"):
        return "rename" if asked.flags in (0, RENAME_NOREPLACE) else None
    if asked.syscall.startswith("symlink"):
        return "symlink"
    if asked.syscall.startswith("link"):
        return "link" if asked.flags in (0, _FOLLOWS) else None
    removes_directory = asked.syscall == "rmdir" or asked.flags == _REMOVES_DIRECTORY
    return "rmdir" if removes_directory else "unlink" if asked.syscall in NAMING and not asked.flags else None


def name_of(written: str, broker: Broker, *, follow: bool = False) -> Name:
    """Return a name as it lies on the host; `follow`: of what it leads to. Raises OSError, ValueError."""
    reached = workspace.as_reached(written, workspace.links(broker.policy))
    parent, _, last = reached.rstrip("/").rpartition("/")
    if last in ("", ".", "..") or not reached.isprintable():
        raise ValueError(f"{written!r} has no last part that is a name")
    directory = os.path.realpath(parent or "/")
    path = os.path.join(directory, last)
    if follow:
        path = os.path.realpath(path)
        directory, last = os.path.split(path)
    if not path.isprintable() or any(_is_elsewhere(one) for one in (reached, os.path.normpath(reached), path)):
        raise ValueError(f"{written!r} is not the host's for a guest")
    place = os.stat(directory, follow_symlinks=False)
    seen, found = _seen(path)
    if reached.endswith("/") and seen is not None and not stat.S_ISDIR(seen.st_mode):
        raise NotADirectoryError(written)
    return Name(reached, path, seen, HostName(directory, place.st_dev, place.st_ino, last, found))


def _seen(path: str) -> tuple[os.stat_result | None, Identity | None]:
    """Return what has a name, itself, and which file that is; None where nothing has it."""
    if not os.path.lexists(path):
        return None, None
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.fstat(file), identity_of(file)
    finally:
        os.close(file)


def _led_to(at: Name, text: str) -> tuple[str, ...]:
    """Return what a symbolic link would lead to: the file that it names, and where that leads now."""
    named = os.path.normpath(os.path.join(at.on_host.directory, text))
    leads = named, os.path.realpath(named)
    if not text or not text.isprintable() or any(map(_is_elsewhere, leads)):
        raise ValueError(f"a link to {text!r} is another one for each who follows it")
    return leads


def _is_elsewhere(path: str) -> bool:
    """Tell whether a name is another one for each process, or the sandbox's own."""
    return workspace.is_place(path) or is_no_file(path)


def is_no_file(path: str) -> bool:
    """Tell whether a name lies where another one is for each process, or no file is."""
    return any(path == one or path.startswith(one + "/") for one in _NOT_FILES)


def _may_move(call: NameCall, at: Name, to: Name, asked: Asked, broker: Broker) -> bool:
    if at.seen is None or (call == "link" and to.seen is not None):
        return False
    if to.seen is not None and (asked.flags & RENAME_NOREPLACE or stat.S_ISDIR(to.seen.st_mode)):
        return False
    directory = stat.S_ISDIR(at.seen.st_mode)
    if directory and not _may_move_directory(at, to, broker):
        return False
    if not directory and not stat.S_ISREG(at.seen.st_mode):
        return False  # where a link leads is not in its name, and who opens a pipe waits
    if any(
        _is_granted(broker, one, to) and not _is_granted(broker, one, at) for one in FS_BITS if one not in _OF_NAMES
    ):
        return False  # by a rule of the new name alone
    return not widened(broker.decide, at.path, to.path, directory=directory)


def _may_move_directory(at: Name, to: Name, broker: Broker) -> bool:
    if to.seen is not None or _is_granted(broker, Capability.FS_CREATE, at):
        return False
    policy = broker.policy
    spoken_of = [rule.path for rule in policy.fs] + [rule.unix_path for rule in policy.net if rule.unix_path]
    places = [f"{path}/" for name in (at, to) for path in (name.written, name.path)]
    return not any(f"{path}/".startswith(place) for path in spoken_of for place in places)


def _is_granted(broker: Broker, capability: Capability, name: Name) -> bool:
    return broker.decide(capability, name.path).code is None


def _wanted(call: NameCall, at: Name, to: Name) -> list[tuple[Capability, Name]]:
    """Return what a call needs, in the order of hooks."""
    of_first = {**dict.fromkeys(_MAKING, Capability.FS_CREATE), "link": Capability.FS_READ}.get(
        call, Capability.FS_DELETE
    )
    wanted = [(of_first, at)]
    if call in _TWO:
        wanted.append((Capability.FS_CREATE, to))
        if to.seen is not None:
            wanted.append((Capability.FS_DELETE, to))
    return wanted


def missing(wanted: Sequence[tuple[Capability, Name]], broker: Broker) -> tuple[Need, ...]:
    """Return what is asked about; nothing where a rule refuses some of it."""
    needs = []
    for capability, name in wanted:
        decisions = [broker.decide(capability, one) for one in (name.written, name.path)]
        if not any(one.refused for one in decisions):
            continue
        if not all(is_asked_about(broker.policy, one) for one in decisions):
            return ()
        needs.append((capability, name.path, None if capability in _OF_NAMES else name.on_host.found))
    return tuple(needs)
