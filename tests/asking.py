"""A host that is asked: its answers, what it was asked, and the event of a refusal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import pyisolate
from pyisolate import PolicyError, Question


class Asked:
    """Answers, and what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.questions = list(answers), list[Question]()
        self.before: Callable[[], object] = lambda: None

    def __call__(self, question: Question) -> Any:
        self.questions.append(question)
        self.before()
        return self.answers.pop(0)

    @property
    def targets(self) -> list[str]:
        return [question.target for question in self.questions]


def refused(sandbox: pyisolate.Sandbox, code: str) -> pyisolate.DenialEvent:
    with pytest.raises(PolicyError) as caught:
        sandbox.exec(code)
    assert caught.value.denial_event is not None, code
    return caught.value.denial_event


class Step:
    """Something that one thread waits for and another one does."""

    def __init__(self) -> None:
        self._done = threading.Semaphore(0)

    def do(self) -> None:
        self._done.release()

    def wait(self) -> None:
        """Return when it was done once more; fail where that takes a minute."""
        assert self._done.acquire(timeout=60), "what was waited for was not done"
