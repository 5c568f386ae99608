"""Calls of a sandbox that wait for answers: what answering costs is the sandbox's."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.kernel.rootview.names import NameChange
from pyisolate.kernel.rootview.worker import HostFile
from pyisolate.policy.compile import compile_policy
from pyisolate.records import Asked, CallStage
from pyisolate.sandbox.starting import Starting
from pyisolate.sandbox.waiting import WaitingCalls


class _Around:
    """A session, and where its calls wait."""

    id = "one"

    def __init__(self) -> None:
        self.compiled = compile_policy(Policy.preset("compute").with_ask("fs.read"))
        self.kernel, self.given, self.said = self, list[int](), list[bool | None]()

    def start_call(self, call: Callable[[], None]) -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    def start_look(self, call: Callable[[], None]) -> None:
        self.start_call(call)

    def answer(self, number: int, *, allow: bool | None) -> None:
        self.said.append(allow)

    def give(self, number: int, call: int, file: int, *, empty: bool) -> bool:
        self.given.append(file)
        return True

    def begin(self, number: int, call: int) -> bool:
        return True

    def done(self, number: int, error: int) -> None:
        self.said.append(not error)

    def stage(self, call: int) -> CallStage:
        return "waits" if not self.said else "went_on"


def test_time_that_a_file_took_elsewhere_is_the_sandboxes() -> None:
    around, asked = _Around(), list[Asked]()

    class Host(_Host):
        def file(self, given: HostFile, sandbox_id: str) -> tuple[int, float]:
            return os.open(given.place.path, given.flags), 5.0

    waiting = WaitingCalls(around, asked.append, [].append)
    waiting.take(Asked(number=1, capability=Capability.FS_READ, target=__file__), Host())
    assert [one.target for one in asked] == [__file__]
    assert waiting.spent_s < 5
    waiting.answer(1, allow=True)
    assert waiting.spent_s >= 5
    (descriptor,) = around.given
    os.close(descriptor)


class _Short(_Around):
    """The same, where the host has no thread."""

    def start_call(self, call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")


class _Host:
    def file(self, given: HostFile, sandbox_id: str) -> tuple[int, float]:
        raise AssertionError("no file is opened")

    def change(self, change: NameChange, sandbox_id: str) -> tuple[int, float]:
        raise AssertionError("no name is changed")


def test_without_a_thread_a_file_is_the_kernels_to_decide_and_no_program_starts_out_of_its_turn() -> None:
    around = _Short()
    waiting = WaitingCalls(around, list[Asked]().append, [].append)
    for number, capability in enumerate((Capability.FS_READ, Capability.PROCESS_EXEC)):
        waiting.take(Asked(number=number, capability=capability, target="/usr/bin/true"), _Host())
    assert around.said == [None, False]


def test_time_until_a_program_has_begun_is_the_sandboxes() -> None:
    around = _Around()
    waiting = WaitingCalls(around, list[Asked]().append, [].append)
    gone = 2**22  # past the highest number of a task (proc(5), pid_max)
    waiting.take(Asked(number=1, capability=Capability.PROCESS_EXEC, target="/usr/bin/true", tid=gone), _Host())
    assert around.said == [None]
    assert waiting.spent_s > 0


class _Gates:
    def has(self, _path: str) -> bool:
        return True


def test_looking_at_a_program_is_the_sandboxes_and_its_question_names_the_file() -> None:
    around, asked = _Around(), list[Asked]()
    program = os.path.realpath("/usr/bin/true")
    around.compiled = compile_policy(Policy.preset("compute").with_ask({"exec": program}))
    waiting = WaitingCalls(around, asked.append, [].append)
    waiting.starting.gates = _Gates()  # type: ignore[assignment]
    waiting.take(Asked(number=1, capability=Capability.PROCESS_EXEC, target=program, tid=2**22), _Host())
    assert [one.target for one in asked] == [program]
    assert waiting.spent_s > 0


class _Listener:
    """Where 32 calls wait, and all that came before them have been given up."""

    def __init__(self) -> None:
        self.last, self.said = 0, list[tuple[int, bool | None]]()

    def answer(self, number: int, *, allow: bool | None) -> None:
        self.said.append((number, allow))

    def stage(self, call: int) -> CallStage:
        return "waits" if call > self.last - 32 else "gone"


def test_calls_that_are_given_up_take_no_thread_no_room_and_no_turn() -> None:
    serving, served, listener = list[Callable[[], None]](), list[int](), _Listener()
    starting = Starting(serving.append)
    for number in range(1, 1001):
        listener.last = number
        asked = Asked(number=number, capability=Capability.PROCESS_EXEC, target="/usr/bin/true", call=number)
        starting.add(listener, asked, partial(served.append, number), put=number == 1)
    assert len(serving) == 1
    serving[0]()
    assert served == list(range(969, 1001))
    assert listener.said == [(1, True)] + [(number, None) for number in range(2, 969)]  # nothing is left there
    listener.last = 32
    listener.said.clear()
    for number in range(1, 101):  # more than a listener lets wait
        asked = Asked(number=number, capability=Capability.PROCESS_EXEC, target="/usr/bin/true", call=32)
        starting.add(listener, asked, partial(served.append, number), put=False)
    assert listener.said == [(number, False) for number in range(65, 101)]


class _Running(_Listener):
    """Where a call that was answered is under way."""

    def stage(self, call: int) -> CallStage:
        return "waits" if call >= len(self.said) else "went_on"


@pytest.mark.parametrize("followed", [False, True])
def test_a_call_that_is_under_way_for_too_long_has_the_next_refused(
    followed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task computes for itself: it executes no program, and its call does not come to its end."""
    listener, starting = _Running(), Starting(lambda call: call(), now=itertools.count(0.0, 30.0).__next__)
    monkeypatch.setattr("pyisolate.sandbox.starting._EXEC_TICKS", 2**40)  # however long this test takes
    with subprocess.Popen(["sh", "-c", "echo; while :; do :; done"], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            for number in range(2):
                asked = Asked(number=number, capability=Capability.PROCESS_EXEC, target="/", call=number, tid=busy.pid)
                starting.let(listener, asked, None, put=False)
                if followed:  # by another call of that task
                    starting.came(busy.pid)
        finally:
            busy.kill()
    assert listener.said == [(0, None), (1, None if followed else False)]


def test_an_answer_that_fails_keeps_no_other_start_back() -> None:
    serving, served = list[Callable[[], None]](), list[int]()
    starting, around = Starting(serving.append), _NoMemory()
    for number in range(3):
        asked = Asked(number=number, capability=Capability.PROCESS_EXEC, target="/usr/bin/true", call=number)
        starting.add(around, asked, partial(served.append, number), put=False)
    serving.pop()()
    assert served == [1, 2]
    starting.add(around, asked, partial(served.append, 3), put=False)
    assert len(serving) == 1, "a new thread serves what comes after"


class _NoMemory(_Listener):
    """The same, where the host could not answer the first, which was given up."""

    def answer(self, number: int, *, allow: bool | None) -> None:
        raise OSError(12, "no memory")

    def stage(self, call: int) -> CallStage:
        return "waits" if call else "gone"


def test_a_sandbox_is_forgotten_when_the_call_that_a_yes_carries_out_has_its_record() -> None:
    around, asked = _Around(), list[Asked]()
    around.compiled = compile_policy(Policy.preset("compute").with_ask("fs.create"))
    order = list[str]()

    class Host(_Host):
        def change(self, change: NameChange, sandbox_id: str) -> tuple[int, float]:
            waiting.call_after_begun(lambda: order.append(f"forgotten after {around.said}"))  # its sandbox ends now
            order.append("made")
            return 0, 0.0

    waiting = WaitingCalls(around, asked.append, [].append)
    waiting.call_after_begun(lambda: order.append("nothing waits"))  # the control
    made = Asked(number=1, capability=Capability.FS_CREATE, target=f"/var/tmp/{os.getpid()}-new", syscall="mkdirat")
    waiting.take(msgspec.structs.replace(made, tid=os.getpid(), mode=0o700), Host())
    waiting.answer(1, allow=True)
    assert order == ["nothing waits", "made", "forgotten after [True]"]


def test_looks_that_a_file_system_keeps_are_bounded_and_take_no_thread_of_the_hosts_functions() -> None:
    kept = list[Callable[[], None]]()

    class Around(_Around):
        def start_call(self, call: Callable[[], None]) -> None:
            raise AssertionError("a thread of the host's functions")

        def start_look(self, call: Callable[[], None]) -> None:
            kept.append(call)

    around = Around()
    waiting = WaitingCalls(around, list[Asked]().append, [].append)
    for number in range(40):
        waiting.take(Asked(number=number, call=number, tid=1, capability=Capability.FS_READ, target="/absent"), _Host())
    assert len(kept) == 32
    assert around.said == [None] * 8
    kept.pop()()
    waiting.take(Asked(number=41, call=41, tid=1, capability=Capability.FS_READ, target="/absent"), _Host())
    assert len(kept) == 32
