"""The proxy's processor time, by sandbox: each is charged what was done for it, and a part of what serves all.

What a sandbox's tasks, callbacks and tunnels take is measured. The rest, accepting connections and the loop's own, is
divided in proportion to that, and is never more for one than what was measured of it: one that makes the loop work
in ways that are not measured has no other one pay for it.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")
_A = TypeVar("_A")


class Work:
    """What was done for one sandbox, over all of its connections. For the loop's thread alone."""

    def __init__(self) -> None:
        self.measured_s = 0.0
        #: what it is charged
        self.spent_s = 0.0
        self._divided_s = 0.0

    def add(self, seconds: float) -> None:
        """Count what something took."""
        self.measured_s += seconds

    def timed(self, call: Callable[[_A], _T]) -> Callable[[_A], _T]:
        """Return `call`, which counts what it takes."""

        def run(argument: _A) -> _T:
            began = time.thread_time()
            try:
                return call(argument)
            finally:
                self.measured_s += time.thread_time() - began

        return run

    def take(self, tunnels_s: float) -> float:
        """Return what was measured since the last time (seconds); `tunnels_s`: all that its tunnels took until now."""
        done = self.measured_s + tunnels_s
        taken, self._divided_s = max(0.0, done - self._divided_s), done
        return taken


async def timed(coroutine: Coroutine[Any, Any, _T], took: Callable[[float], None]) -> _T:
    """Return what a coroutine returns, and tell how long each of its steps took."""
    return await _steps(coroutine, took)


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, _T], took: Callable[[float], None]) -> Generator[Any, Any, _T]:
    resume: Callable[[Any], Any] = coroutine.send
    given: Any = None
    while True:
        began = time.thread_time()
        try:
            waits = resume(given)
        except StopIteration as ended:
            found: _T = ended.value
            return found
        finally:
            took(time.thread_time() - began)
        try:
            resume, given = coroutine.send, (yield waits)
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            resume, given = coroutine.throw, error


class Shares:
    """Divides what the process has used."""

    def __init__(self, used_s: Callable[[], float] = time.process_time) -> None:
        self._used_s = used_s
        self._before = used_s()

    def divide(self, sandboxes: Iterable[tuple[Work, float]], others: Work) -> None:
        """Charge each, with what its tunnels took in all (seconds), what was used for it since the last time.

        The part of `others` is no sandbox's, nor is the rest that is more than twice what was measured.
        """
        now = self._used_s()
        used, self._before = now - self._before, now
        done = [(one, one.take(tunnels_s)) for one, tunnels_s in (*sandboxes, (others, 0.0))]
        if (total := sum(measured for _, measured in done)) > 0:
            for one, measured in done:
                one.spent_s += measured * min(2.0, used / total)
