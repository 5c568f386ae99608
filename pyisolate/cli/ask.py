"""`--ask` of `run`: questions put to the person at the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ..sandbox.question import Allow, Deny, Question

_HELP = "  y: once   a: from now on, and as a rule   n: refuse   e: explain"


class TerminalAsker:
    """Asks at the controlling terminal, whatever stdin and stdout are. Raises OSError where there is none."""

    asked_by = "terminal"

    def __init__(self, place: str = "/dev/tty") -> None:
        self._in: TextIO = open(place)  # noqa: SIM115 - open while the guest runs
        self._out: TextIO = open(place, "w")  # noqa: SIM115

    def __call__(self, question: Question) -> Allow | Deny:
        """Ask until there is an answer; the end of the terminal is a refusal."""
        from ..sandbox.question import Allow, Deny

        self._say(
            f"\npyisolate: {question.sandbox} asks for {question.capability.value} {question.target}{_detail(question)}"
        )
        while True:
            self._out.write("allow? [y/n/a(lways)/e(xplain)] ")
            self._out.flush()
            line = self._in.readline()
            word = line.strip().lower()
            if not line or word in ("n", "no"):
                return Deny("refused at the terminal")
            if word in ("y", "yes"):
                return Allow()
            if word in ("a", "always"):
                return Allow("rule")
            if word in ("e", "explain"):
                self._explain(question)
            else:
                self._say(_HELP)

    def _explain(self, question: Question) -> None:
        self._say(f"  no rule of policy {question.policy} speaks of it; its guest waits, and nothing was done yet")
        if question.suggestion is not None:
            self._say(f"  the rule that grants it: {json.dumps(question.suggestion, ensure_ascii=False)}")
        self._say(_HELP)

    def _say(self, text: str) -> None:
        self._out.write(f"{text}\n")

    def close(self) -> None:
        """Close the terminal."""
        self._in.close()
        self._out.close()


def _detail(question: Question) -> str:
    return f" ({question.detail})" if question.detail else ""
