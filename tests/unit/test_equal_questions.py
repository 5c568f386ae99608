"""Equal calls that wait: a yes is for one of them, and the others are questions within the bounds of questions."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

import pytest

from pyisolate import Allow, Question
from pyisolate.capability import Capability
from pyisolate.records import AskAnswer, Asked, SandboxContext
from pyisolate.sandbox.ask import Asker, Questions
from tests.telemetry_events import CONTEXT


class _Around:
    """A session whose calls wait until they are answered, or were given up."""

    def __init__(self) -> None:
        self.context: SandboxContext = CONTEXT
        self.waiting = self.denials = self
        self.started, self.said = list[Callable[[], None]](), dict[int, bool]()
        self.gone, self.forgotten = set[int](), list[int]()

    def suggestion(self, asked: Asked) -> None: ...

    def start_call(self, call: Callable[[], None]) -> None:
        self.started.append(call)

    def call_in(self, seconds: float, call: Callable[[], None]) -> None: ...

    def count_question(self, answer: AskAnswer) -> None: ...

    def event_loop(self) -> asyncio.AbstractEventLoop:
        raise AssertionError("no coroutine answers")

    def answer(self, number: int, *, allow: bool) -> None:
        self.said[number] = allow

    def waits(self, asked: Asked) -> bool:
        return asked.number not in self.gone and asked.number not in self.said

    def let_go(self, number: int) -> None:
        self.forgotten.append(number)


class _Clock:
    """Time stands still."""

    @staticmethod
    def monotonic() -> float:
        return 1000.0


def connects(number: int, tid: int = 0) -> Asked:
    return Asked(number=number, capability=Capability.NET_CONNECT, target="192.0.2.1:443", tid=tid or number)


@pytest.fixture
def around() -> _Around:
    return _Around()


@pytest.fixture
def asked() -> list[Question]:
    return []


@pytest.fixture
def questions(around: _Around, asked: list[Question], monkeypatch: pytest.MonkeyPatch) -> Questions:
    monkeypatch.setattr("pyisolate.sandbox.ask.time", _Clock)
    made = Questions(around)
    made.asker = Asker(lambda question: asked.append(question) or Allow(), 30.0, contextvars.copy_context())
    return made


def test_each_yes_is_for_one_and_past_the_rate_the_others_are_refused(
    around: _Around, asked: list[Question], questions: Questions
) -> None:
    for number in range(1, 51):
        questions.take(connects(number))
    assert (len(around.started), around.said) == (1, {})
    around.started[0]()
    assert len(asked) == 20
    assert around.said == {number: number <= 20 for number in range(1, 51)}


def test_who_makes_its_call_again_takes_its_own_place(
    around: _Around, asked: list[Question], questions: Questions
) -> None:
    questions.take(connects(1, tid=7))
    questions.take(connects(2, tid=8))
    for number in range(3, 40):  # a timer's
        around.gone.add(number - 1 if number > 3 else 1)
        questions.take(connects(number, tid=7))
    around.started[0]()
    assert around.forgotten == [1, *range(3, 39)]
    assert around.said == {2: True, 39: True}
    assert len(asked) == 2


def test_at_the_end_nothing_is_asked_anew(around: _Around, asked: list[Question], questions: Questions) -> None:
    def ends(question: Question) -> Allow:
        questions.close()
        return Allow()

    questions.asker = Asker(ends, 30.0, contextvars.copy_context())
    for number in (1, 2, 3):
        questions.take(connects(number))
    around.started[0]()
    assert around.said == dict.fromkeys((1, 2, 3), False)
