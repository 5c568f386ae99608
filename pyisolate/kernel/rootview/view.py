"""The root view: what a cell sees as "/". Exactly the granted paths exist in it, each no more writable than granted.

It closes what Landlock leaves open (existence, stat, chmod, utime, xattrs), makes a denial below a grant enforceable,
and shows an interpreter under a 0700 home directory to an unprivileged cell. Landlock goes on top, by the same inodes.
What it is made of is said in `build`; where, in `worker`; how those are asked, in `calls`.

First kernel: 5.12 (mount_setattr). As an ordinary user it needs user namespaces.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import subprocess
import threading
from pathlib import Path

from ...capability import Capability
from ...choices import EnforcerName
from ...decision import Mode
from ...enforcement import Availability, Status
from ...errors import EnforcementError
from ...native import interpreter
from ...native.result import advice, without_hint
from ...policy.compiled import GATED, CompiledPolicy
from ...policy.workspace import is_mounted_to_run
from .. import namespaces
from ..enforcer import Enforcer
from ..prepared import Draft
from ..probe_child import ending
from .calls import Call, NoAnswer, NotBegun, Places, UnderWay
from .forker import PING, WITH_STAGER, WITHOUT_STAGER
from .metadata import MetadataChange
from .names import NameChange
from .tree import RootView
from .worker import HostFile, HostPlace, Reply, Request

_log = logging.getLogger("pyisolate.kernel.rootview")
#: The package's parent comes first: isolated mode (-I) ignores PYTHONPATH and the working directory.
#: What is loaded stays: it is not looked through for garbage while it comes, nor by forked workers, nor at the end.
_BOOT = (
    "import gc, os, sys; gc.disable(); sys.path.insert(0, sys.argv[2]); "
    "from pyisolate.kernel.rootview.forker import main; gc.freeze(); gc.enable(); main(int(sys.argv[1])); os._exit(0)"
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
_SILENT_HINT = "see that the file systems of its places answer: a server of FUSE or NFS may be gone"
#: A call takes milliseconds, but for file systems that do not answer. The forker itself waits for none.
_ANSWER_TIMEOUT_S, _FORKER_TIMEOUT_S = 30.0, 5.0


class RootViewBuilder(Enforcer):
    """Builds root views in a forker process, started with the first request; it ends with this object or this process.

    `uid` and `gid` are the cells'; with `many_users` each cell is another outside. Safe in threaded hosts and after
    fork: a forked child starts a forker of its own.
    """

    name: EnforcerName = "root view"

    def __init__(self, uid: int | None = None, gid: int | None = None, *, many_users: bool = False) -> None:
        self._uid = os.getuid() if uid is None else uid
        self._many_users = many_users
        self._gid = os.getgid() if gid is None else gid
        #: held while the forker starts or ends, or is handed a call: never while a file system is waited for
        self._lock = threading.Lock()
        self._peer: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        #: how often it was closed: what was under way then is not tried again
        self._closes = 0
        self._places, self._under_way = Places(), UnderWay()

    def capabilities(self) -> frozenset[Capability]:
        """Return what the view decides: everything about files, by absence or by the mount's attributes."""
        return frozenset(capability for capability in Capability if capability.family == "fs")

    def probe(self) -> Availability:
        """Build a view of one directory, enter it, and see writing refused and another path absent."""
        try:
            reply, _ = self._ask(self._request(CompiledPolicy(name="probe", version="probe"), probe=True))
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
        reply, descriptors = self._ask(self._request(policy, strict=strict, passage=passage, runs=runs))
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
        reply, descriptors = self._ask(self._request(nothing, directory=HostPlace(path, device, inode), runs=runs))
        if len(descriptors) != 1:
            raise EnforcementError(
                f"give the workspace's directory, on {path}: {reply.error}",
                missing="workspace",
                hint=reply.hint or "give a directory that is not replaced while the sandbox starts",
                errno=reply.error_number or None,
            )
        return descriptors[0]

    def file(self, given: HostFile, sandbox_id: str) -> tuple[int, float]:
        """Open a host's file for a guest. One that is to be read is: its mode and times stay, also for its owner.

        Returns its descriptor and the processor time that the worker took for it (seconds).
        Raises EnforcementError, also where it is another file than the numbers say, or no answer comes within 30 s.
        """
        path = given.place.path
        subject = f"make {os.path.join(path, given.name)}" if given.name else f"open {path}"
        nothing = CompiledPolicy(name="file", version="file")
        try:
            reply, descriptors = self._ask(self._request(nothing, file=given), sandbox_id)
        except (NoAnswer, NotBegun) as error:
            raise _unanswered(subject, error) from error
        if len(descriptors) != 1:
            number = reply.error_number or None
            raise EnforcementError(
                f"{subject}: {reply.error}",
                hint=reply.hint or _FILE_HINTS.get(number or 0) or advice(number) or "see that this process may do it",
                errno=number,
            )
        return descriptors[0], reply.spent_s

    def change(self, change: NameChange | MetadataChange, sandbox_id: str) -> tuple[int, float]:
        """Make a guest's call that removes, makes or moves a name of the host's, at most once.

        Returns its error number, or 0, and the processor time that the worker took for it (seconds); ETIMEDOUT where
        no answer came within 30 s, or until the supervisor closed: then it may be made yet.
        Raises EnforcementError, also where a name is not what the numbers say: then nothing was done.
        """
        subject = f"{change.call} {os.path.join(change.at.directory, change.at.name)}"
        nothing = CompiledPolicy(name="names", version="names")
        try:
            reply, descriptors = self._ask(self._request(nothing, change=change), sandbox_id)
        except NoAnswer as error:
            _log.warning("%s", _unanswered(subject, error))
            return errno.ETIMEDOUT, 0.0
        except NotBegun as error:
            raise _unanswered(subject, error) from error
        for descriptor in descriptors:
            os.close(descriptor)
        if reply.error:
            number = reply.error_number or None
            raise EnforcementError(
                f"{subject}: {reply.error}",
                hint=reply.hint or _FILE_HINTS.get(number or 0) or advice(number) or "see that this process may do it",
                errno=number,
            )
        return reply.said, reply.spent_s

    def give_up_guests(self) -> None:
        """Wait for no call of a guest's any more, for good: `file` and `change` return at once."""
        self._under_way.give_up_guests()

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
        """End the forker process; the next request would start another."""
        with self._lock:
            self._closes += 1
            self._stop_locked()
        self._places.close()

    def abandon(self) -> None:
        """In a forked child of the host: the forker is the parent's."""
        self._lock = threading.Lock()
        self._under_way.abandon()
        self._places.close()
        self._places, self._under_way = Places(), UnderWay()
        self._forget()

    # -- the forker process -------------------------------------------------------------------------------------

    def _request(
        self,
        policy: CompiledPolicy,
        *,
        strict: bool = True,
        probe: bool = False,
        passage: bool = False,
        directory: HostPlace | None = None,
        runs: bool = False,
        file: HostFile | None = None,
        change: NameChange | MetadataChange | None = None,
    ) -> Request:
        return Request(
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

    def _ask(self, request: Request, guest: str | None = None) -> tuple[Reply, list[int]]:
        """Return what a worker answers; `guest`: the sandbox whose call it is. Raises EnforcementError.

        For a guest also NoAnswer, NotBegun.
        """
        closes = self._closes
        for attempt in (1, 2):
            try:
                return self._attempt(request, guest)
            except _ForkerGone as gone:  # it was killed, perhaps; once is forgiven
                if attempt == 2 or closes != self._closes or (gone.handed and request.change is not None):
                    raise self._failed(request.policy, gone.why, gone.exit_code) from gone
            except OSError as error:
                if guest is not None and isinstance(error, NoAnswer | NotBegun):
                    raise
                raise self._failed(request.policy, error, None) from error
        raise AssertionError("unreachable")

    def _attempt(self, request: Request, guest: str | None) -> tuple[Reply, list[int]]:
        """Hand a call over and wait for its answer. Raises _ForkerGone, NoAnswer, OSError; NotBegun for a guest."""
        if guest is not None:
            self._places.take(guest, _ANSWER_TIMEOUT_S)
        call: Call | None = None
        peer, late = None, None
        try:
            call = Call(request)
            with self._under_way.noted(call, of_guest=guest is not None):
                peer = self._hand_over(call, WITH_STAGER if _wants_stager(request) else WITHOUT_STAGER)
                call.send()
                return call.answer(_ANSWER_TIMEOUT_S)
        except EOFError as error:
            raise _ForkerGone(error, self._stop(peer), handed=True) from error
        except NoAnswer as error:
            gone = not self._serves(peer)
            exit_code = self._stop(peer) if gone else None
            if guest is not None:
                late = call
            elif gone:
                raise _ForkerGone(error, exit_code, handed=True) from error
            raise
        finally:
            if guest is not None:
                self._places.give_back(guest, late)
            if call is not None and late is None:
                call.close()

    def _hand_over(self, call: Call, kind: bytes) -> socket.socket:
        """Give the forker the worker's end of a call; return the socket that leads to it. Raises _ForkerGone."""
        with self._lock:
            if self._owner != os.getpid():
                self._forget()
            peer = self._peer
            try:
                peer = peer or self._start()
                socket.send_fds(peer, [kind], [call.theirs.fileno()])
                return peer
            except OSError as error:
                raise _ForkerGone(error, self._stop_locked(), handed=False) from error

    def _serves(self, peer: socket.socket | None) -> bool:
        """Tell whether the forker takes calls still, or another has its place: no file system keeps it."""
        with contextlib.suppress(OSError):  # no descriptor to ask with: not known
            ours, theirs = socket.socketpair()
            with ours, theirs:
                with self._lock:
                    if self._peer is not peer or peer is None:
                        return True
                    try:
                        socket.send_fds(peer, [PING], [theirs.fileno()])
                    except OSError:
                        return False
                theirs.close()
                ours.settimeout(_FORKER_TIMEOUT_S)
                try:
                    return bool(ours.recv(1))
                except OSError:
                    return False
        return True

    def _failed(self, policy: CompiledPolicy, error: OSError | EOFError, exit_code: int | None) -> EnforcementError:
        """Return the error of a request that the builder did not answer: what was met here, or how it ended."""
        if isinstance(error, OSError):
            why, number = without_hint(error), error.errno
        else:
            why, number = ending(exit_code) if exit_code is not None else (str(error), None)
        return EnforcementError(
            f"build the root view of policy {policy.name!r}: the builder process failed ({why})",
            missing=self.name,
            hint=_SILENT_HINT if isinstance(error, NoAnswer) else advice(number) or "its stderr is this process's",
            errno=number,
        )

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package_parent = str(Path(__file__).resolve().parents[3])
        with theirs:
            self._process = interpreter.start(
                ["-c", _BOOT, str(theirs.fileno()), package_parent],
                [theirs.fileno()],
                {},
                silent=True,
            )
        ours.settimeout(_FORKER_TIMEOUT_S)
        self._peer, self._owner = ours, os.getpid()
        return ours

    def _stop(self, peer: socket.socket | None) -> int | None:
        """End the forker that `peer` leads to; return how it ended, None where another thread has ended it."""
        with self._lock:
            return self._stop_locked() if peer is not None and self._peer is peer else None

    def _stop_locked(self) -> int | None:
        """End the forker; return how it ended, where it is this process's."""
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


class _ForkerGone(Exception):
    """The forker does not serve; `handed`: a call of that was handed to it."""

    def __init__(self, why: OSError | EOFError, exit_code: int | None, *, handed: bool) -> None:
        super().__init__(str(why))
        self.why, self.exit_code, self.handed = why, exit_code, handed


def _wants_stager(request: Request) -> bool:
    policy = request.policy
    return policy.workspace_bytes is not None or any(rule.origin == GATED for rule in policy.fs)


def _unanswered(subject: str, error: NoAnswer | NotBegun) -> EnforcementError:
    """Return the error of a guest's call that no worker answered."""
    return EnforcementError(
        f"{subject}: {without_hint(error)}",
        hint=_SILENT_HINT,
        errno=error.errno,
    )
