"""A probe's child that could not even try says why, and never passes for one that saw a refusal or an absence."""

from __future__ import annotations

import errno
import faulthandler
import os
import resource
import select
import signal
from collections.abc import Callable

import pytest

from pyisolate.kernel.probe_child import Child, ending, is_short_of_memory, say


def answer(ask: Callable[[], bytes]) -> bytes:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        child = Child(lambda: say(writer, ask))
        os.close(writer)
        try:
            return child.heard(pipe.read())
        finally:
            child.end()


def test_it_ends_with_who_made_it() -> None:
    """Also one that waits to be ended: a killed host leaves no process of a probe."""
    reader, writer = os.pipe()
    if (maker := os.fork()) == 0:
        try:
            Child(lambda: (os.close(reader), os.write(writer, str(os.getpid()).encode()), signal.pause()))
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        child = int(pipe.read(16))
        os.kill(maker, signal.SIGKILL)
        os.waitpid(maker, 0)
        ended = select.select([pipe], [], [], 10)[0]  # the last copy of the other end is closed
        if not ended:
            os.kill(child, signal.SIGKILL)
    assert ended


def without_memory() -> bytes:
    """No page more: the answer cannot be composed either."""
    resource.setrlimit(resource.RLIMIT_AS, (0, 0))
    kept = []
    while True:
        kept.append(b"x" * (64 << 10))


def fails_with(number: int) -> Callable[[], bytes]:
    def fail() -> bytes:
        raise OSError(number, os.strerror(number))

    return fail


def ends_by(number: int) -> Callable[[], bytes]:
    def end() -> bytes:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        os.kill(os.getpid(), number)
        signal.pause()
        return b""

    return end


def too_many_threads() -> bytes:
    raise RuntimeError("can't start new thread")


def a_defect() -> bytes:
    return bytes({}["gone"])


def test_an_answer_is_what_was_asked() -> None:
    assert answer(lambda: b"refused") == b"refused"
    assert answer(lambda: b"") == b""
    assert answer(lambda: b"x" * 200_000) == b"x" * 200_000


@pytest.mark.parametrize(
    ("ask", "number", "words"),
    [
        (without_memory, errno.ENOMEM, "out of memory"),
        (too_many_threads, errno.EAGAIN, "start new thread"),
        (fails_with(errno.EMFILE), errno.EMFILE, "Too many open files"),
        (fails_with(errno.EPERM), errno.EPERM, "Operation not permitted"),
        (a_defect, 0, "KeyError: 'gone'"),
        (ends_by(signal.SIGABRT), errno.ENOMEM, "memory is short"),
        (ends_by(signal.SIGTERM), errno.ECHILD, "by signal 15 (Terminated)"),
        (lambda: os._exit(0), errno.ECHILD, "exit status 0"),
    ],
)
def test_what_kept_it_from_an_answer_is_raised(ask: Callable[[], bytes], number: int, words: str) -> None:
    with pytest.raises(OSError, match="probe's child") as caught:
        answer(ask)
    assert caught.value.errno == number
    assert words in str(caught.value)


def test_an_end_is_a_shortage_only_where_memory_may_be_why() -> None:
    assert ending(3) == ("it ended with exit status 3", None)
    assert ending(errno.ENOMEM)[1] == ending(-signal.SIGSEGV)[1] == errno.ENOMEM
    assert ending(-signal.SIGSYS)[1] is None


def test_a_process_without_room_for_a_thread_is_short_of_memory() -> None:
    assert not is_short_of_memory()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), limits[1]))
    try:
        short = is_short_of_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert short
