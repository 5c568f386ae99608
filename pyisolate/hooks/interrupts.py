"""KeyboardInterrupt of the guest, put off while something is done that must be done whole: a frame, a count.

Light: the hooks of a sandbox thread import it too, where nothing is ever put off.
"""

from __future__ import annotations

import threading
from _thread import get_ident

from ..native.forked import call_in_child


class Interrupts:
    """`with INTERRUPTS:` is not interrupted; what came within is raised at its end. Signals meet the main thread."""

    def __init__(self) -> None:
        self._depth, self._came = 0, False
        self.renew()

    def renew(self) -> None:
        """Take the thread that signals meet to be the main one: in a forked child, the one that forked."""
        self._main = threading.main_thread().ident

    def __enter__(self) -> None:
        if get_ident() == self._main:
            self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if get_ident() != self._main:
            return
        self._depth -= 1
        if self._came and not self._depth and kind is None:  # what is raised already is not lost for it
            self._came = False
            raise KeyboardInterrupt

    def put_off(self) -> bool:
        """Say whether the main thread is within such a block; the interrupt is then raised at its end."""
        self._came |= (within := self._depth > 0)
        return within


#: Of this process.
INTERRUPTS = Interrupts()
call_in_child(INTERRUPTS.renew)
