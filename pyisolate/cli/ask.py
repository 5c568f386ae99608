"""`--ask` of `run`: questions put to the person at the terminal."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import select
import termios
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import without_controls

if TYPE_CHECKING:
    from ..sandbox.question import Allow, Deny, Question

_HELP = "  y: once   a: from now on, and as a rule   n: refuse   e: explain"


class TerminalAsker:
    """Asks at the controlling terminal, whatever stdin and stdout are. Raises OSError where there is none.

    `timeout`: seconds for an answer. An answer is to the question that was seen: what was typed before is thrown away,
    and a guest's output waits while a question is put (`beside`).
    """

    asked_by = "terminal"

    def __init__(self, place: str = "/dev/tty", *, timeout: float) -> None:
        self._terminal = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        self._timeout = timeout
        self._turn = threading.Lock()

    def __call__(self, question: Question) -> Allow | Deny:
        """Ask until there is an answer; the end of the terminal, or of the time, is a refusal."""
        with self._turn:
            return self._ask(question)

    def beside(self, write: Callable[[bytes], object]) -> Callable[[bytes], None]:
        """Return what passes a guest's output to this terminal: in turns with questions, and no word of it a command.

        A guest could write over a question otherwise, and have the person say yes to another one.
        """
        decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

        def pass_on(data: bytes) -> None:
            text = without_controls(decode(data), "\n\t\r")
            with self._turn:
                write(text.encode())

        return pass_on

    def _ask(self, question: Question) -> Allow | Deny:
        from ..sandbox.question import Allow, Deny

        asked = f"{question.capability.value} {question.target}{_detail(question)}"
        deadline, typed = time.monotonic() + self._timeout, b""
        with contextlib.suppress(termios.error):  # it is no terminal: nothing is typed ahead
            termios.tcflush(self._terminal, termios.TCIFLUSH)
        self._say(f"\npyisolate: {question.sandbox} asks for {asked}\n")
        while True:
            self._say("allow? [y/n/a(lways)/e(xplain)] ")
            line, typed = self._line(typed, deadline)
            word = line.strip().lower()
            if not line:
                self._say("\npyisolate: no answer: refused\n")
                return Deny("no answer at the terminal")
            if word in ("n", "no"):
                return Deny("refused at the terminal")
            if word in ("y", "yes"):
                self._say(f"pyisolate: allowed once: {asked}\n")
                return Allow()
            if word in ("a", "always"):
                self._say(f"pyisolate: allowed from now on: {asked}\n")
                return Allow("rule")
            if word in ("e", "explain"):
                self._explain(question)
            else:
                self._say(f"{_HELP}\n")

    def _line(self, typed: bytes, deadline: float) -> tuple[str, bytes]:
        """Return the next line, empty where none comes, and what was typed after it."""
        while b"\n" not in typed:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._terminal, 4096) if ready else b""
            if not data:
                return "", b""
            typed += data
        line, _, rest = typed.partition(b"\n")
        return line.decode("utf-8", "replace") + "\n", rest

    def _explain(self, question: Question) -> None:
        self._say(f"  no rule of policy {question.policy} speaks of it; its guest waits, and nothing was done yet\n")
        if question.suggestion is not None:
            self._say(f"  the rule that grants it: {json.dumps(question.suggestion, ensure_ascii=False)}\n")
        self._say(f"{_HELP}\n")

    def _say(self, text: str) -> None:
        left = text.encode("utf-8", "backslashreplace")
        while left:
            left = left[os.write(self._terminal, left) :]

    def close(self) -> None:
        """Close the terminal."""
        os.close(self._terminal)


def _detail(question: Question) -> str:
    return f" ({question.detail})" if question.detail else ""
