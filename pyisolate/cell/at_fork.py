"""At-fork handlers that a cell needs no run of: kept aside in the zygote, registered where a guest first forks.

CPython's own put right what another thread may have held or changed at the fork. The zygote has one thread, so in a
fresh cell they would only write what is there already: 220 pages, of which each cell then has its own. This module
imports nothing that registers a handler: `__main__` collects before all else.
"""

from __future__ import annotations

import os
import posix
import sys
from collections.abc import Callable
from typing import Any

#: Top-level modules whose handlers set nothing right in a process that had one thread. Of `random` the cell does itself
#: what its handler does (`hooks.seeding.renew`). The handlers of all other modules run at each fork, as ever.
_NEEDLESS = frozenset({"threading", "random", "logging", "concurrent", "pyisolate"})


class AtFork:
    """Stands before `os.register_at_fork` while a zygote imports what cells shall find warm."""

    def __init__(self) -> None:
        self._real = posix.register_at_fork
        self._kept: list[dict[str, Callable[[], Any]]] = []
        self._collects = self._guests = False

    def collect(self) -> None:
        """Keep aside from now on what needless handlers would be registered with."""
        self._collects = True
        os.register_at_fork = posix.register_at_fork = self._register  # type: ignore[assignment]

    def _register(self, **handlers: Callable[[], Any]) -> None:
        module = sys._getframe(1).f_globals.get("__name__")
        if self._collects and str(module).partition(".")[0] in _NEEDLESS:
            self._kept.append(handlers)
        else:  # also from a module that took this function's name along
            self._real(**handlers)

    def stop(self) -> None:
        """The imports are done: registering is the interpreter's own again.

        What was kept is registered by the first fork of a guest (`be_guests`): until then no cell writes what it would.
        With a second thread of Python in this process the handlers are needed, and are registered here.
        """
        self._collects = False
        os.register_at_fork = posix.register_at_fork = self._real
        if len(sys._current_frames()) > 1:  # noqa: SLF001 - threads of `_thread` too, which `threading` does not know
            self.register()
        elif self._kept:
            self._real(before=self._before)

    def be_guests(self) -> None:
        """From here on, forks of this process are the guest's: its handlers run, from the first one on."""
        self._guests = True

    def _before(self) -> None:
        if not self._guests or not self._kept:
            return
        kept = self._kept
        self.register()
        for handlers in reversed(kept):  # this fork has listed those that come before it; all others it looks up after
            if (before := handlers.get("before")) is not None:
                before()

    def register(self) -> None:
        """Register for real what was kept."""
        kept, self._kept = self._kept, []  # two threads of a guest may fork at the same time
        for handlers in kept:
            self._real(**handlers)


#: Of this process; of use in a zygote and its cells only.
AT_FORK = AtFork()
