"""Mounts by path and by descriptor, and entering a root.

Sources: mount(2), umount2(2), open_tree(2), move_mount(2), mount_setattr(2), fsopen(2), openat2(2), linux/mount.h,
linux/openat2.h. First kernel: 5.12 (mount_setattr, the youngest of them).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import _native
from .result import check

# sys/mount.h (mount(2))
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20
MS_SLAVE = 1 << 19
MNT_DETACH = 2  # umount2(2)

# linux/mount.h: attributes of mount_setattr(2) and fsmount(2)
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10

# linux/mount.h, linux/fcntl.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# linux/fs.h
RENAME_NOREPLACE = 1

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20  # Linux 5.12
#: A name beneath a directory that others fill: no link is followed, and nothing mounted in it is entered.
BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

_ffi, _lib = _native.ffi, _native.lib


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """Mount, bind, remount or change propagation, as mount(2)."""
    arguments = [_ffi.NULL if text is None else os.fsencode(text) for text in (source, fstype, data)]
    result = _lib.mount_mount(arguments[0], os.fsencode(target), arguments[1], flags, arguments[2])
    check(result, "mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """Unmount; MNT_DETACH hides it now and frees it when its last user ends."""
    check(_lib.mount_umount2(os.fsencode(target), flags), "umount2", target)


def unshare(flags: int) -> None:
    """Move this process into new namespaces (CLONE_NEW* bits). CLONE_NEWUSER needs a single-threaded process."""
    check(_lib.mount_unshare(flags), "unshare", f"flags {flags:#x}")


def open_tree(path: str = "", *, dirfd: int = AT_FDCWD, recursive: bool = False) -> int:
    """Return a close-on-exec descriptor of a detached copy of the mount at `path`, or at `dirfd` itself when empty.

    `recursive` copies the mounts below too. The copy stays mounted while the descriptor is open.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    return check(_lib.mount_open_tree(dirfd, os.fsencode(path), flags), "open_tree", path or f"descriptor {dirfd}")


def new_tmpfs(options: Mapping[str, str], attributes: int = 0) -> int:
    """Return a close-on-exec descriptor of a detached tmpfs. `options` as in tmpfs(5), `attributes` MOUNT_ATTR_*."""
    keys = [_ffi.new("char[]", key.encode()) for key in options]
    values = [_ffi.new("char[]", value.encode()) for value in options.values()]
    result = _lib.mount_new_tmpfs(
        _ffi.new("const char *[]", keys), _ffi.new("const char *[]", values), len(keys), attributes
    )
    return check(result, "mount", "tmpfs")


def move_mount(tree_fd: int, target: str, *, dirfd: int = AT_FDCWD) -> None:
    """Attach a detached mount at `target` (relative to `dirfd`)."""
    result = _lib.mount_move(tree_fd, b"", dirfd, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    check(result, "move_mount", target)


def mount_setattr(
    tree_fd: int, attributes: int, *, clear: int = 0, propagation: int = 0, recursive: bool = False
) -> None:
    """Set MOUNT_ATTR_* on the mount of `tree_fd`, and below it when `recursive`."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    result = _lib.mount_setattr_(tree_fd, b"", flags, attributes, clear, propagation)
    check(result, "mount_setattr", f"{attributes:#x}")


def openat2(path: str, flags: int, resolve: int, *, dirfd: int = AT_FDCWD) -> int:
    """Open as openat2(2): `resolve` bounds where symbolic links and `..` may lead. O_CLOEXEC is added."""
    return check(_lib.mount_openat2(dirfd, os.fsencode(path), flags | os.O_CLOEXEC, resolve), "openat2", path)


def renameat2(from_fd: int, name: str, to_fd: int, new_name: str, flags: int = 0) -> None:
    """Move a name from one directory to another (RENAME_* flags)."""
    result = _lib.mount_renameat2(from_fd, os.fsencode(name), to_fd, os.fsencode(new_name), flags)
    check(result, "rename", name)


def chown(fd: int, uid: int, gid: int) -> None:
    """Give what a descriptor is about, a symbolic link itself included, to a user and group."""
    check(_lib.mount_chown(fd, uid, gid), "chown", f"descriptor {fd}")


def enter_root(tree_fd: int) -> None:
    """Make the tree of `tree_fd` this process's root and working directory. Needs CAP_SYS_CHROOT."""
    check(_lib.mount_enter_root(tree_fd), "chroot", f"descriptor {tree_fd}")
