"""The listener waits for no guest: sockets come by threads of their own, and none lingers."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import pyisolate
from pyisolate.kernel.seccomp.listener import Listener
from pyisolate.kernel.seccomp.records import kernel_record
from pyisolate.records import Evaluation, KernelRecord
from tests.confined import cell, policy
from tests.in_child import outcome

pytestmark = pytest.mark.alone  # measures time

LINGER = """
import socket, struct
def linger(on, seconds):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, seconds))
        return struct.unpack("ii", one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]
[linger(1, 60), linger(1, -1), linger(1, 0), linger(0, 0)]
"""
SOCKETS = """
import socket, threading
def make():
    for _ in range(100):
        with socket.socket() as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            made.append((one.type, other.type, one.get_inheritable()))
made = []
threads = [threading.Thread(target=make) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
len(made), sorted(set(made))
"""


@pytest.fixture(scope="module")
def listening() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(network="listener") as own:
        yield own


@pytest.fixture
def granted() -> pyisolate.Policy:
    return pyisolate.Policy.preset("compute").allow_import("*").allow_connect("127.0.0.1:9")


def test_a_socket_resets_or_closes_at_once(listening: pyisolate.Supervisor, granted: pyisolate.Policy) -> None:
    with listening.spawn("guest", granted) as sandbox:
        assert sandbox.exec(LINGER).value == [0, 0, 1, 0]
        assert list(sandbox.get_denial_events()) == []


def test_a_socket_has_no_buffer_of_any_size(listening: pyisolate.Supervisor, granted: pyisolate.Policy) -> None:
    code = """
import socket
def sizes(kind, wanted):
    with socket.socket(kind) if kind != socket.AF_UNIX else socket.socketpair()[0] as one:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            one.setsockopt(socket.SOL_SOCKET, option, wanted)
            yield one.getsockopt(socket.SOL_SOCKET, option)
[*sizes(socket.AF_UNIX, 1 << 24), *sizes(socket.AF_INET, -1), *sizes(socket.AF_UNIX, 50000)]
"""
    with listening.spawn("guest", granted) as sandbox:
        *large, small, small_too = sandbox.exec(code).value
        assert max(large) <= 2 * 212_992
        assert small == small_too == 100_000


def test_sockets_of_many_threads_and_sandboxes_all_arrive(
    listening: pyisolate.Supervisor, granted: pyisolate.Policy
) -> None:
    sandboxes = [listening.spawn(f"guest{n}", granted) for n in range(6)]
    seen: list[object] = []

    def run(sandbox: pyisolate.Sandbox) -> None:
        seen.append(sandbox.exec(SOCKETS, timeout=60).value)

    threads = [threading.Thread(target=run, args=(sandbox,)) for sandbox in sandboxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(400, [(1, 2, False)])] * 6
    for sandbox in sandboxes:
        sandbox.close()


def test_a_guest_that_has_no_room_for_a_socket_is_told(
    listening: pyisolate.Supervisor, granted: pyisolate.Policy
) -> None:
    with (
        listening.spawn("guest", granted.with_limits(open_files=30)) as sandbox,
        pytest.raises(pyisolate.SandboxError, match="open"),
    ):
        sandbox.exec("import socket\nheld = []\nwhile True: held.append(socket.socket())")


def test_a_record_that_memory_was_short_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken from the ring by then, and would be a refusal without an event."""
    records: list[KernelRecord] = []
    made = iter([MemoryError()])

    def make(*arguments: Any, **options: Any) -> KernelRecord:
        if (failure := next(made, None)) is not None:
            raise failure
        return kernel_record(*arguments, **options)

    monkeypatch.setattr("pyisolate.kernel.seccomp.listener.kernel_record", make)
    listener = Listener(records.append)
    try:
        listener.start()
        with cell(_two_refusals, policy(), listener=listener) as wait:
            assert wait() == ["EPERM", "EPERM"]
            assert listener.lost("cell") == 1
            assert not listener.quiet("cell")
            listener.emit_uncounted("cell", 0)
            assert listener.quiet("cell")
    finally:
        listener.close()
    assert sorted((one.evaluation, one.count) for one in records) == [(Evaluation.COUNTED, 1), (Evaluation.ENFORCED, 1)]


def _two_refusals() -> list[str]:
    return [
        outcome(lambda kind=kind: socket.socket(socket.AF_PACKET, kind))
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW)
    ]


def test_the_records_of_one_sandbox_hold_up_no_other() -> None:
    """Whoever reads them is slow: as a host is whose sinks, or whose other threads, take their time."""
    read: list[str] = []
    hostile_seen = threading.Event()

    def slow(record: KernelRecord) -> None:
        read.append(record.sandbox_id)
        if record.sandbox_id == "hostile":
            hostile_seen.set()
            time.sleep(0.02)

    listener = Listener(slow)
    listener.start()

    def hostile() -> None:
        libc = ctypes.CDLL(None)
        for number in range(200):
            libc.syscall(41, 16, number, 0)
        time.sleep(30)

    def polite() -> str:
        return outcome(lambda: socket.socket(17, 3, 0))

    try:
        with (
            cell(hostile, policy(), listener=listener, name="hostile"),
            cell(polite, policy(), listener=listener, name="polite") as value,
        ):
            assert hostile_seen.wait(10)
            assert value() == "EPERM"
            started = time.monotonic()
            listener.drain_now("polite")
            assert time.monotonic() - started < 1  # the other's take four seconds
            assert read.count("polite") == 1
    finally:
        listener.close()
    assert read.count("hostile") == 200
