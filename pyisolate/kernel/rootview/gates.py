"""Gates of one sandbox's programs: what its host is asked about lies on noexec mounts, until an answer opens one.

Mounts change in their own mount namespace alone, and names in a tree below another one would begin with where it is.
So a process holds the namespace whose uppermost root the sandbox's tree is, for as long as the supervisor keeps its
socket. A sandbox has a tree of its own: a gate that is opened is open for no other.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading

from ...errors import EnforcementError
from ...native import mount, process
from ...native.result import advice

_ORDER = struct.Struct("<?H")
#: A gate takes some microseconds to open; a machine may be busy (seconds).
_TIMEOUT_S = 30.0


def hold(tree: int, paths: tuple[str, ...]) -> socket.socket:
    """Fork what holds a tree with gates; return the socket that orders them. Its end ends the process.

    Raises OSError where the tree could not be mounted.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        if os.fork() == 0:
            status = 1
            try:
                status = _hold(tree, paths, theirs)
            finally:
                os._exit(status)
    said = ours.recv(1)
    if said != b"\0":
        ours.close()
        number = said[0] if said else errno.ECHILD
        raise OSError(number, os.strerror(number))
    return ours


def _hold(tree: int, paths: tuple[str, ...], peer: socket.socket) -> int:
    process.set_name("pyisolate-gates")
    process.close_all_but(tree, peer.fileno())
    try:
        mount.unshare(process.CLONE_NEWNS)
        mount.move_mount(tree, "/")  # on top, where no path of this process leads
        gates = [mount.openat2(path[1:], os.O_PATH, mount.RESOLVE_NO_SYMLINKS, dirfd=tree) for path in paths]
    except OSError as error:
        peer.send((error.errno or 255).to_bytes(1))
        return 1
    peer.send(b"\0")
    while data := peer.recv(_ORDER.size):
        opens, index = _ORDER.unpack(data)
        number = 0
        try:
            if opens:
                mount.mount_setattr(gates[index], 0, clear=mount.MOUNT_ATTR_NOEXEC)
            else:
                mount.mount_setattr(gates[index], mount.MOUNT_ATTR_NOEXEC)
        except OSError as error:
            number = error.errno or 255
        peer.send(number.to_bytes(1))
    return 0


class Gates:
    """The supervisor's side of one sandbox's gates. Thread-safe; all are shut when it begins."""

    def __init__(self, peer: socket.socket, paths: tuple[str, ...]) -> None:
        peer.settimeout(_TIMEOUT_S)
        self._peer, self._numbers = peer, {path: number for number, path in enumerate(paths)}
        self._lock = threading.Lock()

    def has(self, path: str) -> bool:
        """Tell whether a program has a gate."""
        return path in self._numbers

    def open(self, path: str) -> None:
        """Let a program run. Raises EnforcementError."""
        self._order(path, opens=True)

    def shut(self, path: str) -> None:
        """Let it run no more; what runs goes on. Raises EnforcementError."""
        self._order(path, opens=False)

    def _order(self, path: str, *, opens: bool) -> None:
        number: int | None
        try:
            with self._lock:
                self._peer.send(_ORDER.pack(opens, self._numbers[path]))
                said = self._peer.recv(1)
            number = said[0] if said else None
        except OSError as error:
            number = error.errno
        if number == 0:
            return
        self.close()  # without who holds it, nothing in the tree can be reached
        why = os.strerror(number) if number else "the process that holds it has ended"
        raise EnforcementError(
            f"{'open' if opens else 'shut'} the gate, on {path}: {why}",
            missing="root view",
            errno=number,
            hint=advice(number) or "spawn the sandbox anew",
        )

    def close(self) -> None:
        """End who holds the tree; its mounts go. Idempotent."""
        with self._lock:  # a call that waits for an answer reads from no other's descriptor
            self._peer.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copy, although another thread may have held the lock."""
        self._peer.close()


#: The stager does not wait for those that hold trees: they end on their own.
def reap_unasked() -> None:
    """Have the kernel reap this process's children."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
