"""What is under a name that a guest asked for: on the host, and below its workspace in the tmpfs that it alone has.

For telemetry only: it decides nothing, and waits for no server (`native/looks.py`). Names are looked up after the call,
and the guest may have changed them by then: what the listener met there as the call came counts more, and no call
followed a link that is younger.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import SandboxClosed
from ..native import looks, mount, places
from ..policy import workspace
from ..records import KernelRecord
from .shown_links import ShownLinks

#: Lends, for a guest's path in its workspace, a descriptor of a directory and the name below. Raises SandboxClosed.
OpenOwn = Callable[[str], AbstractContextManager[tuple[int, str]]]

#: Links below these lead where the guest's task says: this process's own /proc must not be asked about them.
_TASK = re.compile(r"/proc/(?:self|thread-self|[0-9]+)")
#: Names of one's own descriptors: who opens one asks for what it has open (native/src/preload/own_descriptor.h).
OWN_DESCRIPTOR = re.compile(r"/dev/(?:fd/[0-9]+|std(?:in|out|err))")
#: Where such a link leads only that task's own /proc says.
_THROUGH_TASK = re.compile(rf"{_TASK.pattern}/(?:cwd|root|fd/[0-9]+)/.+")
#: Links that no guest makes, which have the time of the last look.
_OF_KERNEL = ("/proc/", "/sys/")
_FIRST_LINE = 256  # BINPRM_BUF_SIZE, linux/binfmts.h
_TICK_NS = 10_000_000  # file systems look at the clock of the last tick; HZ=100 is the slowest
_READINGS = 3  # of two clocks, one after the other: a thread that has to rest in between finds too small a difference
_TRIES_NS = 60_000_000_000  # a guest may be kept waiting between its two tries of a call
_TRIES = 8  # of a look-up that another name's change may disturb
_LINK_LIMIT = 40  # path_resolution(7)


class SeenNames:
    """Looks names up. `own` lends the workspace, `leading` are the names that lead to it (`workspace.links`).

    `call`: on whose behalf; without one names are what they are now. `shown`: the links of the root view in which the
    guest looks, or would where the policy is enforced; without it, it sees the host's.
    """

    def __init__(
        self,
        own: OpenOwn | None = None,
        leading: tuple[str, ...] = (),
        call: KernelRecord | None = None,
        shown: ShownLinks | None = None,
    ) -> None:
        self._own, self._leading, self._call, self._shown = own, leading, call, shown
        self._unseen: set[str] = set()
        #: the name of a call's that its guest does not find -> what its links lead to
        self._leads_to: dict[str, str] = {}
        #: a directory that a name goes through and out of again, where the root view does not have it
        self.barred: str | None = None

    def is_there(self, path: str) -> bool:
        """Say whether something has this name. Where this process may not look, as often for an ordinary user: yes.

        Nor does it where it would wait for a server, or where a link of the task's leads: its own leads elsewhere.
        """
        if _THROUGH_TASK.fullmatch(path):
            return True
        try:
            self._look(path)
        except (PermissionError, BlockingIOError):
            return True
        except (OSError, ValueError, SandboxClosed):
            return False
        return True

    def is_seen(self, path: str) -> bool:
        """Say whether something has this name, for sure: not where this process may not look."""
        if _THROUGH_TASK.fullmatch(path):
            return False
        try:
            self._look(path)
        except (OSError, ValueError, SandboxClosed):
            return False
        return True

    def is_link(self, path: str) -> bool:
        """Say whether a name is a symbolic link's, for sure."""
        return self._link(path) is not None

    def acted_on(self, target: str, flags: int) -> str:
        """Return what a call with these flags is about: a link itself, or what it leads to, as `followed` does."""
        if target.rpartition("/")[2] in ("", ".", ".."):
            return self.followed(target)
        if flags & os.O_NOFOLLOW or (flags & os.O_EXCL and flags & os.O_CREAT):
            return self.in_folder(target) or self.followed(target)
        name = self.in_folder(target) if self._call is not None else None
        if name is None or self._call is None or self._call.met is None:
            return self.followed(target)
        if self._call.met == "link" and not self._call.link:  # of two names
            return self.followed(target)
        if self._call.met == "link":
            return self._in_view(self.followed(os.path.join(os.path.dirname(name), self._call.link)), {name: name})
        # a view may have something else in the place of a link of the host's, but no link that came since
        return name if self.is_link(name) and not self._is_older(name) else self.followed(target)

    def is_directory(self, path: str) -> bool:
        """Say whether a name, whose links are followed already, is a directory's."""
        if not self._is_own(path):
            return looks.is_directory(path)
        try:
            return stat.S_ISDIR(self._look(path)[0].st_mode)
        except (OSError, ValueError, SandboxClosed):
            return False

    def is_device(self, path: str) -> bool:
        """Say whether a name is a device file's, for sure."""
        try:
            mode = self._look(path)[0].st_mode
        except (OSError, ValueError, SandboxClosed):
            return False
        return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)

    def withholds(self, path: str, bits: int) -> bool:
        """Say whether a name's own mode has these bits for no user at all, for sure; no where a link has the name."""
        try:
            mode = self._look(path)[0].st_mode
        except (OSError, ValueError, SandboxClosed):
            return False
        return not stat.S_ISLNK(mode) and not mode & bits

    def on_one_file_system(self, one: str, other: str) -> bool:
        """Say whether two directories of the host are on one file system; no where one is the workspace's, or gone."""
        if self._is_own(one) or self._is_own(other):
            return False
        try:
            return looks.stat(one).st_dev == looks.stat(other).st_dev
        except OSError:
            return False

    def born_after(self, path: str, monotonic_ns: int) -> bool:
        """Say whether a name's file was made by a call of that time, or later; no where that is not known."""
        born = self._born_ns(path)
        return bool(born) and born > _at(monotonic_ns)

    def is_just_made(self, path: str, monotonic_ns: int) -> bool:
        """Say whether a file may have been made by the first try of a call of that time: empty, and as it was made."""
        born = self._born_ns(path)
        try:
            state = self._look(path)[0]
        except (OSError, ValueError, SandboxClosed):
            return False
        as_made = state.st_size == 0 and state.st_mtime_ns == born
        return as_made and born > _at(monotonic_ns) - _TRIES_NS

    def removed_since(self, target: str, monotonic_ns: int) -> str | None:
        """Return a name, links followed, below a folder from which something was removed since a call; else None."""
        path = folder = self.followed(target)
        while not self.is_there(folder):
            folder = os.path.dirname(folder)
        try:
            return path if looks.stat(folder).st_mtime_ns > _at(monotonic_ns) else None
        except OSError:
            return None

    def stood_before(self, path: str, monotonic_ns: int, *, new: bool = True) -> bool:
        """Say whether a name was there before a call of that time; no where that is not known.

        `new`: what would have made it makes a file, and no other name of one.
        """
        if not self._is_own(path):  # not every file system says when it was made
            changed = self._changed_ns(path)
            if changed and changed <= _at(monotonic_ns):
                return True
        born = self._born_ns(path) if new else 0
        return bool(born) and born <= _at(monotonic_ns)

    def _born_ns(self, path: str) -> int:
        try:
            with self._found(path) as found:
                return places.born("", dir_fd=found)
        except (OSError, ValueError, SandboxClosed):
            return 0

    def interpreter(self, path: str) -> str | None:
        """Return the program that a script's first line names; None for any other file, or where it names no path."""
        try:
            with self._found(path) as found:
                first = _first_line(found) if stat.S_ISREG(os.fstat(found).st_mode) else b""
        except (OSError, ValueError, SandboxClosed):
            return None
        words = first[2:].partition(b"\n")[0].split(None, 1) if first.startswith(b"#!") else []
        return os.fsdecode(words[0]) if words and words[0].startswith(b"/") else None

    @contextlib.contextmanager
    def _found(self, path: str) -> Iterator[int]:
        """Lend an O_PATH descriptor: to open a name for reading wakes who waits at a FIFO, and acts on a device."""
        if self._own is None or not self._is_own(path):
            with looks.opened(path, os.O_PATH) as found:
                yield found
            return
        with self._own(path) as (top, name):
            found = _opened_from_memory(top, name)
        try:
            yield found
        finally:
            os.close(found)

    def in_folder(self, target: str) -> str | None:
        """Return a name with its folder's links followed, not its own; None where the folder is not there."""
        if not target.startswith("/"):
            return None
        parent, _, last = target.rstrip("/").rpartition("/")
        path = os.path.join(self.followed(parent or "/"), last)
        return path if self.is_there(os.path.dirname(path)) else None

    def followed(self, path: str) -> str:
        """Return a path with its links followed, as hooks do; what lies below a task in /proc stays as it was asked.

        A link that the root view lacks is not followed: no guest gets anywhere by it.
        """
        if OWN_DESCRIPTOR.fullmatch(path):
            return path
        pending, done, links = path.split("/")[::-1], "", 0
        met: dict[str, str] = {}
        absent: str | None = None  # and all below it, of which nothing is looked at: a name has two thousand parts
        while pending:
            name = pending.pop()
            if name in ("", ".", ".."):
                if name == ".." and self.barred is None and absent is None and self._is_barred(done):
                    self.barred = done
                if name == "..":
                    absent = None if done == absent else absent
                    done = done.rpartition("/")[0]
                continue
            done = f"{done}/{name}"
            if _TASK.fullmatch(done) and (below := _still(pending))[:1] != [".."]:
                return "/".join([done, *below])
            if absent is not None:
                continue
            target, is_there = self._met_there(done)
            absent = None if is_there or self._leads_to_own(done) else done
            if target is None or self._came_later(done):
                continue
            links += 1
            if links > _LINK_LIMIT:
                continue
            if done not in self._leading:
                met["/".join([done, *_still(pending)])] = done
            done = "" if target.startswith("/") else done.rpartition("/")[0]
            pending += target.split("/")[::-1]
        return self._in_view(done or "/", met)

    def _in_view(self, path: str, met: dict[str, str]) -> str:
        """Return a path if the guest's view has the links by which it was come to; else the name that it does not find.

        `met`: the name at each link, with what was still to be followed -> the link. A rule for that name grants what
        the link leads to as well. In monitor mode hooks see where it leads, and name what no rule grants there.
        """
        shown = self._shown
        if not met or shown is None:
            return path
        granted = shown.grants(path)
        unseen = (
            next((name for name, link in met.items() if shown.lacks(link)), None) if granted or shown.hides else None
        )
        if unseen is None:
            return path
        self._leads_to[unseen] = path
        if granted:
            self._unseen.add(unseen)
        return unseen

    def leads_to(self, path: str) -> str:
        """Return what a name leads to by a link that the root view lacks, where it was followed here; else itself."""
        return self._leads_to.get(path, path)

    def _is_barred(self, directory: str) -> bool:
        """Say whether a directory of the host's, whose links are followed, is one that no guest can go through."""
        return self._shown is not None and bool(directory) and self._shown.lacks(directory) and self.is_seen(directory)

    def is_by_unseen_link(self, path: str) -> bool:
        """Say whether a name was found here to lead to what is granted by a link that the root view lacks."""
        return any(path == one or path.startswith(f"{one}/") for one in self._unseen)

    def _link(self, path: str) -> str | None:
        """Return what a link says; None for what is none, or is not there."""
        return self._met_there(path)[0]

    def _leads_to_own(self, path: str) -> bool:
        """Say whether a name of the sandbox's own lies below one that the host need not have."""
        return any(one.startswith(f"{path}/") for one in (workspace.HOME, *self._leading))

    def _met_there(self, path: str) -> tuple[str | None, bool]:
        """Return what a link says, None for what is none; and False where nothing has this name, for sure."""
        if path in self._leading:
            return workspace.HOME, True
        try:
            return (looks.readlink(path) if not self._is_own(path) else self._look(path)[1]), True
        except (FileNotFoundError, NotADirectoryError):
            return None, False
        except (OSError, ValueError, SandboxClosed):
            return None, True

    def _is_own(self, path: str) -> bool:
        """Say whether a name is in the sandbox's own workspace."""
        return self._own is not None and (path == workspace.HOME or path.startswith(workspace.HOME + "/"))

    def _look(self, path: str) -> tuple[os.stat_result, str | None]:
        """Return a name's state, and what it says if it is a link of the workspace. Raises OSError, SandboxClosed."""
        if not self._is_own(path):
            return looks.lstat(path), None
        with self._found(path) as found:
            state = os.fstat(found)
            return state, os.readlink("", dir_fd=found) if stat.S_ISLNK(state.st_mode) else None

    def _changed_ns(self, path: str) -> int:
        """Return when a name's own state was changed last, as its making is; 0 where that is not known."""
        try:
            return self._look(path)[0].st_ctime_ns
        except (OSError, ValueError, SandboxClosed):
            return 0

    def _is_older(self, path: str) -> bool:
        """Say whether a name surely is as it was before the call."""
        if path.startswith(_OF_KERNEL):
            return True
        changed = self._changed_ns(path)
        return self._call is None or (bool(changed) and changed <= _at(self._call.monotonic_ns))

    def _came_later(self, path: str) -> bool:
        """Say whether a link is none that the call met: a younger one, and where it is known that no link was met."""
        call = self._call
        if call is None or not call.monotonic_ns or path in self._leading or path.startswith(_OF_KERNEL):
            return False
        if call.met is not None and call.target.startswith(f"{path}/"):
            return not self._is_older(path)
        return self._changed_ns(path) > _at(call.monotonic_ns) + _TICK_NS


def _still(pending: list[str]) -> list[str]:
    """Return the parts that are still to be followed, in order; the next one is last in `pending`."""
    return [one for one in reversed(pending) if one not in ("", ".")]


def _opened_from_memory(top: int, name: str) -> int:
    """Open what a directory of a tmpfs has, by O_PATH, and wait for no lock that a guest holds. Raises OSError.

    All that is there is in memory. What is not found at once is not there, unless a name was changed just then.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            return mount.openat2(name, os.O_PATH | os.O_NOFOLLOW, mount.BENEATH | mount.RESOLVE_CACHED, dirfd=top)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _first_line(found: int) -> bytes:
    """Return the start of a file that is there, by an O_PATH descriptor of it. Raises OSError."""
    file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _FIRST_LINE)
    finally:
        os.close(file)


def _at(monotonic_ns: int) -> int:
    """Return a time of CLOCK_MONOTONIC as file systems would have written it, at the earliest (ns since 1970)."""
    between = max(time.time_ns() - time.monotonic_ns() for _ in range(_READINGS))
    return between + monotonic_ns - _TICK_NS
