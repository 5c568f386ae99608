"""A finished root view: a detached tree that cells enter, or one for each with a workspace or gates of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from typing import NamedTuple

from ...errors import EnforcementError
from ...native.descriptors import receive
from ...native.result import advice
from .gates import Gates
from .stager import WITH_DIRECTORY, WITHOUT_DIRECTORY

#: A stage takes a fraction of a millisecond (seconds).
_STAGE_TIMEOUT_S = 10.0


class Staged(NamedTuple):
    """A tree for one sandbox, to be entered, its workspace, and the gates of its programs. All are the caller's."""

    tree: int
    workspace: int | None
    gates: Gates | None

    def close(self) -> None:
        """Close all."""
        for descriptor in (self.tree, self.workspace):
            if descriptor is not None:
                os.close(descriptor)
        if self.gates is not None:
            self.gates.close()


class RootView:
    """A finished, detached tree. `fd` is what a cell enters (`native.mount.enter_root`).

    `notes` says what was left out, `generated` which files are not the host's, `unenforced` (only after a build that
    was not strict) which rules the view cannot honour. The tree lives as long as `fd`, a copy of it, or a cell in it.
    `stager` is the socket on which the stager is asked for one tree per sandbox, where the policy has a workspace, or
    programs that have `gates`.
    """

    def __init__(
        self,
        fd: int,
        notes: tuple[str, ...],
        generated: tuple[str, ...],
        unenforced: tuple[str, ...],
        stager: socket.socket | None = None,
        gates: tuple[str, ...] = (),
        *,
        workspace: bool = True,
    ) -> None:
        #: True where each sandbox gets a workspace by `stage`
        self.has_workspace = workspace and stager is not None
        self._gates = gates
        self.fd, self.notes, self.generated, self.unenforced = fd, notes, generated, unenforced
        self._stager = stager
        self._lock = threading.Lock()
        #: one stage was asked for, and was not taken yet
        self._asked = False
        #: a call has begun and not ended: the next answer may be one to it, with a directory of the host's
        self._broken_off = False
        #: what was asked for ahead, and made way for a directory of the host's
        self._spare: Staged | None = None
        if stager is not None:
            stager.settimeout(_STAGE_TIMEOUT_S)
            self._ask()

    @property
    def stages(self) -> bool:
        """True where each sandbox gets a tree of its own, by `stage`."""
        return self._stager is not None

    @property
    def lives(self) -> bool:
        """False once the process that stages has ended: the view must be made anew."""
        if (stager := self._stager) is None:
            return True
        poll = select.poll()  # of this call alone: a second thread in the same one is a RuntimeError
        try:
            poll.register(stager, 0)
        except ValueError:  # another thread has closed it
            return False
        return not poll.poll(0)

    def stage(self, directory: int | None = None) -> Staged:
        """Return one sandbox's own tree: with its gates, and a new workspace, in which a directory's mount is shown.

        Raises EnforcementError.
        """
        with self._lock:
            if self._broken_off:
                self._end()
                raise self._failed("an earlier call was broken off, whose answer may be the next")
            self._broken_off = True
            try:
                staged = self._stage_new() if directory is None else self._stage_with(directory)
            except BaseException:
                if self._broken_off:
                    self._end()
                raise
            self._broken_off = False
            return staged

    def _stage_new(self) -> Staged:
        staged, self._spare = self._spare or self._receive(), None
        if not self._asked:
            self._ask()
        return staged

    def _stage_with(self, directory: int) -> Staged:
        if self._asked:
            self._spare = self._receive()
        try:
            socket.send_fds(self._peer, [WITH_DIRECTORY], [directory])
        except OSError as error:
            raise self._failed(str(error), error.errno) from error
        self._asked = True
        return self._receive()

    def _receive(self) -> Staged:
        try:
            if not self._asked:
                self._ask()
            count = 1 + self.has_workspace + bool(self._gates)
            answer, descriptors, dropped = receive(self._peer, 1, count)
            self._asked = False
        except OSError as error:
            raise self._failed(str(error), error.errno) from error
        if dropped or len(descriptors) != count:
            self._broken_off = False  # it was answered
            for descriptor in descriptors:
                os.close(descriptor)
            number = errno.EMFILE if dropped else answer[0] if answer else 0
            raise self._failed(os.strerror(number) if number else "it ended", number or None)
        gates = Gates(socket.socket(fileno=descriptors[-1]), self._gates) if self._gates else None
        return Staged(descriptors[0], descriptors[1] if self.has_workspace else None, gates)

    def _end(self) -> None:
        """End the stager's template: `lives` is False from here on."""
        if self._stager is not None:
            with contextlib.suppress(OSError):
                self._stager.shutdown(socket.SHUT_RDWR)

    @property
    def _peer(self) -> socket.socket:
        if self._stager is None:
            raise self._failed("the view is closed")
        return self._stager

    def _ask(self) -> None:
        """Ask for the next one ahead; a stager that has ended is met by who takes it."""
        try:
            self._peer.send(WITHOUT_DIRECTORY)
            self._asked = True
        except OSError:
            self._asked = False

    def close(self) -> None:
        """Close the descriptors; the stager ends. Further calls do nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        stager, self._stager = self._stager, None
        if stager is not None:
            stager.close()
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

    def __enter__(self) -> RootView:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _failed(self, why: str, number: int | None = None) -> EnforcementError:
        return EnforcementError(
            f"make a root view of its own: {why}",
            missing="workspace" if self.has_workspace else "root view",
            errno=number,
            hint=advice(number) or "spawn again: the root view is made anew",
        )
