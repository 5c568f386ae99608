"""Threads of the host that wait for a guest when the host's process ends.

The interpreter stops a daemon thread where it waits, without a word. A supervisor that is closed at exit wakes it
before that: its error would be printed as one that was not caught.
"""

from __future__ import annotations

import threading
import time

from ..native.threads import Thread

#: Longer than the rest of an ordinary exit takes (seconds); not for ever, because who is at exit may join the thread.
PATIENCE_S = 5.0

_begun = threading.Event()


def begin() -> None:
    """The process ends: what is closed from now on is closed by that."""
    _begun.set()


def wait_for_the_end() -> None:
    """Before SandboxClosed is raised in a daemon thread of the user's: until the process has ended, or `PATIENCE_S`."""
    here = threading.current_thread()
    if _begun.is_set() and here.daemon and not isinstance(here, Thread):  # the package's own are joined
        time.sleep(PATIENCE_S)
