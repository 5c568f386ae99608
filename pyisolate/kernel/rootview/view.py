"""The root view: what a cell sees as "/". Exactly the granted paths exist in it, each no more writable than granted.

It closes what Landlock leaves open (existence, stat, chmod, utime, xattrs), makes a denial below a grant enforceable,
and shows an interpreter under a 0700 home directory to an unprivileged cell. Landlock goes on top, by the same inodes.
What it is made of is said in `build`; where, in `worker`.

First kernel: 5.12 (mount_setattr). As an ordinary user it needs user namespaces.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
from pathlib import Path

import msgspec

from ...capability import Capability
from ...choices import EnforcerName
from ...decision import Mode
from ...enforcement import Availability, Status
from ...errors import EnforcementError
from ...native import interpreter
from ...native.descriptors import receive
from ...native.result import advice, without_hint
from ...policy.compiled import CompiledPolicy
from ...policy.workspace import is_mounted_to_run
from .. import namespaces
from ..enforcer import Enforcer
from ..prepared import Draft
from ..probe_child import ending
from .names import NameChange
from .tree import RootView
from .worker import LENGTH, HostFile, HostPlace, Reply, Request

#: The package's parent comes first: isolated mode (-I) ignores PYTHONPATH and the working directory.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); "
    "from pyisolate.kernel.rootview.worker import main; main(int(sys.argv[1]))"
)
_OTHER_BY_NOW = "answer yes for a file that is not replaced while the question is with the host"
#: what to do where a file that the host has allowed could not be opened or made
_FILE_HINTS = {
    errno.ESTALE: _OTHER_BY_NOW,
    errno.ENOENT: _OTHER_BY_NOW,
    errno.EEXIST: _OTHER_BY_NOW,
    errno.EROFS: "its file system is mounted read-only: mount it for writing",
    errno.ENOSPC: "make room on its file system; a limit on mounts (fs.mount-max) says the same",
}
_ANSWER_TIMEOUT_S = 30.0  # a build takes milliseconds; a hung network file system must not hang the supervisor


class RootViewBuilder(Enforcer):
    """Builds root views in a helper process, started with the first request; it ends with this object or this process.

    `uid` and `gid` are the cells'; with `many_users` each cell is another outside. Safe in threaded hosts and after
    fork: a forked child starts a helper of its own.
    """

    name: EnforcerName = "root view"

    def __init__(self, uid: int | None = None, gid: int | None = None, *, many_users: bool = False) -> None:
        self._uid = os.getuid() if uid is None else uid
        self._many_users = many_users
        self._gid = os.getgid() if gid is None else gid
        self._lock = threading.Lock()
        self._peer: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def capabilities(self) -> frozenset[Capability]:
        """Return what the view decides: everything about files, by absence or by the mount's attributes."""
        return frozenset(capability for capability in Capability if capability.family == "fs")

    def probe(self) -> Availability:
        """Build a view of one directory, enter it, and see writing refused and another path absent."""
        try:
            reply, _ = self._ask(CompiledPolicy(name="probe", version="probe"), probe=True)
        except (OSError, EnforcementError) as error:
            return Availability(
                enforcer=self.name, status=Status.UNKNOWN, reason=without_hint(error), errno=error.errno
            )
        if reply.error:
            return Availability(
                enforcer=self.name, status=Status.UNAVAILABLE, reason=reply.error,
                remedy=namespaces.remedy(), errno=reply.error_number or None,
            )  # fmt: skip
        return Availability(enforcer=self.name, status=Status.AVAILABLE, proof=reply.proof)

    def prepare(
        self, policy: CompiledPolicy, *, strict: bool = True, passage: bool = False, programs_decide: bool = False
    ) -> RootView:
        """Build the view of a policy's file rules; the caller keeps it by `policy.version` and closes it.

        Paths that do not exist become notes. Raises EnforcementError for a grant that file permissions deny to the
        cell's uid, a denial that cannot be subtracted from the grant above it, or a view that cannot be built; with
        `strict=False` the first two stand in `notes` and `unenforced` instead. `passage`: the host's own tree, in
        which the cell's user can reach the interpreter and the granted places. `programs_decide`: BPF-LSM judges what
        is run in a workspace, so its mount does not.
        """
        runs = is_mounted_to_run(policy, programs_decide=programs_decide)
        reply, descriptors = self._ask(policy, strict=strict, passage=passage, runs=runs)
        if reply.error:
            raise EnforcementError(
                reply.error if reply.rule else f"build the root view of policy {policy.name!r}: {reply.error}",
                rule=reply.rule, missing=reply.missing or self.name,
                hint=reply.hint or "run `pyisolate doctor`", errno=reply.error_number or None,
            )  # fmt: skip
        workspace = policy.workspace_bytes is not None
        staged = workspace or bool(reply.gates)
        if len(descriptors) != 1 + staged:
            for descriptor in descriptors:
                os.close(descriptor)
            raise EnforcementError(
                f"build the root view of policy {policy.name!r}: a descriptor was lost on the way: "
                f"{os.strerror(errno.EMFILE)} in this process?",
                hint=advice(errno.EMFILE),
                errno=errno.EMFILE,
            )
        stager = socket.socket(fileno=descriptors[1]) if staged else None
        return RootView(
            descriptors[0], reply.notes, reply.generated, reply.unenforced, stager, reply.gates, workspace=workspace
        )

    def directory(self, path: str, device: int, inode: int, *, runs: bool) -> int:
        """Return a descriptor of the mount of a host's directory, for `RootView.stage`.

        `runs`: what is in it can be run, as far as the policy says. A file system that is mounted noexec stays so.
        Raises EnforcementError, also where the directory is another one than the numbers say.
        """
        nothing = CompiledPolicy(name="workspace", version="workspace")
        reply, descriptors = self._ask(nothing, directory=HostPlace(path, device, inode), runs=runs)
        if len(descriptors) != 1:
            raise EnforcementError(
                f"give the workspace's directory, on {path}: {reply.error}",
                missing="workspace",
                hint=reply.hint or "give a directory that is not replaced while the sandbox starts",
                errno=reply.error_number or None,
            )
        return descriptors[0]

    def file(self, given: HostFile) -> tuple[int, float]:
        """Open a host's file for a guest. One that is to be read is: its mode and times stay, also for its owner.

        Returns its descriptor and the processor time that the helper took for it (seconds).
        Raises EnforcementError, also where it is another file than the numbers say.
        """
        nothing = CompiledPolicy(name="file", version="file")
        reply, descriptors = self._ask(nothing, file=given)
        if len(descriptors) != 1:
            path = given.place.path
            subject = f"make {os.path.join(path, given.name)}" if given.name else f"open {path}"
            number = reply.error_number or None
            raise EnforcementError(
                f"{subject}: {reply.error}",
                hint=reply.hint or _FILE_HINTS.get(number or 0) or advice(number) or "see that this process may do it",
                errno=number,
            )
        return descriptors[0], reply.spent_s

    def change(self, change: NameChange) -> tuple[int, float]:
        """Make a guest's call that removes, makes or moves a name of the host's, at most once.

        Returns its error number, or 0, and the processor time that the helper took for it (seconds).
        Raises EnforcementError, also where a name is not what the numbers say: then nothing was done.
        """
        nothing = CompiledPolicy(name="names", version="names")
        reply, descriptors = self._ask(nothing, change=change)
        for descriptor in descriptors:
            os.close(descriptor)
        if reply.error:
            number = reply.error_number or None
            raise EnforcementError(
                f"{change.call} {os.path.join(change.at.directory, change.at.name)}: {reply.error}",
                hint=reply.hint or _FILE_HINTS.get(number or 0) or advice(number) or "see that this process may do it",
                errno=number,
            )
        return reply.said, reply.spent_s

    def add_to(self, draft: Draft) -> None:
        """Build the policy's view; in monitor mode, and where programs decide files, the host's tree and what it lacks.

        Programs decide by name: a reload may grant more of the host's tree, and a workspace is all that it lacks.
        """
        if draft.isolation != "process":
            return
        if draft.programs_decide or draft.compiled.mode_of("fs") is not Mode.ENFORCE:
            if not draft.usable(self.name):
                return
            closed = draft.hidden_interpreter
            if closed or draft.compiled.workspace_bytes is not None:
                decide = draft.programs_decide
                draft.root_view = self.prepare(draft.compiled, passage=True, programs_decide=decide)
            if closed:
                draft.notes.append(
                    f"the cell's user may not search {closed}: only the interpreter and what is granted show there"
                )
            return
        if not draft.usable(self.name):
            draft.lack(self.name, "fs.metadata and hidden paths")
            return
        draft.root_view = self.prepare(draft.held, strict=draft.strict)
        draft.notes += draft.root_view.notes
        draft.missing += [f"rule {rule}" for rule in draft.root_view.unenforced]

    def close(self) -> None:
        """End the helper process; the next request would start another."""
        with self._lock:
            self._stop()

    def abandon(self) -> None:
        """In a forked child of the host: the helper is the parent's."""
        self._lock = threading.Lock()
        self._forget()

    # -- the helper process -------------------------------------------------------------------------------------

    def _ask(
        self,
        policy: CompiledPolicy,
        *,
        strict: bool = True,
        probe: bool = False,
        passage: bool = False,
        directory: HostPlace | None = None,
        runs: bool = False,
        file: HostFile | None = None,
        change: NameChange | None = None,
    ) -> tuple[Reply, list[int]]:
        request = Request(
            policy=policy,
            uid=self._uid,
            gid=self._gid,
            strict=strict,
            probe=probe,
            passage=passage,
            many_users=self._many_users,
            directory=directory,
            runs=runs,
            file=file,
            change=change,
        )
        data = msgspec.msgpack.encode(request)
        with self._lock:
            if self._owner != os.getpid():
                self._forget()
            for attempt in (1, 2):
                peer, sent = self._peer or self._start(), False
                try:
                    peer.sendall(LENGTH.pack(len(data)) + data)
                    sent = True
                    return self._answer(peer)
                except (OSError, EOFError) as error:
                    exit_code = self._stop()  # it was killed, perhaps; once is forgiven
                    if attempt == 2 or (sent and change is not None):  # it may have been made
                        raise self._failed(policy, error, exit_code) from error
        raise AssertionError("unreachable")

    def _answer(self, peer: socket.socket) -> tuple[Reply, list[int]]:
        head, descriptors, dropped = receive(peer, LENGTH.size, 2)
        try:
            if dropped:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if len(head) < LENGTH.size:
                raise EOFError("it ended")
            length = LENGTH.unpack(head)[0]
            body = read_exactly(peer, length)
            return msgspec.msgpack.decode(body, type=Reply), descriptors
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _failed(self, policy: CompiledPolicy, error: OSError | EOFError, exit_code: int | None) -> EnforcementError:
        """Return the error of a request that the builder did not answer: what was met here, or how it ended."""
        if isinstance(error, OSError):
            why, number = without_hint(error), error.errno
        else:
            why, number = ending(exit_code) if exit_code is not None else (str(error), None)
        return EnforcementError(
            f"build the root view of policy {policy.name!r}: the builder process failed ({why})",
            missing=self.name,
            hint=advice(number) or "its stderr is this process's",
            errno=number,
        )

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        package_parent = str(Path(__file__).resolve().parents[3])
        with theirs:
            self._process = interpreter.start(
                ["-c", _BOOT, str(theirs.fileno()), package_parent],
                [theirs.fileno()],
                {},
                own_session=False,
                silent=True,
            )
        ours.settimeout(_ANSWER_TIMEOUT_S)
        self._peer, self._owner = ours, os.getpid()
        return ours

    def _stop(self) -> int | None:
        """End the helper; return how it ended, where it is this process's."""
        exit_code = None
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
            exit_code = process.returncode
        self._forget()
        return exit_code

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
