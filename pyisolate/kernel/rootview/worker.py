"""A worker of the root view builder: answers one request of `view.py`'s on a socket of its own, and ends.

`forker.py` forks it. It builds in a mount namespace of its own and sends the finished tree as a descriptor.
So nothing needs unmounting, on success or failure: the kernel drops the worker's mounts with the worker. Where each
sandbox gets a workspace, the worker gives the tree to the stager, too (see `stager`).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Callable

import msgspec

from ...errors import EnforcementError
from ...native import mount, places, process
from ...native.result import cause_of
from ...policy.compiled import CompiledPolicy, FsRight, FsRule
from ..probe_child import Child, say
from . import stager as stage
from .build import Problem, RootBuild, readable_by_cell
from .metadata import MetadataChange, change_metadata
from .names import NameChange, change_names
from .passage import PassageBuild

LENGTH = struct.Struct("<I")
_DATA_ALONE = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


class HostPlace(msgspec.Struct, frozen=True):
    """A directory or file of the host's: its name, and which one it must be."""

    path: str
    device: int
    inode: int
    #: when it was made: its number may be another's after it; None: not compared
    born: int | None = None

    @property
    def which(self) -> tuple[int, int, int]:
        """Say which one it is among all that there were."""
        return self.device, self.inode, self.born or 0


class HostFile(msgspec.Struct, frozen=True):
    """A file that is opened for a guest: the one at `place`, or with a `name` one that is made in that directory."""

    place: HostPlace
    #: how it is opened (open(2))
    flags: int = os.O_RDONLY
    name: str = ""
    #: of a file that is made
    mode: int = 0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor asks. `probe` makes the worker enter the tree and try it."""

    policy: CompiledPolicy
    uid: int
    gid: int
    strict: bool = True
    probe: bool = False
    #: Show the host's own tree, with a way to the interpreter: for a policy whose files are in monitor mode.
    passage: bool = False
    #: cells are users of a range, each another, so that a workspace has no one owner
    many_users: bool = False
    #: Copy the mount of this alone, and build nothing.
    directory: HostPlace | None = None
    #: The mount of that, or of the policy's workspaces, lets what is in it run.
    runs: bool = False
    #: Open this alone.
    file: HostFile | None = None
    #: Make this call alone.
    change: NameChange | MetadataChange | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's answer. Unless `error` is set the tree's descriptor comes with it, and the stager's socket."""

    notes: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    unenforced: tuple[str, ...] = ()
    #: programs of the tree that each have a gate
    gates: tuple[str, ...] = ()
    proof: str = ""
    error: str = ""
    error_number: int = 0
    rule: str | None = None
    missing: str | None = None
    hint: str | None = None
    #: processor time that a file, or a change, took of its worker
    spent_s: float = 0.0
    #: of a change: what the kernel said
    said: int = 0


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


def work(peer: socket.socket, parent: int | None, stager: socket.socket | None) -> None:
    """Read one request and answer it, and end this process. Exit status 0 means that it owes no answer."""
    status = 1
    try:
        if (data := read_message(peer)) is not None:
            request = msgspec.msgpack.decode(data, type=Request)
            reply, made = _done(request, parent, stager)
            try:
                send(peer, reply, *made)
            except ConnectionError:  # it was given up
                if made and request.file is not None and request.file.name:
                    unmake(request.file, os.fstat(made[0]))
        status = 0
    except MemoryError:
        status = errno.ENOMEM  # an answer could not be had either: `ending` knows it
    finally:
        os._exit(status)


def _done(request: Request, parent: int | None, stager: socket.socket | None) -> tuple[Reply, tuple[int, ...]]:
    """Do what is asked; return the answer, with descriptors."""
    try:
        if request.directory is not None:
            return Reply(), (_directory(request.directory, runs=request.runs),)
        if request.file is not None:
            made = _file(request.file, request)
            return Reply(spent_s=time.process_time()), (made,)  # of this process alone: it was forked for it
        if request.change is not None:
            return _change(request.change, request), ()
        return _probe(request) if request.probe else _build(request, parent, stager)
    except EnforcementError as error:  # the probe's
        return Reply(error=error.summary, error_number=error.errno or 0, hint=error.hint), ()
    except OSError as error:
        return from_error(error), ()
    except MemoryError:
        raise
    except Exception as error:  # a defect: the supervisor's error names it, where nothing else can
        return Reply(error=f"the builder failed with {type(error).__name__}: {error}"), ()


