"""Twenty honest guests, alone and beside four hostile ones: what the honest wait, and what the host holds.

`python -m tests.hostile` prints it. The two are measured in turns, because a machine that others use changes between.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil

import pyisolate
from pyisolate.capability import Capability
from pyisolate.cell import wire
from pyisolate.decision import DenialCode, Verdict
from pyisolate.records import BrokerRecord
from pyisolate.telemetry.recorder import Recorder
from tests.foreign_functions import with_ctypes

HONEST = 20
#: Between two requests of an honest client (seconds): some 400 requests a second, which two processors bear with ease.
THINK_S = 0.05
TASK = "import json\ndef task(): return json.loads(json.dumps({'numbers': list(range(200))}))['numbers'][-1]"
#: What the honest may wait beside the hostile, of what they wait alone.
WORST = 2.0

#: What a hostile guest finds in its cell: the C library, and the socket that leads to the supervisor.
FINDS_THE_WIRE = """
import ctypes, fcntl, itertools, os, socket, stat, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def is_socket(number):
    try: return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError: return False
wire = next(number for number in range(3, 64) if is_socket(number))
"""
SETUP = f"""{FINDS_THE_WIRE}
def start(seconds):
    until = time.monotonic() + seconds
    def after_the_answer():
        time.sleep(0.2)
        attack(until)
    for _ in range(THREADS): threading.Thread(target=after_the_answer).start()
"""
#: What each of them does with some threads, outside of any request.
ATTACKS = {
    "flood": """
one_writes = threading.Lock()
def attack(until):
    while time.monotonic() < until:
        with one_writes:
            rest = memoryview(FRAMES)
            while rest: rest = rest[os.write(wire, rest):]
""",
    "refusals": """
def attack(until):
    while time.monotonic() < until: libc.unshare(0x10000000)
""",
    "linger": """
def attack(until):
    while time.monotonic() < until:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
            try:
                peer.settimeout(0.2)
                peer.connect(("127.0.0.1", PORT))
                peer.setblocking(False)
                while True: peer.sendmsg([b"x" * 60000])
            except OSError: pass
""",
    "locks": """
def attack(until):
    while time.monotonic() < until:
        with open(f"locked{threading.get_ident()}", "w") as file:
            for byte in range(0, 4096, 2):
                try: fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
                except OSError: break
""",
    "rights": """
def attack(until):
    one = os.dup(0)
    while time.monotonic() < until:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            try:
                while True: socket.send_fds(left, [b"x" * 2000], [one] * 50)
            except OSError: pass
""",
    "spin": """
def attack(until):
    while time.monotonic() < until: pass
""",
    "burn": """
import hashlib
def attack(until):
    while time.monotonic() < until: hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)
""",
}
FOUR = ("flood", "linger", "locks", "rights")
#: Of many threads each: those of Python take turns every 5 ms, native ones run all at the same time.
MANY = 14
FAMILIES = ((FOUR, 3), (("spin",) * 4, MANY), (("burn",) * 4, MANY))


@dataclass
class Turn:
    """What one turn measured."""

    waited_s: list[float] = field(default_factory=list)
    host_cpu_s: float = 0.0
    guest_cpu_s: float = 0.0
    rss_bytes: int = 0
    descriptors: int = 0

    def at(self, part: float) -> float:
        """Return what this part of the requests waited at most, in milliseconds."""
        return sorted(self.waited_s)[min(len(self.waited_s) - 1, int(part * len(self.waited_s)))] * 1000

    def __str__(self) -> str:
        return (
            f"{len(self.waited_s):6d} requests: median {self.at(0.5):6.2f} p99 {self.at(0.99):6.2f} "
            f"worst {self.at(1):6.2f} ms; processor time of the host {self.host_cpu_s:5.2f} s, of the hostile "
            f"{self.guest_cpu_s:5.2f} s; host {self.rss_bytes / 2**20:.1f} MiB, {self.descriptors} descriptors"
        )


@contextlib.contextmanager
def _never_reading() -> Iterator[int]:
    """Listen on a port and read nothing."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield server.getsockname()[1]


def forged_frames() -> bytes:
    """Return forged records of refusals, as many as fit into a write."""
    one = BrokerRecord(
        sequence=1,
        capability=Capability.FS_READ,
        target="/etc/shadow",
        verdict=Verdict.DENY,
        code=DenialCode.NOT_GRANTED,
        pid=1,
        monotonic_ns=1,
    )
    return wire.encode(wire.Denial(record=one)) * 200


