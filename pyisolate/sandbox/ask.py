"""Questions of one sandbox's refused operations, and who of the host answers them.

A question comes from the kernel's side, on a thread that serves all sandboxes: it is queued there, no more. One at a
time is put to the callback, on a thread of the supervisor's. Whatever goes wrong, the answer is no.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import inspect
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..capability import Capability
from ..decision import Verdict
from ..policy.asking import OF_FILES
from ..records import AskAnswer, Asked, BrokerRecord, KernelRecord, Wanted
from .question import Allow, Deny, OnAsk, Question, Scope

if TYPE_CHECKING:
    import asyncio

    from ..records import SandboxContext

_log = logging.getLogger("pyisolate.sandbox.ask")
#: Questions of one sandbox that reach its callback: so many a second, after so many at once.
_RATE, _BURST = 10.0, 20.0
#: Questions that wait for their turn.
_MAX_WAITING = 16
#: Opens of files of one sandbox that wait for an answer. Which of its opens are questions only the host knows; the
#: listener counts connections (NOTIFY_QUESTIONS).
_MAX_OPENS = 8
#: Answers whose record has not come yet; a call that was given up has none.
_MAX_ANSWERED = 256

#: What a question is about; of a file also which one has the name (device, inode), and what else is asked: a yes for
#: good is for no other.
_Key = tuple[Capability, str, tuple[int, ...] | None, str]
#: whose question the callback in this context answers
_answers: contextvars.ContextVar[Questions | None] = contextvars.ContextVar("pyisolate_answers", default=None)


class Calls(Protocol):
    """The calls that wait for answers."""

    def answer(self, number: int, *, allow: bool) -> None:
        """Answer one, below 0 a request at the egress proxy, if it still waits."""

    def waits(self, asked: Asked) -> bool:
        """Tell whether one waits still, as far as that can be known. Never waits itself."""
        ...

    def let_go(self, number: int) -> None:
        """Forget one that was given up, and is made once more."""


class Advice(Protocol):
    """What a sandbox's events suggest."""

    def suggestion(self, asked: Asked) -> dict[str, Any] | None:
        """Return the rules that grant what is asked about."""
        ...


class Surroundings(Protocol):
    """What asking needs of the session and its supervisor."""

    @property
    def denials(self) -> Advice:
        """Where its refusals are recorded."""
        ...

    @property
    def context(self) -> SandboxContext:
        """Whose questions they are."""
        ...

    @property
    def waiting(self) -> Calls:
        """What the questions are about."""
        ...

    def start_call(self, call: Callable[[], None]) -> None:
        """Run `call` on a thread of the supervisor's own."""

    def call_in(self, seconds: float, call: Callable[[], None]) -> None:
        """Run `call` after a while."""

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the supervisor's own event loop."""
        ...

    def count_question(self, answer: AskAnswer) -> None:
        """Count a question."""


@dataclass(frozen=True)
class Asker:
    """Who answers, as one call of `spawn` gave it: with its context variables, and its event loop if it was in one."""

    on_ask: OnAsk
    timeout_s: float
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        """Who answers, as events say it."""
        return str(getattr(self.on_ask, "asked_by", "callback"))


def make_asker(on_ask: OnAsk | Asker, timeout: float, loop: asyncio.AbstractEventLoop | None = None) -> Asker:
    """Check who is to answer. Raises TypeError, ValueError."""
    if isinstance(on_ask, Asker):
        return on_ask
    if not callable(on_ask):
        raise TypeError(f"on_ask: {on_ask!r}: must be callable")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 3000:
        raise ValueError(f"ask_timeout: {timeout!r}: must be above 0 and at most 3000 seconds")
    return Asker(on_ask, float(timeout), contextvars.copy_context(), loop)


@dataclass(eq=False)
class _Pending:
    key: _Key
    calls: list[Asked]
    #: the call that the host is asked about, for all of them
    asked: Asked
    #: made when it is its turn
    question: Question | None = None
    settled: bool = False
    future: concurrent.futures.Future[Any] | None = None


