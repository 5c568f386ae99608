"""Calls of a sandbox that wait for answers: what answering costs is the sandbox's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.kernel.rootview.worker import HostFile
from pyisolate.policy.compile import compile_policy
from pyisolate.records import Asked
from pyisolate.sandbox.waiting import WaitingCalls


class _Around:
    """A session, and where its calls wait."""

    id = "one"

    def __init__(self) -> None:
        self.compiled = compile_policy(Policy.preset("compute").with_ask("fs.read"))
        self.kernel, self.given, self.said = self, list[int | None](), list[bool | None]()

    def start_call(self, call: Callable[[], None]) -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    def answer(self, number: int, *, allow: bool | None, file: int | None = None) -> None:
        self.given.append(file)
        self.said.append(allow)


def test_time_that_a_file_took_elsewhere_is_the_sandboxes() -> None:
    around, asked = _Around(), list[Asked]()

    def opener(given: HostFile) -> tuple[int, float]:
        return os.open(given.path, given.flags), 5.0

    waiting = WaitingCalls(around, asked.append)
    waiting.take(Asked(number=1, capability=Capability.FS_READ, target=__file__), opener)
    assert [one.target for one in asked] == [__file__]
    assert waiting.spent_s < 5
    waiting.answer(1, allow=True)
    assert waiting.spent_s >= 5
    (descriptor,) = around.given
    assert descriptor is not None
    os.close(descriptor)


class _Short(_Around):
    """The same, where the host has no thread."""

    def start_call(self, call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")


def _opener(_path: str, _device: int, _inode: int) -> tuple[int, float]:
    raise AssertionError("no file is opened")


def test_without_a_thread_a_file_is_the_kernels_to_decide_and_no_program_starts_out_of_its_turn() -> None:
    around = _Short()
    waiting = WaitingCalls(around, list[Asked]().append)
    for number, capability in enumerate((Capability.FS_READ, Capability.PROCESS_EXEC)):
        waiting.take(Asked(number=number, capability=capability, target="/usr/bin/true"), _opener)
    assert around.said == [None, False]


def test_time_until_a_program_has_begun_is_the_sandboxes() -> None:
    around = _Around()
    waiting = WaitingCalls(around, list[Asked]().append)
    gone = 2**22  # past the highest number of a task (proc(5), pid_max)
    waiting.take(Asked(number=1, capability=Capability.PROCESS_EXEC, target="/usr/bin/true", tid=gone), _opener)
    assert around.said == [None]
    assert waiting.spent_s > 0
