"""A program that a request runs in the guest, in the place of Python code, with the streams of the request."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping, Sequence
from os import read, write  # the functions themselves: a guest may put others in their place

from ..hooks.interrupts import INTERRUPTS

#: What a pipe holds (pipe(7)).
_PIECE_BYTES = 1 << 16


def run_command(
    arguments: Sequence[str],
    directory: str | None,
    environment: Mapping[str, str] | None,
    merged: bool,
    discarded: tuple[bool, bool] = (False, False),
) -> int:
    """Return a program's exit status, negative for a signal. Raises what `subprocess.Popen` raises.

    What it left running may write on, and is waited for until it has closed both streams, as `subprocess.run` waits
    where it captures them. `merged`: its stderr goes where its stdout does. `discarded`: no one reads that stream.
    An interrupt kills it with what it started in its process group.
    """
    import subprocess  # few guests run programs

    outputs = _Outputs()
    with contextlib.closing(outputs):
        stdout = subprocess.DEVNULL if discarded[0] else outputs.open(1)
        if merged:
            stderr = subprocess.STDOUT
        else:
            stderr = subprocess.DEVNULL if discarded[1] else outputs.open(2)
        with subprocess.Popen(
            arguments, cwd=directory, env=environment, stdout=stdout, stderr=stderr, process_group=0
        ) as process:
            try:
                outputs.pass_on()
                return process.wait()
            except BaseException:
                with contextlib.suppress(OSError):  # the group lives as long as one of it does
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                outputs.pass_on_rest()
                raise


class _Outputs:
    """Pipes between a program and the guest's own streams.

    These stay open in the guest, so that the host finds no end of what a program and its children write; here it shows.
    """

    def __init__(self) -> None:
        #: by the end that is read: which of the guest's own descriptors it goes to
        self._goes_to: dict[int, int] = {}
        self._theirs: list[int] = []

    def open(self, descriptor: int) -> int:
        """Return the end for a program, of a pipe that leads to one of the guest's own descriptors."""
        reading, writing = os.pipe()
        self._goes_to[reading] = descriptor
        self._theirs.append(writing)
        return writing

    def pass_on(self) -> None:
        """Pass on what is written until all who have the other ends have closed them."""
        self._close_theirs()
        poller = select.poll()
        for reading in self._goes_to:
            poller.register(reading, select.POLLIN)
        while self._goes_to:
            for reading, _ in poller.poll():
                with INTERRUPTS:  # what was read is written
                    data = read(reading, _PIECE_BYTES)
                    _write(self._goes_to[reading], data)
                if not data:
                    poller.unregister(reading)
                    os.close(reading)
                    del self._goes_to[reading]

    def pass_on_rest(self) -> None:
        """Pass on what was written by now, and wait for nothing."""
        for reading, descriptor in self._goes_to.items():
            os.set_blocking(reading, False)
            with contextlib.suppress(BlockingIOError), INTERRUPTS:
                _write(descriptor, read(reading, _PIECE_BYTES))

    def close(self) -> None:
        """Close what is open."""
        self._close_theirs()
        while self._goes_to:
            os.close(self._goes_to.popitem()[0])

    def _close_theirs(self) -> None:
        while self._theirs:
            os.close(self._theirs.pop())


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, where the guest has not closed that descriptor."""
    left = memoryview(data)
    with contextlib.suppress(OSError):
        while left:
            left = left[write(descriptor, left) :]
