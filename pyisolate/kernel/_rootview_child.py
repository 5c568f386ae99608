"""The root view builder's own process: answers `rootview.RootViewBuilder` over a socket until it closes.

It lives in a mount namespace of its own (in a user namespace too, where the supervisor is an ordinary user) and forks a
worker for each request, which builds in yet another mount namespace, sends the finished tree as a descriptor and ends.
So nothing needs unmounting, on success or failure: the kernel drops the worker's mounts with the worker.

Single-threaded by construction (a fresh process, no thread is ever started): unshare(CLONE_NEWUSER) needs that.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import msgspec

from ..errors import EnforcementError
from ..native import mount, process
from ..policy.compiled import CompiledPolicy, FsRight, FsRule
from ._rootview_build import RootBuild, readable_by_cell

LENGTH = struct.Struct("<I")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor asks. `probe` makes the worker enter the tree and try it."""

    policy: CompiledPolicy
    uid: int
    gid: int
    strict: bool = True
    probe: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's answer; the tree's descriptor comes with it unless `error` is set."""

    notes: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    unenforced: tuple[str, ...] = ()
    proof: str = ""
    error: str = ""
    error_number: int = 0
    rule: str | None = None
    missing: str | None = None
    hint: str | None = None


def main(descriptor: int) -> None:
    """Serve requests on `descriptor` until the supervisor closes its end."""
    with socket.socket(fileno=descriptor) as peer:
        trouble = _enter_namespaces()
        while (data := read_message(peer)) is not None:
            if trouble is not None:
                _send(peer, _from_error(trouble), None)
                continue
            pid = os.fork()
            if pid == 0:
                _work(peer, data)
            _, status = os.waitpid(pid, 0)
            if status != 0:
                _send(peer, Reply(error=f"the root view's worker ended with wait status {status}"), None)


def read_message(peer: socket.socket) -> bytes | None:
    """Return the next length-prefixed message, or None at the end of the stream."""
    head = _read(peer, LENGTH.size)
    return None if head is None else _read(peer, LENGTH.unpack(head)[0])


def _read(peer: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            return None
        data += part
    return data


def _enter_namespaces() -> OSError | None:
    """Take a mount namespace of our own, by the user namespace where capabilities are missing; return what failed."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            mount.unshare(process.CLONE_NEWNS)
        except PermissionError:
            mount.unshare(process.CLONE_NEWUSER | process.CLONE_NEWNS)
            process.write_id_maps(uid, gid)
        # Slave: what the host mounts later is seen here, and nothing done here is seen by the host.
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
    except OSError as error:
        return error
    return None


def _work(peer: socket.socket, data: bytes) -> None:
    """Answer one request and end this process. Exit status 0 means that an answer was sent."""
    status = 1
    try:
        request = msgspec.msgpack.decode(data, type=Request)
        tree: int | None = None
        try:
            reply, tree = _probe(request) if request.probe else _build(request)
        except EnforcementError as error:  # the probe's
            reply = Reply(error=str(error))
        except OSError as error:
            reply = _from_error(error)
        _send(peer, reply, tree)
        status = 0
    finally:
        os._exit(status)


def _build(request: Request) -> tuple[Reply, int | None]:
    mount.unshare(process.CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
    build = RootBuild(request.policy)
    tree = build.run()
    # The worker has no more use for its rights; without them it sees the tree as the cell will.
    _become(request.uid, request.gid)
    refused = readable_by_cell(build.places, request.uid)
    problems = [*build.unenforced, *(problem for problem in refused if problem.fatal)]
    if problems and request.strict:
        os.close(tree)
        first = problems[0]
        return Reply(error=first.text, rule=first.rule, missing=first.missing, hint=first.hint), None
    notes = [*build.notes, *(problem.text for problem in refused if not problem.fatal or not request.strict)]
    unenforced = tuple(problem.text for problem in build.unenforced)
    return Reply(notes=tuple(notes), generated=tuple(build.generated), unenforced=unenforced), tree


def _become(uid: int, gid: int) -> None:
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    process.drop_all_capabilities()


def _probe(request: Request) -> tuple[Reply, None]:
    """Build a view of one directory, enter it, and see: what is granted reads, does not write; the rest is absent."""
    here = os.path.dirname(os.path.abspath(__file__))
    outside = "/proc/self" if os.path.isdir("/proc/self") else "/etc"
    os.stat(outside)  # the control: it is there before
    mount.unshare(process.CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
    rule = FsRule(path=here, allow=int(FsRight.READ | FsRight.METADATA), text="probe")
    tree = RootBuild(CompiledPolicy(name="probe", version="probe", fs=(rule,))).run()
    mount.enter_root(tree)
    if not os.listdir(here):
        raise EnforcementError("enter the root view: the granted directory is empty")
    for attempt, path, expected in (
        (os.mkdir, f"{here}/pyisolate-probe", errno.EROFS),
        (os.stat, outside, errno.ENOENT),
    ):
        try:
            attempt(path)
        except OSError as error:
            if error.errno != expected:
                raise
        else:
            raise EnforcementError(f"enter the root view: {attempt.__name__} {path} went through")
    return Reply(proof=f"in the view {here} lists, refuses mkdir (EROFS), and {outside} is absent (ENOENT)"), None


def _from_error(error: OSError) -> Reply:
    return Reply(error=str(error.strerror or error), error_number=error.errno or 0)


def _send(peer: socket.socket, reply: Reply, tree: int | None) -> None:
    data = msgspec.msgpack.encode(reply)
    message = LENGTH.pack(len(data)) + data
    if tree is None:
        peer.sendall(message)
        return
    sent = socket.send_fds(peer, [message], [tree])
    peer.sendall(message[sent:])
