"""Making, locking and removing the directories of control groups; a dead supervisor's are swept by the next one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import signal
import time

from ..native.control_files import read, write
from . import hierarchy

log = logging.getLogger("pyisolate.limits.cgroup")

#: Extended attribute of every directory that a supervisor makes, with the directory's own name as its value: what only
#: happens to be called alike is another program's. (xattr(7); user attributes of control groups since Linux 5.7)
MARK = "user.pyisolate"
#: A leaf into which the host process itself moved (`CgroupTree`): who is in it is no guest.
HOST_LEAF = ".host"

#: A sandbox's group beside its tree (`Layout.group`).
_BESIDE = re.compile(r"(?P<tree>.+\.[0-9]+\.[0-9]+)\.s[0-9]+")

#: The kernel removes a process from its group shortly after SIGKILL; uninterruptible I/O can take longer.
EMPTY_WITHIN_S = 1.0


def sweep(prefix: str = "pyisolate", layout: hierarchy.Layout | None = None) -> list[str]:
    """Remove the trees of dead supervisors, with the processes left in them. Return what was removed.

    A tree bears our mark. A living supervisor holds an flock on its directories, which holds across pid namespaces and
    recycled pids.
    """
    removed = []
    for parent in (layout or hierarchy.detect()).parents:
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                if name.startswith(f"{prefix}.") and _sweep_one(f"{parent}/{name}"):
                    removed.append(f"{parent}/{name}")
            for tree in _without_tree(parent, prefix):
                with contextlib.suppress(OSError):
                    os.close(make_locked(f"{parent}/{tree}"))  # then it is a dead supervisor's like any other
                    if _sweep_one(f"{parent}/{tree}"):
                        removed.append(f"{parent}/{tree}")
    # A dead supervisor of another service has its other directories below that service's groups.
    for name in {os.path.basename(directory) for directory in removed}:
        removed += [directory for directory in hierarchy.named(name) if _sweep_one(directory)]
    return removed


def _sweep_one(directory: str) -> bool:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not _bears_mark(fd, directory):
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if directory.endswith(HOST_LEAF):
            return _remove_one(directory)
        return _remove_beside(directory) and _remove_tree(directory)
    except OSError:
        return False
    finally:
        os.close(fd)


def _bears_mark(fd: int, directory: str) -> bool:
    """Say whether one of us made a directory. Raise OSError where it has no such attribute, or cannot have any."""
    return os.getxattr(fd, MARK) == os.path.basename(directory).encode()


def mark(directory: int | str, name: str) -> None:
    """Mark a directory as ours, with its tree's name; one without (Linux before 5.7) stays when this process dies."""
    with contextlib.suppress(OSError):
        os.setxattr(directory, MARK, name.encode())


def _without_tree(parent: str, prefix: str) -> set[str]:
    """Return the trees of which only groups beside them are there, by the mark that these bear."""
    found = set()
    for name in os.listdir(parent):
        if (is_group := _BESIDE.fullmatch(name)) and name.startswith(f"{prefix}."):
            tree = is_group["tree"]
            with contextlib.suppress(OSError):  # no mark
                if os.getxattr(f"{parent}/{name}", MARK) == tree.encode() and not os.path.exists(f"{parent}/{tree}"):
                    found.add(tree)
    return found


def _remove_beside(directory: str) -> bool:
    """Remove the groups of a dead supervisor that lie beside its tree (`Layout.group`): they bear the tree's name."""
    parent, tree = os.path.split(directory)
    beside = [f"{parent}/{name}" for name in os.listdir(parent) if name.startswith(f"{tree}.")]
    removed = True
    for one in beside:
        try:
            marked = os.getxattr(one, MARK) == tree.encode()
        except OSError as error:
            if error.errno == errno.ENODATA and _BESIDE.fullmatch(os.path.basename(one)):
                _remove_one(one)  # who made it was killed in the middle: no process was in it
            continue
        if marked:
            removed = _remove_tree(one) and removed
    return removed


def _remove_tree(directory: str) -> bool:
    """End what runs below a directory and remove it, children first."""
    for entry in os.listdir(directory):
        if os.path.isdir(f"{directory}/{entry}"):
            _remove_tree(f"{directory}/{entry}")
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while not _remove_one(directory):
        with contextlib.suppress(OSError):
            _kill_all(directory)
        if time.monotonic() > deadline:
            log.warning("control group %s of a dead supervisor cannot be emptied", directory)
            return False
        time.sleep(0.002)
    return True


def _kill_all(directory: str) -> None:
    if os.path.exists(f"{directory}/cgroup.kill"):
        write(f"{directory}/cgroup.kill", "1")
        return
    for pid in map(int, read(f"{directory}/cgroup.procs").split()):
        # 0 stands for a process of a pid namespace that is not ours to see; kill(0) would be our own group.
        if pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def make_locked(directory: str) -> int:
    """Make a directory and lock it against `sweep`. Another supervisor's sweep can win the moment between the two."""
    for _ in range(100):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(directory) and os.fstat(fd).st_ino == os.stat(directory).st_ino:
                mark(fd, os.path.basename(directory))
                return fd
        except (BlockingIOError, FileNotFoundError):
            time.sleep(0.001)
        os.close(fd)
    raise OSError(errno.EAGAIN, "other supervisors keep removing this control group", directory)


def _remove_one(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_directories(directories: list[str]) -> bool:
    """Remove what is empty; say whether all are gone."""
    left = [directory for directory in directories if not _remove_one(directory)]
    return not left