class _Answered(msgspec.Struct, frozen=True):
    """What became of a question, for its record."""

    answer: AskAnswer
    by: str
    reason: str
    #: what was asked about: of a file that is written to, the listener does not know whether it was to be made
    capability: Capability | None = None
    target: str = ""
    #: what else the call needs
    also: tuple[Wanted, ...] = ()
    detail: str = ""

    @property
    def allows(self) -> bool:
        """Tell whether it is a yes."""
        return self.answer in ("once", "sandbox", "rule")


_FULL = _Answered("full", "nobody", "more questions wait than may")


@dataclass(eq=False)
class _State:
    pending: dict[_Key, _Pending] = field(default_factory=dict)
    waiting: deque[_Pending] = field(default_factory=deque)
    answered: OrderedDict[int, list[_Answered]] = field(default_factory=OrderedDict)
    #: what was allowed for good in this sandbox
    allowed: dict[_Key, Scope] = field(default_factory=dict)
    #: the rules of what was allowed as such, as its question had them
    rules: dict[_Key, dict[str, Any]] = field(default_factory=dict)
    tokens: float = _BURST
    last: float = 0.0
    serving: bool = False
    closed: bool = False
    #: a question is with the callback
    put: bool = False


class Questions:
    """The questions of one sandbox. Thread-safe. Without an asker, each is refused at once."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.asker: Asker | None = None
        self._state = _State()
        self._lock = threading.Lock()

    @property
    def is_put(self) -> bool:
        """True while a question is with the callback, and its guest waits or gave up."""
        return self._state.put

    def are_answered_here(self) -> bool:
        """Tell whether it is this sandbox's callback that runs, in this thread or task."""
        return _answers.get() is self

    def take(self, asked: Asked) -> None:
        """Take a question. Never waits, and calls nothing of the host's here."""
        key = _key_of(asked)
        self._let_go_of_interrupted(key, asked)
        with self._lock:
            answered = self._at_once(key)
            if answered is None:
                start = self._queue(asked, key)
            else:
                self._tell([asked], answered)
        if answered is not None:
            self._around.waiting.answer(asked.number, allow=answered.allows)
        elif start:
            try:
                self._around.start_call(self._serve)
            except RuntimeError as error:
                self._refuse_waiting(f"no thread could ask it ({error})")

    def _let_go_of_interrupted(self, key: _Key, asked: Asked) -> None:
        """Let go of a call that a signal interrupted and that its task makes again: one question, with one event."""
        with self._lock:
            pending = self._state.pending.get(key)
            earlier = [] if pending is None or not asked.tid else [one for one in pending.calls if one.tid == asked.tid]
            gone = [one for one in earlier if not self._around.waiting.waits(one)]
            if pending is not None and gone:
                pending.calls = [one for one in pending.calls if one not in gone]
        for one in gone:
            self._around.waiting.let_go(one.number)

    def _refuse_waiting(self, reason: str) -> None:
        with self._lock:
            self._state.serving = False
            waiting = list(self._state.waiting)
            self._state.waiting.clear()
        _log.warning("%d questions are refused: %s", len(waiting), reason)
        for pending in waiting:
            self._settle(pending, _Answered("failed", "nobody", reason))

    def _at_once(self, key: _Key) -> _Answered | None:
        state = self._state
        if self.asker is None or state.closed:
            return _Answered("unanswered", "nobody", "no `on_ask` answers")
        if (scope := state.allowed.get(key)) is not None:
            return _Answered("rule" if scope == "rule" else "sandbox", self.asker.name, "it was allowed before")
        if key[0] in OF_FILES and self._opens() >= _MAX_OPENS:
            return _FULL
        return None if key in state.pending or self._has_room() else _FULL

    def _has_room(self) -> bool:
        """Take what one more question needs, if it may be put."""
        state, now = self._state, time.monotonic()
        state.tokens = min(_BURST, state.tokens + (now - state.last) * _RATE)
        state.last = now
        if state.tokens < 1 or len(state.waiting) >= _MAX_WAITING:
            return False
        state.tokens -= 1
        return True

    def _opens(self) -> int:
        pending = self._state.pending.items()
        return sum(len(one.calls) for (capability, *_), one in pending if capability in OF_FILES)

    def _queue(self, asked: Asked, key: _Key) -> bool:
        state = self._state
        if (known := state.pending.get(key)) is not None:
            known.calls.append(asked)  # the same of another task
            return False
        self._put_in_queue([asked])
        start, state.serving = not state.serving, True
        return start

    def _put_in_queue(self, calls: list[Asked]) -> None:
        """Have a question wait for its turn, about equal calls."""
        state, key = self._state, _key_of(calls[0])
        pending = state.pending[key] = _Pending(key, calls, calls[0])
        state.waiting.append(pending)
        assert self.asker is not None
        late = functools.partial(self._settle, pending, _Answered("timeout", self.asker.name, "no answer came in time"))
        self._around.call_in(self.asker.timeout_s, late)

    def _tell(self, calls: list[Asked], answered: _Answered) -> None:
        for one in calls:
            of_one = msgspec.structs.replace(
                answered, capability=one.capability, target=one.target, also=one.also, detail=one.detail
            )
            self._state.answered.setdefault(one.number, []).append(of_one)
        while len(self._state.answered) > _MAX_ANSWERED:
            self._state.answered.popitem(last=False)

    def _settle(self, pending: _Pending, answered: _Answered) -> None:
        with self._lock:
            if pending.settled:
                return
            pending.settled = True
            self._state.pending.pop(pending.key, None)
            if answered.answer in ("sandbox", "rule"):
                self._state.allowed[pending.key] = answered.answer
            if answered.answer == "rule" and pending.question is not None and pending.question.suggestion is not None:
                self._state.rules[pending.key] = pending.question.suggestion
            calls, refused = pending.calls, list[Asked]()
            if answered.answer == "once":
                calls, refused = self._for_one_call(pending)
            self._tell(calls, answered)
            self._tell(refused, _FULL)
            future = pending.future
        if future is not None:
            future.cancel()
        for one in calls:
            self._around.waiting.answer(one.number, allow=answered.allows)
        for one in refused:
            self._around.waiting.answer(one.number, allow=False)

    def _for_one_call(self, pending: _Pending) -> tuple[list[Asked], list[Asked]]:
        """Return the first call that waits, with those that were given up, and others that are refused.

        About the others the host is asked anew, within the bounds of questions.
        """
        others = [one for one in pending.calls if self._around.waiting.waits(one)][1:]
        calls = [one for one in pending.calls if one not in others]
        if others and (self._state.closed or not self._has_room()):
            return calls, others
        if others:
            self._put_in_queue(others)
        return calls, []

    # -- on a thread of the supervisor ----------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._lock:
                if self._state.closed or not self._state.waiting:
                    self._state.serving = False
                    return
                pending, asker = self._state.waiting.popleft(), self.asker
            if pending.settled or asker is None:
                continue
            self._state.put = True
            try:
                answer = asker.context.copy().run(self._put, asker, pending)
                answered = _answered(answer, asker.name)
            except BaseException as error:
                _log.warning("on_ask failed: %s: %s", type(error).__name__, error)
                answered = _answered(error, asker.name)
            finally:
                self._state.put = False
            self._settle(pending, answered)

    def _put(self, asker: Asker, pending: _Pending) -> Any:
        _answers.set(self)  # in a copy of the asker's context
        pending.question = self._question(pending.asked)
        answer = asker.on_ask(pending.question)
        if not inspect.isawaitable(answer):
            return answer
        import asyncio

        future = asyncio.run_coroutine_threadsafe(_awaited(answer), asker.loop or self._around.event_loop())
        with self._lock:
            pending.future = future
            unwanted = pending.settled or self._state.closed
        if unwanted:
            future.cancel()
        return future.result()

    def _question(self, asked: Asked) -> Question:
        context = self._around.context
        return Question(
            sandbox=context.sandbox,
            sandbox_id=context.sandbox_id,
            policy=context.policy,
            capability=asked.capability,
            target=asked.target,
            detail=asked.detail + asked.content,
            suggestion=self._around.denials.suggestion(asked),
            actor=context.actor,
            pid=asked.pid,
            tid=asked.tid,
        )

    # -- what became of them --------------------------------------------------------------------------------

    def complete(self, record: KernelRecord) -> list[KernelRecord]:
        """Return a record of the listener's with who answered, and what, one for each question; count them."""
        if record.answer is None:
            return [record]
        outcomes = self._outcomes(record.question, record.answer)
        return [_completed(record, *one, last=one is outcomes[-1]) for one in outcomes]

    def complete_request(self, record: BrokerRecord, question: int) -> BrokerRecord:
        """The same for a record of the egress proxy's, about whose request `question` was asked, or 0."""
        if not question and record.answer is None:
            return record
        answered, reason = self._outcomes(-question, record.answer or "unanswered")[-1]
        reason = f"{record.reason}; {reason}"
        return msgspec.structs.replace(record, answer=answered.answer, asked_by=answered.by, reason=reason)

    def _outcomes(self, number: int, otherwise: AskAnswer) -> list[tuple[_Answered, str]]:
        """Return what became of the questions about a call, each also in words."""
        with self._lock:
            answered = self._state.answered.pop(number, None)
        return [self._outcome(one, otherwise) for one in answered or [_Answered(otherwise, "nobody", "")]]

    def _outcome(self, answered: _Answered, otherwise: AskAnswer) -> tuple[_Answered, str]:
        if otherwise == "gave_up":
            said = answered.answer
            answered = msgspec.structs.replace(answered, answer="gave_up", reason=f"its call did not wait ({said})")
        self._around.count_question(answered.answer)
        reason = f"{answered.by} {'allowed' if answered.allows else 'refused'} it ({answered.answer})"
        reason += f": {answered.reason}" if answered.reason else ""
        return answered, reason

    def allowed_rules(self) -> list[dict[str, Any]]:
        """Return the rules that were answered with `Allow("rule")`, as pieces of a policy file."""
        with self._lock:
            return list(self._state.rules.values())

    def forget_file(self, path: str) -> None:
        """Forget what was allowed for good with the file of that name, or below it: a call puts another one there."""
        with self._lock:
            for key in [
                one for one in self._state.allowed if f"{one[1]}/".startswith(f"{path}/") and one[2] is not None
            ]:
                del self._state.allowed[key]
                self._state.rules.pop(key, None)

    def close(self) -> None:
        """Refuse what waits. Never waits. Idempotent."""
        with self._lock:
            self._state.closed = True
            pending = list(self._state.pending.values())
        for one in pending:
            self._settle(one, _Answered("unanswered", "nobody", "the sandbox ends"))


