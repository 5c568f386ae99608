"""Descriptors that arrive in messages, close-on-exec from the first moment, and none lost in silence."""

from __future__ import annotations

import array
import socket

_SIZE = array.array("i").itemsize


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
