"""A thread of the host that does the host's work for sandbox threads, which are confined and must not do it themselves.

What a sandbox thread starts or opens is under its own Landlock and seccomp: an audit log could not be rotated, the
thread of a sink would be confined for ever, and a question to the kernel's tables would be a refused system call of
the guest.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..native.threads import Thread

_T = TypeVar("_T")
#: A host whose sinks hang that long must not hang the guest as well (seconds).
PATIENCE_S = 10.0


class _Job(Generic[_T]):
    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], _T]) -> None:
        # of C: an exception raised in a guest that waits cannot leave a lock of it held
        self.work, self.done = work, queue.SimpleQueue[None]()
        self.result: _T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error
        self.done.put(None)


class HostSide:
    """Runs jobs one after the other, on a thread that inherits what confines the one that starts it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where it cannot."""
        thread = Thread(target=self._serve, name="pyisolate-hostside")
        thread.start()
        self._thread = thread

    def do(self, work: Callable[[], _T]) -> _T:
        """Run `work` there and return its result, or raise what it raised. Raises TimeoutError when it hangs."""
        job = _Job(work)
        self._jobs.put(job)
        try:
            job.done.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise TimeoutError(f"sandbox thread: the host's executor did not answer within {PATIENCE_S} s") from None
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def tell(self, work: Callable[[], object]) -> None:
        """Run `work` there, and return at once."""
        self._jobs.put(_Job(work))

    def close(self) -> None:
        """End the thread after what is queued. It may be started again."""
        if (thread := self._thread) is not None:
            self._thread = None
            self._jobs.put(None)
            thread.join(PATIENCE_S)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