def _key_of(asked: Asked) -> _Key:
    return asked.capability, asked.target, asked.file, asked.detail + asked.content


def _completed(record: KernelRecord, answered: _Answered, reason: str, *, last: bool) -> KernelRecord:
    """Return the record of one question. Of several, the last one has what became of the call."""
    record = msgspec.structs.replace(record, answer=answered.answer, asked_by=answered.by, reason=reason)
    if answered.capability not in OF_FILES:
        return record
    record = msgspec.structs.replace(
        record,
        capability=answered.capability,
        target=answered.target,
        also=answered.also,
        detail=answered.detail or None,
    )
    if last or not answered.allows:
        return record
    return msgspec.structs.replace(record, verdict=Verdict.WOULD_DENY, errno=0)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _answered(answer: object, by: str) -> _Answered:
    if isinstance(answer, Allow):
        return _Answered(answer.scope, by, "")
    if isinstance(answer, Deny):
        return _Answered("deny", by, str(answer.reason)[:500])
    if isinstance(answer, BaseException):  # its text may tell what is the host's alone, which is in the log
        file = f": {answer.filename}" if isinstance(answer, OSError) and answer.filename else ""
        return _Answered("failed", by, f"the asker failed ({type(answer).__name__}{file})")
    return _Answered("failed", by, f"the answer is neither Allow nor Deny but {type(answer).__name__}")
