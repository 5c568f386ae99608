"""Makes one root view after another, each with a workspace of its own, with gates of its own (`gates`), or with both.

A sandbox enters it and no other can reach it.

One process per builder, with a mount namespace of its own where each policy's view stays mounted as a template, as long
as the supervisor keeps the socket that asks for copies of it. For each request the stager puts a new tmpfs on the
workspace's place, copies the whole tree, and takes the tmpfs away again: the copy keeps it. No cell is ever in a
template. Copying takes some microseconds a mount; the supervisor asks for one more than it needs, so that a spawn finds
it made.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket

import msgspec

from ...native import mount, process
from ...native.descriptors import receive
from ...policy import workspace
from .gates import hold, reap_unasked

_MAX_ORDER_BYTES = 1 << 19
#: What is asked for: a tree with a new workspace or gates, or one with the directory whose mount comes with the byte.
WITHOUT_DIRECTORY, WITH_DIRECTORY = b"1", b"d"
#: A workspace in which a directory of the host's is mounted: as in any /tmp, no guest of root takes that away.
_KEPT_BY_HOST = {"mode": "1777", "uid": "0", "gid": "0"}


def attributes(*, runs: bool) -> int:
    """Return the attributes of what is mounted there; `runs`: the guest may run what is in it."""
    return mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | (0 if runs else mount.MOUNT_ATTR_NOEXEC)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A new template: how large its workspaces are and whose. The tree and the socket that asks come with it."""

    #: bytes, and how many files, directories and links; None: no workspace
    room: tuple[int, int] | None
    #: user and group; None: open to all in it, where cells are users of a range
    owner: tuple[int, int] | None
    #: what is in them may be run
    runs: bool = False
    #: programs that each have a gate
    gates: tuple[str, ...] = ()


def send_order(stager: socket.socket, order: Order, tree: int, asked: int) -> None:
    """Send a stager a finished tree, to keep as a template, and the socket on which it is asked for copies."""
    socket.send_fds(stager, [msgspec.msgpack.encode(order)], [tree, asked])


def start(others: set[int]) -> tuple[int, socket.socket]:
    """Fork a stager; return its pid and the socket for orders, whose end ends it. `others`: what it must not hold."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (pid := os.fork()) == 0:
        status = 1
        try:
            ours.close()
            for descriptor in others:
                os.close(descriptor)
            Stager(theirs).serve()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    return pid, ours


class _Template:
    """A tree that is mounted in the stager's namespace, at `place`."""

    def __init__(self, tree: int, place: str, peer: socket.socket, order: Order) -> None:
        self.tree, self.place, self.peer = tree, place, peer
        self._attributes = attributes(runs=order.runs)
        self._gates = order.gates
        self._options: dict[str, str] | None = None
        if order.room is not None:
            self._options = self._of_workspace(*order.room, order.owner)
        mount.move_mount(tree, place)

    @staticmethod
    def _of_workspace(size: int, names: int, owner: tuple[int, int] | None) -> dict[str, str]:
        options = {"size": str(size), "nr_inodes": str(names + 1)}  # it has a name itself
        if owner is None:  # no other can reach it
            return options | {"mode": "0777"}
        return options | {"mode": "0700", "uid": str(owner[0]), "gid": str(owner[1])}

    def stage(self, given: int | None) -> list[int]:
        """Return descriptors of a tree to enter, of the workspace in it, and of the socket that orders its gates.

        Those that the policy has; all are the caller's. `given`: a directory's mount, to be shown in the workspace.
        """
        if self._options is None:
            made = [mount.open_tree(dirfd=self.tree, recursive=True)]
        else:
            made = list(self._with_workspace(given, self._options))
        if self._gates:
            try:
                made.append(hold(made[0], self._gates).detach())
            except BaseException:
                for descriptor in made:
                    os.close(descriptor)
                raise
        return made

    def _with_workspace(self, given: int | None, options: dict[str, str]) -> tuple[int, int]:
        here = self.place + workspace.HOME
        with contextlib.ExitStack() as held:
            if given is not None:
                held.callback(os.close, given)
                options = options | {"nr_inodes": str(int(options["nr_inodes"]) + 1)}  # the directory's own name
                options |= _KEPT_BY_HOST if os.geteuid() == 0 else {}
            own = mount.new_tmpfs(options, self._attributes)
            held.callback(os.close, own)
            mount.move_mount(own, here)
            held.callback(mount.umount2, here, mount.MNT_DETACH)
            if given is not None:
                os.mkdir(os.path.basename(workspace.PROJECT), 0o700, dir_fd=own)
                mount.move_mount(given, self.place + workspace.PROJECT)
            tree = mount.open_tree(dirfd=self.tree, recursive=True)
            try:
                return tree, os.dup(own)
            except OSError:
                os.close(tree)
                raise

    def close(self) -> None:
        """Take the template apart; copies stay."""
        mount.umount2(self.place, mount.MNT_DETACH)
        os.rmdir(self.place)
        os.close(self.tree)
        self.peer.close()


class Stager:
    """The process's loop: takes orders for templates, and makes copies of them."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._numbers = itertools.count()
        self._templates: dict[int, _Template] = {}
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)

    def serve(self) -> None:
        """Serve until the builder ends."""
        reap_unasked()
        process.set_name("pyisolate-stage")
        mount.unshare(process.CLONE_NEWNS)
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
        places = mount.new_tmpfs({"size": "1m", "mode": "0755"}, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV)
        mount.move_mount(places, "/")
        os.fchdir(places)
        while True:
            for descriptor, _events in self._poll.poll():
                if descriptor != self._orders.fileno():
                    self._serve(descriptor)
                elif not self._take_order():
                    return

    def _take_order(self) -> bool:
        data, descriptors, _ = receive(self._orders, _MAX_ORDER_BYTES, 2)
        if not data:
            return False
        if len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            return True  # the supervisor sees its socket closed
        tree, peer = descriptors[0], socket.socket(fileno=descriptors[1])
        place = str(next(self._numbers))
        os.mkdir(place)
        try:
            template = _Template(tree, place, peer, msgspec.msgpack.decode(data, type=Order))
        except OSError as error:
            _answer(peer, error)
            os.rmdir(place)
            os.close(tree)
            peer.close()
            return True
        self._templates[peer.fileno()] = template
        self._poll.register(peer, select.POLLIN)
        return True

    def _serve(self, descriptor: int) -> None:
        """Answer one byte with a stage, or with an error number; the end of the stream ends the template.

        A directory's mount comes with the byte that says so, or the kernel has dropped it.
        """
        template = self._templates[descriptor]
        with contextlib.suppress(ConnectionError):
            asked, given, dropped = receive(template.peer, 1, 1)
            if asked:
                if dropped or len(given) != (asked == WITH_DIRECTORY):
                    for one in given:
                        os.close(one)
                    _answer(template.peer, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                    return
                try:
                    staged = template.stage(given[0] if given else None)
                except OSError as error:
                    _answer(template.peer, error)
                    return
                try:
                    socket.send_fds(template.peer, [b"\0"], staged)
                    return
                except OSError as error:  # too many descriptors in flight (unix(7), ETOOMANYREFS)
                    _answer(template.peer, error)
                    return
                finally:
                    for one in staged:
                        os.close(one)
        self._poll.unregister(descriptor)
        del self._templates[descriptor]
        template.close()


def _answer(peer: socket.socket, error: OSError) -> None:
    with contextlib.suppress(OSError):
        peer.send((error.errno or 255).to_bytes(1))