def _hostile(supervisor: pyisolate.Supervisor, kind: str, number: int, port: int, threads: int) -> pyisolate.Sandbox:
    policy = with_ctypes().allow_connect(f"127.0.0.1:{port}")
    policy = policy.with_limits(cpu="1h", wall="1h", processes=64)
    sandbox = supervisor.spawn(f"{kind}{number}", policy)
    sandbox.exec(f"{SETUP}\nPORT, THREADS = {port}, {threads}\nFRAMES = {forged_frames()!r}\n{ATTACKS[kind]}")
    return sandbox


def measure(
    kinds: tuple[str, ...] = FOUR,
    seconds: float = 3.0,
    turns: int = 4,
    threads: int = 3,
    log: Callable[[str], None] = lambda _line: None,
) -> tuple[list[Turn], list[Turn]]:
    """Return what was measured in so many turns, of the honest alone and beside the hostile."""
    alone: list[Turn] = []
    beside: list[Turn] = []
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_never_reading())
        recorder = Recorder()
        stack.callback(recorder.shutdown)
        supervisor = stack.enter_context(pyisolate.Supervisor(pool_size=4, recorder=recorder))
        honest = [stack.enter_context(supervisor.spawn(f"honest{number}")) for number in range(HONEST)]
        hostile = [stack.enter_context(_hostile(supervisor, kind, n, port, threads)) for n, kind in enumerate(kinds)]
        for one in honest:
            one.exec(TASK)
        for _ in range(turns):
            for measured in (alone, beside):
                if measured is beside:
                    for one in hostile:
                        one.call("start", seconds + 0.5)
                measured.append(_turn(honest, hostile, seconds))
                log(f"{'beside' if measured is beside else 'alone':6s} {measured[-1]}")
                time.sleep(1.0)
    return alone, beside


def _turn(honest: list[pyisolate.Sandbox], hostile: list[pyisolate.Sandbox], seconds: float) -> Turn:
    turn, lock = Turn(), threading.Lock()
    until = time.monotonic() + seconds
    errors: list[BaseException] = []

    def work(sandbox: pyisolate.Sandbox, late: float) -> None:
        time.sleep(late)  # clients do not come at the same moment
        waited = []
        try:
            while time.monotonic() < until:
                began = time.monotonic()
                sandbox.call("task")
                waited.append(time.monotonic() - began)
                time.sleep(THINK_S)
        except BaseException as error:
            errors.append(error)
        with lock:
            turn.waited_s += waited

    process = psutil.Process()
    used, guests = sum(process.cpu_times()[:2]), sum(one.stats.cpu_s or 0 for one in hostile)
    threads = [
        threading.Thread(target=work, args=(one, number * THINK_S / HONEST)) for number, one in enumerate(honest)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    turn.host_cpu_s = sum(process.cpu_times()[:2]) - used
    turn.guest_cpu_s = sum(one.stats.cpu_s or 0 for one in hostile) - guests
    turn.rss_bytes, turn.descriptors = process.memory_info().rss, _descriptors()
    return turn


def _descriptors(within_s: float = 0.5) -> int:
    """Return how many are open at the least: the listener has one more for each call that it is just looking at."""
    until, least = time.monotonic() + within_s, len(os.listdir("/proc/self/fd"))
    while time.monotonic() < until:
        time.sleep(0.02)
        least = min(least, len(os.listdir("/proc/self/fd")))
    return least


def ratio(alone: list[Turn], beside: list[Turn], part: float = 0.99) -> float:
    """Return how much longer the honest waited beside the hostile: the median of the turns."""
    ratios = sorted(two.at(part) / one.at(part) for one, two in zip(alone, beside, strict=True))
    return ratios[len(ratios) // 2]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(ATTACKS)}; default: {FAMILIES}, one after the other")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=3, help="of each hostile guest, 14 at most")
    given = parser.parse_args()
    worst = 0.0
    for kinds, threads in ((tuple(given.kinds), given.threads),) if given.kinds else FAMILIES:
        print(f"beside {', '.join(kinds)}, of {threads} threads each", flush=True)
        alone, beside = measure(kinds, given.seconds, given.turns, threads, lambda line: print(line, flush=True))
        worst = max(worst, ratio(alone, beside))
        print(f"p99 {ratio(alone, beside):.2f} times, median {ratio(alone, beside, 0.5):.2f} times what it is alone")
    return int(worst > WORST)


if __name__ == "__main__":
    sys.exit(main())
