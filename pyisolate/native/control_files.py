"""Small files of the kernel, each read or written in one call, which lets go of the interpreter once: cgroups(7)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._native import ffi, lib

#: What nearly all of them have room in.
_BYTES = 4096


def read(path: str) -> str:
    """Return a file's text, 64 KiB of it at most. Raises OSError naming the file."""
    name, size = path.encode(errors="surrogateescape"), _BYTES
    text = ffi.new("char[]", size)
    got = lib.control_files_read(name, text, size)
    if got == size:  # a list of processes
        size = 1 << 16
        text = ffi.new("char[]", size)
        got = lib.control_files_read(name, text, size)
    if got < 0:
        raise OSError(-got, os.strerror(-got), path)
    return bytes(ffi.buffer(text, got)).decode()


def write(path: str, text: str) -> None:
    """Write a file in one call, as the kernel wants it. Raises OSError naming the file."""
    data = text.encode()
    done = lib.control_files_write(path.encode(errors="surrogateescape"), data, len(data))
    if done < 0:
        raise OSError(-done, os.strerror(-done), path)


def write_each(paths: Sequence[str], text: str) -> None:
    """Write the same into each file, in their order, up to the first that fails. Raises OSError naming that one."""
    data, failed = text.encode(), ffi.new("int *")
    names = "\0".join(paths).encode(errors="surrogateescape")
    done = lib.control_files_write_each(names, len(paths), data, len(data), failed)
    if done < 0:
        raise OSError(-done, os.strerror(-done), paths[failed[0]])
