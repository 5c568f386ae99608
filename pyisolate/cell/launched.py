"""Programs that run beside a guest's requests: one request starts a program, and a thread attends to all of them.

The host gives each program pipes of its own, two of them for its orders and for reports: a guest that is busy with a
request reads no frames.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .wire import LAUNCH_DESCRIPTORS, PROGRAM_REPORT, SIGNALLED

if TYPE_CHECKING:
    import subprocess


class _Attended(NamedTuple):
    """A program that runs: its pidfd, where orders come from, and where reports go."""

    process: subprocess.Popen[bytes]
    ended: int
    orders: int
    report: int

    def obey(self) -> bool:
        """Pass on the signal that the host orders; False where the host is gone, and it is killed."""
        number = os.read(self.orders, 1)
        with contextlib.suppress(OSError):  # it has just ended, or has made itself another user
            self.process.send_signal(number[0] if number else signal.SIGKILL)
        if number:
            self.tell(SIGNALLED)
        return bool(number)

    def tell(self, status: int) -> None:
        """Report to the host, where it still reads."""
        with contextlib.suppress(OSError):
            os.write(self.report, PROGRAM_REPORT.pack(status))


class Programs:
    """The programs of one guest that run beside its requests. The thread that attends to them ends with the last."""

    def __init__(self) -> None:
        self._attended: dict[int, _Attended] = {}
        self._lock = threading.Lock()
        self._poller: select.epoll | None = None

    def launch(
        self,
        pipes: Sequence[int],
        arguments: Sequence[str],
        directory: str | None,
        environment: Mapping[str, str] | None,
        merged: bool,
    ) -> int:
        """Start a program and return its number. Raises what `subprocess.Popen` raises.

        `pipes`: its stdin, stdout and stderr, where orders come from, and where reports go; they are closed here.
        `merged`: its stderr goes where its stdout does.
        """
        import subprocess  # few guests run programs

        with contextlib.ExitStack() as undone, contextlib.ExitStack() as given:
            for number, pipe in enumerate(pipes):
                (given if number < 3 else undone).callback(os.close, pipe)
            if len(pipes) != LAUNCH_DESCRIPTORS:  # the kernel drops what has no room
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            stdin, stdout, stderr, orders, report = pipes
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                env=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.STDOUT if merged else stderr,
                process_group=0,
            )
            undone.callback(process.wait)
            undone.callback(process.kill)
            ended = os.pidfd_open(process.pid)
            undone.callback(os.close, ended)
            self._attend(_Attended(process, ended, orders, report))
            undone.pop_all()
        return process.pid

    def _attend(self, program: _Attended) -> None:
        with self._lock, contextlib.ExitStack() as undone:
            poller = self._poller or select.epoll()
            if self._poller is None:
                undone.callback(poller.close)
            # the kernel may have no room for one (`fs.epoll.max_user_watches`): it is attended to wholly, or not
            for descriptor in (program.ended, program.orders):
                poller.register(descriptor, select.EPOLLIN)
                undone.callback(poller.unregister, descriptor)
            self._attended.update(dict.fromkeys((program.ended, program.orders), program))
            if self._poller is None:
                undone.callback(self._attended.clear)
                # A thread of `threading` would be the guest's own to see, and a script's end would wait for it. Nothing
                # waits until it runs: where it never does, the host ends the sandbox when the program's time is up.
                _thread.start_new_thread(self._serve, (poller,))  # noqa: TID251
                self._poller = poller
            undone.pop_all()

    def _serve(self, poller: select.epoll) -> None:
        """Report ends and pass on signals until no program is left."""
        while True:
            for descriptor, _mask in poller.poll():
                program = self._attended.get(descriptor)
                if program is None:  # it ended by the event before, or is about to be attended to
                    continue
                if descriptor == program.ended:
                    self._end(poller, program)
                elif not program.obey():
                    poller.unregister(descriptor)
            with self._lock:
                if not self._attended:
                    self._poller = None
                    poller.close()
                    return

    def _end(self, poller: select.epoll, program: _Attended) -> None:
        status = program.process.wait()
        with self._lock:
            for descriptor in (program.ended, program.orders):
                del self._attended[descriptor]
                with contextlib.suppress(OSError):  # unregistered before
                    poller.unregister(descriptor)
        for descriptor in (program.ended, program.orders):
            os.close(descriptor)
        program.tell(status)
        os.close(program.report)
