"""The process of the root view builder: forks a worker for each request that `RootViewBuilder` (`view.py`) hands over.

It lives in a mount namespace of its own (in a user namespace too, where the supervisor is an ordinary user). A request
comes with a socket of its own, on which its worker reads and answers it (`worker`). The forker waits for none: a worker
that waits for a file system, which a guest may have a hand in, holds up no other.

Single-threaded by construction (a fresh process, no thread is ever started): unshare(CLONE_NEWUSER) needs that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import time

import msgspec

from ...native import mount, process
from ...native.descriptors import receive
from ...policy import workspace
from ..probe_child import Child, ending, say
from . import stager as stage
from .build import TMPFS
from .worker import Reply, from_error, send, work

#: What comes with a request's socket: whether its worker needs the stager; or the question whether this process serves.
WITHOUT_STAGER, WITH_STAGER, PING = b"1", b"s", b"p"
#: more than an error's text takes
_LINE_BYTES = 4096
#: A worker that was killed is gone at once, unless its file system keeps it.
_END_TIMEOUT_S = 1.0


class _Worker(msgspec.Struct, frozen=True):
    pid: int
    #: the end of the request's socket that the worker has
    asked: socket.socket


class _Stager(msgspec.Struct, frozen=True):
    pid: int
    orders: socket.socket

    def lives(self) -> bool:
        ended = select.poll()
        ended.register(self.orders, 0)
        return not ended.poll(0)

    def end(self) -> None:
        """End it; else it would be a zombie of a host that orphans come to. A worker may hold a copy of the socket."""
        with contextlib.suppress(OSError):
            self.orders.shutdown(socket.SHUT_RDWR)
        self.orders.close()
        process.wait_ended(self.pid)


def main(descriptor: int) -> None:
    """Serve requests that come on `descriptor` until the supervisor closes its end."""
    process.reset_signals()
    # The kernel refuses to pass descriptors where a user has more of them in flight than this (unix(7), ETOOMANYREFS).
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with socket.socket(fileno=descriptor) as peer:
        Forker(peer).serve()


class Forker:
    """The process's loop: takes requests, forks a worker for each, and tells of those that end without an answer."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        #: by a descriptor that says when they end
        self._workers: dict[int, _Worker] = {}
        self._stager: _Stager | None = None
        self._poll = select.poll()
        self._poll.register(peer, select.POLLIN)
        self._place: int | None = None
        self._trouble = _enter_namespaces()
        if self._trouble is None:
            try:
                self._place = _place_of_workspaces()
            except OSError as error:
                self._trouble = error

    def serve(self) -> None:
        """Serve until the supervisor goes, and end what is left."""
        serves = True
        try:
            while serves:
                for descriptor, _events in self._poll.poll():
                    if descriptor == self._peer.fileno():
                        serves = self._take()
                    else:
                        self._reap(descriptor)
        finally:
            self._end()

    def _take(self) -> bool:
        try:
            kind, given, _dropped = receive(self._peer, 1, 1)
        except ConnectionResetError:
            return False
        if not given:  # the kernel dropped it: the supervisor sees its socket's end
            return bool(kind)
        asked = socket.socket(fileno=given[0])
        try:
            if kind == PING:
                _tell(asked, kind)
            elif self._trouble is not None:
                _answer(asked, from_error(self._trouble))
            else:
                self._fork(asked, with_stager=kind == WITH_STAGER)
                return True
        except OSError as error:
            _answer(asked, from_error(error))
        asked.close()
        return True

    def _fork(self, asked: socket.socket, *, with_stager: bool) -> None:
        """Fork a worker, which has the socket, too. Raises OSError where that cannot be."""
        stager, forker = self._stager_for_build() if with_stager else None, os.getpid()
        if (pid := os.fork()) == 0:
            try:
                process.end_with_parent(forker)
                self._leave()
                work(asked, self._place, stager)
            finally:
                os._exit(1)
        try:
            ended = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            process.wait_ended(pid)
            raise
        self._workers[ended] = _Worker(pid, asked)
        self._poll.register(ended, select.POLLIN)

    def _leave(self) -> None:
        """In a worker: close what ends of others are seen by, which must not wait for this one."""
        self._peer.close()
        for ended, one in self._workers.items():
            os.close(ended)
            one.asked.close()

    def _stager_for_build(self) -> socket.socket:
        if self._stager is not None and not self._stager.lives():
            self._stager.end()
            self._stager = None
        if self._stager is None:
            others = {one.asked.fileno() for one in self._workers.values()}
            self._stager = _Stager(*stage.start({self._peer.fileno(), *others, *self._workers}))
        return self._stager.orders

    def _reap(self, ended: int) -> None:
        """Close what a worker had that has ended; tell of it where that was without an answer."""
        worker = self._workers.pop(ended)
        self._poll.unregister(ended)
        os.close(ended)
        if status := process.wait_ended(worker.pid):
            _answer(worker.asked, ended_without_answer(status))
        worker.asked.close()

    def _end(self) -> None:
        """Kill the workers, and wait for those that no file system keeps."""
        for one in self._workers.values():
            os.kill(one.pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_TIMEOUT_S
        for ended, one in self._workers.items():
            left = select.poll()
            left.register(ended, select.POLLIN)
            if left.poll(max(0.0, deadline - time.monotonic()) * 1000):
                process.wait_ended(one.pid)
        if self._stager is not None:
            self._stager.end()


def _tell(asked: socket.socket, said: bytes) -> None:
    with contextlib.suppress(OSError):  # it was given up
        asked.sendall(said)


def _answer(asked: socket.socket, reply: Reply) -> None:
    with contextlib.suppress(OSError):
        send(asked, reply)


def ended_without_answer(status: int) -> Reply:
    """Return what is said of a worker that ended with this wait status."""
    text, number = ending(os.waitstatus_to_exitcode(status))
    return Reply(error=f"the root view's worker did not answer: {text}", error_number=number or 0)


def _place_of_workspaces() -> int:
    """Return a directory with the place of a workspace: one for all views, so that rules of each hold in others.

    It is stacked on "/", where no path leads; views show copies of it.
    """
    parent = mount.new_tmpfs(TMPFS | {"mode": "0755"}, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV)
    mount.move_mount(parent, "/")
    os.mkdir(os.path.basename(workspace.HOME), dir_fd=parent)
    mount.mount_setattr(parent, mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOEXEC)
    return parent


def _enter_namespaces() -> OSError | None:
    """Take a mount namespace of our own, by the user namespace where capabilities are missing; return what failed."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            mount.unshare(process.CLONE_NEWNS)
        except PermissionError:
            _enter_user_namespace(uid, gid)
        # Slave: what the host mounts later is seen here, and nothing done here is seen by the host.
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
    except OSError as error:
        return error
    return None


def _enter_user_namespace(uid: int, gid: int) -> None:
    """Take user and mount namespaces. Root without CAP_SYS_ADMIN (in a container) keeps every id that it has.

    A map of more than one id is written from outside, with CAP_SETUID there (user_namespaces(7)).
    """
    both = process.CLONE_NEWUSER | process.CLONE_NEWNS
    if uid != 0:
        mount.unshare(both)
        process.write_id_maps(uid, gid)
        return
    with open("/proc/self/uid_map") as uids, open("/proc/self/gid_map") as gids:
        maps = {"uid_map": _identity(uids.read()), "gid_map": _identity(gids.read())}
    here, (ours, theirs) = os.getpid(), socket.socketpair()

    def write_maps() -> bytes:
        ours.close()
        theirs.recv(1)
        for name, text in maps.items():
            with open(f"/proc/{here}/{name}", "w") as file:
                file.write(text)
        return b"written"

    with ours:
        with theirs:
            child = Child(lambda: say(theirs.fileno(), write_maps))
        try:
            mount.unshare(both)
            ours.send(b"1")
            said = ours.recv(_LINE_BYTES)
        finally:
            child.end()
    try:
        child.heard(said)
    except PermissionError as error:
        why = "neither CAP_SYS_ADMIN to mount, nor CAP_SETUID and CAP_SETGID to map users"
        raise PermissionError(errno.EPERM, why) from error


def _identity(table: str) -> str:
    """Return a map of every id of this user namespace to itself, from its own (proc(5), uid_map)."""
    ranges = [line.split() for line in table.splitlines()]
    return "".join(f"{first} {first} {count}\n" for first, _outside, count in ranges)
