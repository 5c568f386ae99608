"""Guests and hosts that send without end: memory stays bounded, others are served, every denial is counted."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.telemetry.recorder import Recorder
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.require import require


def rss_mib() -> float:
    return psutil.Process().memory_info().rss / (1 << 20)


@pytest.fixture
def steady() -> Iterator[None]:
    """The host's memory after the test is about what it was, without what the C library keeps of what was freed."""
    before = held_mib()
    yield
    until = time.monotonic() + 10
    while (after := held_mib()) >= before + 96 and time.monotonic() < until:
        time.sleep(0.1)  # a thread that ends holds its last frame yet
    assert after < before + 96, f"{before:.0f} -> {after:.0f} MiB"


def held_mib() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return rss_mib()


def test_too_many_messages_end_the_sandbox(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("flood", limits={"messages": 100}) as sandbox:
        with pytest.raises(pyisolate.MessagesExceeded) as caught:
            sandbox.exec("while True: post(1)")
        assert caught.value.denial_event is not None


def test_large_messages_that_nobody_receives_end_the_sandbox(supervisor: pyisolate.Supervisor, steady: None) -> None:
    """A thousand allowed messages of 16 MB are 16 GB of the host's memory."""
    peak, done = [rss_mib()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak.append(rss_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with supervisor.spawn("large", limits={"memory": "1GiB"}) as sandbox, pytest.raises(pyisolate.MessagesExceeded):
            sandbox.exec("data = b'x' * (15 << 20)\nfor _ in range(500): post(data)")
    finally:
        done.set()
        watcher.join()
    assert max(peak) - peak[0] < 400, f"{peak[0]:.0f} -> {max(peak):.0f} MiB"


@pytest.mark.parametrize("how", ["post", "value"])
def test_a_small_frame_that_is_huge_once_decoded_is_refused(
    supervisor: pyisolate.Supervisor, steady: None, how: str
) -> None:
    """Sixteen million empty maps are 16 MB on the wire and a gigabyte of Python objects; the guest writes the frame."""
    hostile = (
        "import gc, os, stat, struct\n"
        "def text(data): return bytes([0xa0 | len(data)]) + data\n"
        "def binary(data): return b'\\xc6' + struct.pack('>I', len(data)) + data\n"
        "def own_request():\n"
        "    requests = [one for one in gc.get_objects() if type(one).__name__ == 'Request']\n"
        "    return struct.pack('>Q', requests[0].id)\n"
        "def send(kind, **fields):\n"
        "    payload = bytes([0x81 + len(fields)]) + text(b't') + text(kind)\n"
        "    payload += b''.join(text(name.encode()) + value for name, value in fields.items())\n"
        "    data = memoryview(struct.pack('>I', len(payload)) + payload)\n"
        "    wire = next(n for n in range(3, 64) if is_socket(n))\n"
        "    while data: data = data[os.write(wire, data):]\n"
        "def is_socket(number):\n"
        "    try: return stat.S_ISSOCK(os.fstat(number).st_mode)\n"
        "    except OSError: return False\n"
        "maps = 15_000_000 if HUGE else 15\n"
        "body = b'\\xdd' + struct.pack('>I', maps) + b'\\x80' * maps\n"
    )
    hostile += (
        "send(b'message', encoded=binary(body))\n"
        if how == "post"
        else "send(b'done', id=b'\\xcf' + own_request(), encoded=binary(body))\nimport time; time.sleep(60)\n"
    )
    peak, done = [rss_mib()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak.append(rss_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        policy = Policy.preset("compute").with_limits(memory="1GiB", cpu="30s")
        with supervisor.spawn("small", policy) as sandbox:
            value = sandbox.exec("HUGE = False\n" + hostile).value
            assert (sandbox.recv(5) if how == "post" else value) == [{}] * 15
        with (
            supervisor.spawn("bomb", policy) as sandbox,
            pytest.raises(pyisolate.SandboxDied, match=r"bad value|protocol"),
        ):
            sandbox.exec("HUGE = True\n" + hostile)
    finally:
        done.set()
        watcher.join()
    assert max(peak) - peak[0] < 400, f"{peak[0]:.0f} -> {max(peak):.0f} MiB"


def test_a_million_denials_are_all_counted_and_cost_no_memory(supervisor: pyisolate.Supervisor, steady: None) -> None:
    count = 30_000
    with supervisor.spawn("denials", limits={"cpu": "60s", "wall": "90s"}) as sandbox:
        sandbox.exec(
            f"for n in range({count}):\n"
            "    try:\n        open(f'/etc/secret-{n % 2000}')\n    except PermissionError:\n        pass"
        )
        assert sandbox.stats.denials == count
        stored = sandbox.get_denial_events()
        assert sum(event.count for event in stored) + sandbox.stats.events_lost == count


def test_refused_system_calls_of_many_threads_are_all_counted(supervisor: pyisolate.Supervisor, steady: None) -> None:
    """More than the listener's ring holds before it is read: those beyond are told as a count."""
    with supervisor.spawn("calls", with_ctypes(), limits={"cpu": "60s", "wall": "60s"}) as sandbox:
        sandbox.exec(
            "import ctypes, threading\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "def flood():\n"
            "    for _ in range(2000): libc.unshare(0x10000000)\n"
            "threads = [threading.Thread(target=flood) for _ in range(4)]\n"
            "[t.start() for t in threads]\n[t.join() for t in threads]"
        )
        told = sandbox.get_denial_events()
        assert sandbox.stats.denials == 8000
        assert sum(event.count for event in told) + sandbox.stats.events_lost == 8000


def test_one_that_floods_does_not_starve_another(supervisor: pyisolate.Supervisor) -> None:
    stop = threading.Event()

    def flood() -> None:
        with supervisor.spawn("flood", limits={"wall": "30s", "cpu": "30s", "messages": 10**9}) as noisy:
            while not stop.is_set():
                noisy.exec(
                    "for n in range(300):\n    post(n)\n"
                    "    try:\n        open('/etc/shadow')\n    except PermissionError:\n        pass"
                )

    flooder = threading.Thread(target=flood)
    with supervisor.spawn("quiet") as quiet:
        flooder.start()
        try:
            slowest = 0.0
            end = time.monotonic() + 2
            while time.monotonic() < end:
                started = time.monotonic()
                assert quiet.eval("1") == 1
                slowest = max(slowest, time.monotonic() - started)
        finally:
            stop.set()
            flooder.join()
    assert slowest < 1.0


FLOOD = (
    "import ctypes, threading, time\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "def flood(seconds):\n"
    "    def ask():\n"
    "        while time.monotonic() < end: libc.unshare(0x10000000)\n"
    "    end = time.monotonic() + seconds\n"
    "    threads = [threading.Thread(target=ask) for _ in range(4)]\n"
    "    [t.start() for t in threads]\n    [t.join() for t in threads]\n"
)


class First:
    """A sink that remembers when a sandbox's first event came, by the sandbox's name."""

    immediate = True

    def __init__(self) -> None:
        self.came: dict[str, float] = {}

    def emit(self, event: pyisolate.DenialEvent) -> None:
        self.came.setdefault(event.sandbox, time.monotonic())

    def close(self) -> None:
        pass

    def wait(self, name: str, timeout_s: float) -> float:
        end = time.monotonic() + timeout_s
        while name not in self.came and time.monotonic() < end:
            time.sleep(0.01)
        return self.came[name]


def test_a_flood_at_the_listener_holds_back_neither_anothers_events_nor_the_end() -> None:
    """Refusals come faster than Python reads them: the drain takes turns, and closing does not wait for it to end."""
    first = First()
    recorder = Recorder(sinks=[first], alerts=None)
    compute = with_ctypes().with_limits(wall="60s", cpu="60s")
    with pyisolate.Supervisor(pool_size=0, recorder=recorder) as supervisor:
        require("seccomp", inside.plan(supervisor).listener is not None, "no notification listener here")
        noisy, quiet = supervisor.spawn("noisy", compute), supervisor.spawn("quiet", compute)
        noisy.exec(FLOOD)  # the earlier of the two at the listener
        quiet.exec("import ctypes, time\nlibc = ctypes.CDLL(None, use_errno=True)")

        def flood() -> None:
            with contextlib.suppress(pyisolate.SandboxError):
                noisy.exec("flood(20)")

        def ask() -> None:
            with contextlib.suppress(pyisolate.SandboxError):
                quiet.exec("libc.unshare(0x10000000); post(1); time.sleep(20)")

        threads = [threading.Thread(target=flood), threading.Thread(target=ask)]
        threads[0].start()
        first.wait("noisy", 10)  # the control: the flood has begun
        threads[1].start()
        quiet.recv(timeout=15)
        refused = time.monotonic()
        late = first.wait("quiet", 15) - refused
        began = time.monotonic()
        inside.plan(supervisor).listener.close()
        closed = time.monotonic() - began
        noisy.kill()
        quiet.kill()
        for thread in threads:
            thread.join()
    recorder.shutdown(timeout=1)
    assert late < 5
    assert closed < 5


class Slow:
    """A sink that takes its time."""

    immediate = False

    def __init__(self) -> None:
        self.seen = 0

    def emit(self, _event: object) -> None:
        self.seen += 1
        time.sleep(0.05)

    def close(self) -> None:
        pass


def test_a_slow_sink_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    recorder = Recorder(sinks=[slow], alerts=None)
    lost_before = recorder.metrics.lost.total()
    suppressed_before = recorder.metrics.suppressed.total()
    with pyisolate.Supervisor(pool_size=0, recorder=recorder) as supervisor, supervisor.spawn("slow sink") as sandbox:
        started = time.monotonic()
        sandbox.exec(
            "for n in range(3000):\n    try:\n        open(f'/etc/s{n}')\n    except PermissionError:\n        pass"
        )
        assert time.monotonic() - started < 20  # the sink would take 150 s
        assert sandbox.stats.denials == 3000
    recorder.shutdown(timeout=1)
    lost = recorder.metrics.lost.total() - lost_before
    suppressed = recorder.metrics.suppressed.total() - suppressed_before
    assert 0 < slow.seen < 3000
    assert lost + suppressed > 0, "what the sink did not get is counted"


class Broken(Slow):
    """A sink that fails."""

    immediate = True

    def emit(self, _event: object) -> None:
        raise OSError(28, "No space left on device")


def test_a_sink_on_a_full_disk_masks_no_refusal() -> None:
    recorder = Recorder(sinks=[Broken()], alerts=None)
    errors = recorder.metrics.audit_errors.total()
    with pyisolate.Supervisor(pool_size=0, recorder=recorder) as supervisor, supervisor.spawn("full disk") as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")
        assert len(sandbox.get_denial_events()) == 1
    recorder.shutdown(timeout=1)
    assert recorder.metrics.audit_errors.total() == errors + 1


def test_a_guest_that_never_reads_is_told_apart_from_one_that_is_slow(
    supervisor: pyisolate.Supervisor, steady: None
) -> None:
    with supervisor.spawn("busy", limits={"memory": "512MiB"}) as sandbox:
        runner = threading.Thread(target=lambda: sandbox.exec("import time; time.sleep(1.5)"))
        runner.start()
        time.sleep(0.2)
        runner.join()
        # Now it runs nothing: what is posted waits for its next `recv`.
        for number in range(100):
            sandbox.post(number)
        assert sandbox.exec("[recv(timeout=1) for _ in range(100)]").value == list(range(100))


def test_output_without_end_is_cut(supervisor: pyisolate.Supervisor, steady: None) -> None:
    with supervisor.spawn("output") as sandbox, pytest.raises(pyisolate.OutputExceeded):
        sandbox.exec("while True: print('x' * 4096)")


def test_descriptors_that_a_guest_sends_are_dropped(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("descriptors") as sandbox:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(
                "import socket, os, array\n"
                "fds = array.array('i', [0, 1, 2] * 80)\n"
                "peer = next(fd for fd in range(3, 50) if os.path.exists(f'/proc/self/fd/{fd}') or True)\n"
                "s = socket.socket(fileno=3)\n"
                "while True: s.sendmsg([b'\\0\\0\\0\\1x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])\n",
                timeout=3,
            )
        assert len(os.listdir("/proc/self/fd")) <= before + 8
