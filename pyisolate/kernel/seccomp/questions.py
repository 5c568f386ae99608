"""Calls at the listener that wait for an answer: `on_asked` hears each question, and the answer goes to its call."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from ...native import notify as native
from ...native.threads import Thread
from ...records import CallStage
from ..enforcer import AskedSink
from .records import STAGES, asked_of

_log = logging.getLogger("pyisolate.kernel")


class Questions:
    """The questions of one listener's sandboxes. `sandbox_of` names the sandbox of a key, None where it is gone.

    Thread-safe.
    """

    def __init__(
        self, listener: native.Listener, sandbox_of: Callable[[int], str | None], on_asked: AskedSink | None
    ) -> None:
        self._native, self._sandbox_of, self._on_asked = listener, sandbox_of, on_asked
        self._closing = threading.Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Take questions from now on, on a thread of their own. The caller keeps others from it."""
        if self._thread is None:
            thread = Thread(target=self._take, name="pyisolate-asking")
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """Take and answer none any more."""
        self._closing.set()
        self._native.stop_asking()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer a question (None: the kernel decides); of a call that was given up only the record is made."""
        if not self._closing.is_set():
            self._native.answer(number, allow=allow)

    def give(self, number: int, file: int, *, empty: bool) -> bool:
        """Answer with yes and a file, which is taken; tell whether the guest has it."""
        if self._closing.is_set():
            os.close(file)
            return False
        return self._native.give(number, file, empty=empty)

    def begin(self, number: int) -> bool:
        """Carry a call out, which is not interrupted from here on; False where it was given up."""
        return not self._closing.is_set() and self._native.begin(number)

    def done(self, number: int, error: int) -> None:
        """Answer a call that was carried out with its error number, or 0."""
        if not self._closing.is_set():
            self._native.done(number, error)

    def stage(self, key: int, call: int) -> CallStage:
        """Tell where a call is that a question was about. Any thread may ask; never waits."""
        return "gone" if self._closing.is_set() else STAGES[self._native.stage(key, call)]

    def _take(self) -> None:
        while not self._closing.is_set():
            if (question := self._native.next_question(-1)) is None:
                continue
            sandbox_id = self._sandbox_of(question.key)
            try:
                if sandbox_id is None or self._on_asked is None:
                    self.answer(question.number, allow=False)
                else:
                    self._on_asked(sandbox_id, asked_of(question))
            except Exception:  # no answer: refused
                _log.exception("a question could not be put; it is refused")
                self.answer(question.number, allow=False)
