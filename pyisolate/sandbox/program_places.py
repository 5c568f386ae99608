"""Places for programs of `popen` that the host attends to: of one sandbox, and of all that this process has."""

from __future__ import annotations

import resource
import threading

from ..errors import SandboxError
from ..native.forked import renew

#: Programs of one sandbox that run, or whose output has not ended: each has a thread of the host.
_MOST = 256
#: What each has open in this process: for stdin a pipe's two ends and an eventfd, two for orders, one each for reports,
#: stdout and stderr. Once it has ended, those of its output, and of a stdin that its user did not close.
_DESCRIPTORS = 8


class _Total:
    """The programs of all sandboxes of this process: descriptors are the process's, not a supervisor's."""

    def __init__(self) -> None:
        self.lock, self.number = threading.Lock(), 0
        renew(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the threads and the descriptors are the parent's."""
        self.lock, self.number = threading.Lock(), 0


_total = _Total()


class ProgramPlaces:
    """The places of one sandbox: each running program takes one, and a thread of the host."""

    def __init__(self) -> None:
        self._number = 0

    def take(self, sandbox: str) -> None:
        """Count one more. Raises SandboxError where there are too many.

        A guest can keep one for as long as its output may be held. So one sandbox has half of what the others leave,
        and none can take all.
        """
        with _total.lock:
            left = _share_of_descriptors() - (_total.number - self._number)
            share = (left + 1) // 2
            if self._number >= min(_MOST, share):
                others = f", and {_total.number - self._number} of other sandboxes" if share < _MOST else ""
                cause = f"{self._number} programs run or have output that has not ended{others}"
                hints = ["end what holds their stdout or stderr"] if self._number else []
                if share < _MOST:
                    hints.append(
                        "raise this process's limit on open files (RLIMIT_NOFILE): programs take half of it, and "
                        "those of one sandbox half of what the others leave of that"
                    )
                raise SandboxError(f"popen in {sandbox!r}: {cause}", hint=", or ".join(hints))
            self._number += 1
            _total.number += 1

    def release(self) -> None:
        """The program has ended, and its thread."""
        with _total.lock:
            self._number -= 1
            _total.number -= 1


def _share_of_descriptors() -> int:
    """Return for how many programs half of the descriptors that this process may have are enough."""
    most, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # never infinite (fs.nr_open, kernel/sys.c)
    return most // 2 // _DESCRIPTORS
