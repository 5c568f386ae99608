"""The root view: what a cell sees as "/". Exactly the granted paths exist in it, each no more writable than granted.

It closes what Landlock leaves open (existence, stat, chmod, utime, xattrs), makes a denial below a grant enforceable,
and shows an interpreter under a 0700 home directory to an unprivileged cell. Landlock goes on top, by the same inodes.
What it is made of is said in `_rootview_build`; where, in `_rootview_child`.

First kernel: 5.12 (mount_setattr). As an ordinary user it needs user namespaces.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading

import msgspec

from ..capability import Capability
from ..errors import EnforcementError
from ..policy.compiled import CompiledPolicy
from ._rootview_child import LENGTH, Reply, Request
from .enforcer import Availability, Status

#: The package's parent comes first: isolated mode (-I) ignores PYTHONPATH and the working directory.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); "
    "from pyisolate.kernel._rootview_child import main; main(int(sys.argv[1]))"
)
_ANSWER_TIMEOUT_S = 30.0  # a build takes milliseconds; a hung network file system must not hang the supervisor


class RootView:
    """A finished, detached tree. `fd` is what a cell enters (`native.mount.enter_root`).

    `notes` says what was left out, `generated` which files are not the host's, `unenforced` (only after a build that
    was not strict) which rules the view cannot honour. The tree lives as long as `fd`, a copy of it, or a cell in it.
    """

    def __init__(
        self, fd: int, notes: tuple[str, ...], generated: tuple[str, ...], unenforced: tuple[str, ...]
    ) -> None:
        self.fd, self.notes, self.generated, self.unenforced = fd, notes, generated, unenforced

    def close(self) -> None:
        """Close the descriptor; further calls do nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> RootView:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class RootViewBuilder:
    """Builds root views in a helper process, started with the first request; it ends with this object or this process.

    `uid` and `gid` are the cells'. Safe in threaded hosts and after fork: a forked child starts a helper of its own.
    """

    name = "root view"

    def __init__(self, uid: int | None = None, gid: int | None = None) -> None:
        self._uid = os.getuid() if uid is None else uid
        self._gid = os.getgid() if gid is None else gid
        self._lock = threading.Lock()
        self._peer: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def capabilities(self) -> frozenset[Capability]:
        """Return what the view decides: everything about files, by absence or by the mount's attributes."""
        return frozenset(capability for capability in Capability if capability.value.startswith("fs."))

    def probe(self) -> Availability:
        """Build a view of one directory, enter it, and see writing refused and another path absent."""
        try:
            reply, _ = self._ask(CompiledPolicy(name="probe", version="probe"), probe=True)
        except (OSError, EnforcementError) as error:
            return Availability(enforcer=self.name, status=Status.UNKNOWN, reason=str(error))
        if reply.error:
            return Availability(
                enforcer=self.name, status=Status.UNAVAILABLE, reason=reply.error,
                remedy=reply.hint or "allow user namespaces (user.max_user_namespaces, "
                "kernel.apparmor_restrict_unprivileged_userns), or run the supervisor with CAP_SYS_ADMIN",
            )  # fmt: skip
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof=reply.proof)

    def prepare(self, policy: CompiledPolicy, *, strict: bool = True) -> RootView:
        """Build the view of a policy's file rules; the caller keeps it by `policy.version` and closes it.

        Paths that do not exist become notes. Raises EnforcementError for a grant that file permissions deny to the
        cell's uid, a denial that cannot be subtracted from the grant above it, or a view that cannot be built; with
        `strict=False` the first two are told in `notes` and `unenforced` instead.
        """
        reply, tree = self._ask(policy, strict=strict)
        if reply.error:
            raise EnforcementError(
                reply.error if reply.rule else f"build the root view of policy {policy.name!r}: {reply.error}",
                rule=reply.rule, missing=reply.missing or self.name,
                hint=reply.hint or "run `pyisolate doctor`",
            )  # fmt: skip
        if tree is None:
            raise EnforcementError(f"build the root view of policy {policy.name!r}: the builder sent no tree")
        return RootView(tree, reply.notes, reply.generated, reply.unenforced)

    def close(self) -> None:
        """End the helper process; the next request would start another."""
        with self._lock:
            self._stop()

    def abandon(self) -> None:
        """In a forked child of the host: the helper is the parent's."""
        self._lock = threading.Lock()
        self._forget()

    # -- the helper process -------------------------------------------------------------------------------------

    def _ask(self, policy: CompiledPolicy, *, strict: bool = True, probe: bool = False) -> tuple[Reply, int | None]:
        request = Request(policy=policy, uid=self._uid, gid=self._gid, strict=strict, probe=probe)
        data = msgspec.msgpack.encode(request)
        with self._lock:
            if self._owner != os.getpid():
                self._forget()
            for attempt in (1, 2):
                peer = self._peer or self._start()
                try:
                    peer.sendall(LENGTH.pack(len(data)) + data)
                    return self._answer(peer)
                except (OSError, EOFError) as error:
                    self._stop()  # it was killed, perhaps; once is forgiven
                    if attempt == 2:
                        raise EnforcementError(
                            f"build the root view of policy {policy.name!r}: the builder process failed ({error})",
                            missing=self.name, hint="its stderr is this process's",
                        ) from error  # fmt: skip
        raise AssertionError("unreachable")

    def _answer(self, peer: socket.socket) -> tuple[Reply, int | None]:
        head, descriptors, _, _ = socket.recv_fds(peer, LENGTH.size, 1)
        tree = descriptors[0] if descriptors else None
        try:
            if len(head) < LENGTH.size:
                raise EOFError("it ended")
            length = LENGTH.unpack(head)[0]
            body = read_exactly(peer, length)
            return msgspec.msgpack.decode(body, type=Reply), tree
        except BaseException:
            if tree is not None:
                os.close(tree)
            raise

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), package_parent],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        ours.settimeout(_ANSWER_TIMEOUT_S)
        self._peer, self._owner = ours, os.getpid()
        return ours

    def _stop(self) -> None:
        if self._owner == os.getpid() and self._process is not None:
            process = self._process
            if self._peer is not None:
                with contextlib.suppress(OSError):
                    self._peer.shutdown(socket.SHUT_RDWR)  # a forked child may hold a copy: close alone is no EOF
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._peer is not None:
            self._peer.close()
        if self._process is not None:
            self._process.returncode = self._process.returncode or 0  # another process's child: no warning, no wait
        self._peer = self._process = None


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """Return `count` bytes; raise EOFError when the stream ends before."""
    data = bytearray()
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise EOFError("it ended within an answer")
        data += part
    return bytes(data)
