"""Descriptors that arrive in messages, close-on-exec from the first moment, and none lost in silence; locks of files
that a guest may lock, too."""

from __future__ import annotations

import array
import fcntl
import socket
import time

_SIZE = array.array("i").itemsize
#: Between two tries to have a lock (seconds).
_PAUSE_S = 0.01


def lock_within(descriptor: int, timeout_s: float) -> bool:
    """Lock an open file against all others (flock(2)); False where somebody holds the lock for so long.

    It takes no right to write, so a guest that may read the file can hold it for ever.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_S)
        else:
            return True


def receive(peer: socket.socket, size: int, most: int) -> tuple[bytes, list[int], bool]:
    """Receive up to `size` bytes and `most` descriptors; True beside them where the kernel dropped others.

    It drops what does not fit under this process's RLIMIT_NOFILE (or in `most`), and says so by MSG_CTRUNC alone.
    No program that another thread starts inherits them: `socket.recv_fds` marks them later, as it
    ignores its flags before Python 3.12.
    """
    data, control, flags, _ = peer.recvmsg(size, socket.CMSG_LEN(most * _SIZE), socket.MSG_CMSG_CLOEXEC)
    if not control:
        return data, [], bool(flags & socket.MSG_CTRUNC)
    found: array.array[int] = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(payload[: len(payload) - len(payload) % _SIZE])
    return data, list(found), bool(flags & socket.MSG_CTRUNC)