def unmake(given: HostFile, made: os.stat_result) -> None:
    """Remove a file that was made for a call which does not wait any more. Raises OSError."""
    directory = os.open(given.place.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.path.samestat(made, os.stat(given.name, dir_fd=directory, follow_symlinks=False)):
            os.unlink(given.name, dir_fd=directory)
    finally:
        os.close(directory)


def _directory(given: HostPlace, *, runs: bool) -> int:
    """Return a copy of a directory's mount; the guest may write there as its owner may, and run things where `runs`."""
    tree = _mount_of(given, os.O_DIRECTORY)
    mount.mount_setattr(tree, stage.attributes(runs=runs), propagation=mount.MS_PRIVATE, recursive=True)
    return tree


def _file(given: HostFile, request: Request) -> int:
    """Open a file on a mount of its own. To be read: nothing of it changes through that, mode and times included.

    By a descriptor on the host's mount its owner could change them, and the guest may be its owner.
    """
    if given.name:
        _check_owner(request)
    try:
        whole = mount.open_tree("/")  # so the kernel can tell its whole name
        return _opened(given, whole, given.place.path[1:], request)
    except OSError:  # it lies on another mount
        return _opened(given, _mount_of(given.place, os.O_DIRECTORY if given.name else 0), "", request)


def _check_owner(request: Request) -> None:
    """Raise OSError where it is not known whose anything would be that is made for a guest."""
    if request.many_users:
        error = OSError(errno.EOPNOTSUPP, "cells are users of a range, and none of them is known here")
        vars(error)["hint"] = "grant fs.create there by a rule, or use Supervisor without cell_uids="
        raise error


def _change(change: NameChange | MetadataChange, request: Request) -> Reply:
    if isinstance(change, MetadataChange):
        return Reply(said=change_metadata(change), spent_s=time.process_time())
    if change.call in ("mkdir", "symlink"):
        _check_owner(request)
    os.umask(0)
    said = change_names(change, request.uid, request.gid)
    return Reply(said=said, spent_s=time.process_time())


def _opened(given: HostFile, tree: int, name: str, request: Request) -> int:
    reads = given.flags & os.O_ACCMODE == os.O_RDONLY
    try:
        mount.mount_setattr(tree, _DATA_ALONE | (mount.MOUNT_ATTR_RDONLY if reads else 0))
        at = mount.openat2(name, os.O_PATH, mount.BENEATH, dirfd=tree) if name else os.dup(tree)
        try:
            found = os.fstat(at)
            of_kind = (stat.S_ISDIR if given.name else stat.S_ISREG)(found.st_mode)
            if (found.st_dev, found.st_ino, of_kind) != (given.place.device, given.place.inode, True):
                raise OSError(errno.ESTALE, "it is another one than it was")
            if given.place.born not in (None, places.born("", dir_fd=at)):
                raise OSError(errno.ESTALE, "it was made after the question")
            if given.name:
                return _made(given, at, request)
            return os.open(f"/proc/self/fd/{at}", given.flags | os.O_NOCTTY | os.O_CLOEXEC)
        finally:
            os.close(at)
    finally:
        os.close(tree)


def _made(given: HostFile, directory: int, request: Request) -> int:
    """Make a file that was not there, and give it to the cells' user."""
    os.umask(0)
    new = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(given.name, given.flags | new, given.mode, dir_fd=directory)
    try:
        if os.fstat(made).st_uid != request.uid:
            os.fchown(made, request.uid, request.gid)
    except BaseException:
        os.unlink(given.name, dir_fd=directory)
        os.close(made)
        raise
    return made


def _mount_of(given: HostPlace, flags: int) -> int:
    """Return a detached copy of the mount of what is given. Raises OSError, also where it is another one by now."""
    at = mount.openat2(given.path, os.O_PATH | flags, mount.RESOLVE_NO_SYMLINKS)
    try:
        found = os.fstat(at)
        if (found.st_dev, found.st_ino) != (given.device, given.inode):
            raise OSError(errno.ESTALE, "it is another one than it was")
        return mount.open_tree(dirfd=at, recursive=bool(flags))
    finally:
        os.close(at)


def _build(request: Request, parent: int | None, stager: socket.socket | None) -> tuple[Reply, tuple[int, ...]]:
    """Return the answer, with the tree's descriptor and the socket that asks the stager for copies of it."""
    size = request.policy.workspace_bytes
    place = None if size is None or parent is None else mount.open_tree(dirfd=parent)  # in its own namespace: here
    mount.unshare(process.CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
    if request.passage:
        passage = PassageBuild(request.policy, request.uid, request.gid, place)
        tree = passage.run()
        return Reply(), (tree, *_staged(request, passage, stager))
    build = RootBuild(request.policy, place)
    tree = build.run()
    refused = _as_cell(request, lambda: readable_by_cell(build.places, request.uid))
    problems = [*build.unenforced, *(problem for problem in refused if problem.fatal)]
    if problems and request.strict:
        os.close(tree)
        first = problems[0]
        return Reply(error=first.text, rule=first.rule, missing=first.missing, hint=first.hint), ()
    notes = [*build.notes, *(problem.text for problem in refused if not problem.fatal or not request.strict)]
    unenforced = tuple(problem.text for problem in build.unenforced)
    reply = Reply(notes=tuple(notes), generated=tuple(build.generated), unenforced=unenforced, gates=tuple(build.gates))
    return reply, (tree, *_staged(request, build, stager))


def _staged(request: Request, build: RootBuild, stager: socket.socket | None) -> tuple[int, ...]:
    """Give the tree to the stager, where each sandbox needs its own; return the socket that asks it for copies."""
    room, gates = request.policy.workspace_room, tuple(build.gates)
    if (room is None and not gates) or stager is None:
        return ()
    theirs, ours = socket.socketpair()
    owner = None if request.many_users else (request.uid, request.gid)
    template = mount.open_tree(dirfd=build.base, recursive=True)  # mounted there; `tree` stays detached
    order = stage.Order(room=room, owner=owner, runs=request.runs, gates=gates)
    stage.send_order(stager, order, template, ours.fileno())
    return (theirs.detach(),)


def _as_cell(request: Request, look: Callable[[], list[Problem]]) -> list[Problem]:
    """Return what a child without this process's rights finds: it sees the tree as the cell will."""

    worker = os.getpid()

    def looked() -> bytes:
        _become(request.uid, request.gid)
        process.end_with_parent(worker)
        return msgspec.msgpack.encode(look())

    reader, writer = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reader, "rb") as file:
        try:
            child = Child(lambda: say(writer, looked))
        finally:
            os.close(writer)
        try:
            found = child.heard(file.read())
        finally:
            child.end()  # else it would be a zombie of a host that orphans come to
    return msgspec.msgpack.decode(found, type=list[Problem])


def _become(uid: int, gid: int) -> None:
    """See files as the cell will. The real user stays root: descriptors in flight count for it, not for the cells'."""
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(0, uid, uid)
    process.drop_all_capabilities()


def _probe(request: Request) -> tuple[Reply, tuple[int, ...]]:
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
    return Reply(proof=f"in the view {here} lists, refuses mkdir (EROFS), and {outside} is absent (ENOENT)"), ()


def from_error(error: OSError) -> Reply:
    """Return the answer that says what was met."""
    return Reply(error=cause_of(error), error_number=error.errno or 0, hint=getattr(error, "hint", None))


def send(peer: socket.socket, reply: Reply, *descriptors: int) -> None:
    """Send an answer, with descriptors. Raises OSError."""
    data = msgspec.msgpack.encode(reply)
    message = LENGTH.pack(len(data)) + data
    if not descriptors:
        peer.sendall(message)
        return
    if rest := message[socket.send_fds(peer, [message], descriptors) :]:  # even none meets the end of who has read it
        peer.sendall(rest)
