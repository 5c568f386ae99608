"""The listener's exact join: what went through the hooks and what went round them is told apart, and honest code is
never accused."""

from __future__ import annotations

import collections
import platform
import re
import sys
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.policy.compile import compile_policy
from pyisolate.telemetry.event import DenialEvent
from tests import inside
from tests.foreign_functions import with_ctypes

#: The broker grants all of it; the listener's table, swapped behind its back, only port 7000: policy drift at will.
WIDE = (
    with_ctypes()
    .with_limits(wall="100s", cpu="100s", processes=32)
    .allow_connect("127.0.0.1:7000-7099")
    .allow_bind("127.0.0.1:*")
    .allow_exec("/usr")
    .deny_fork()  # a guest that may fork does so without asking the listener
    .allow_read("/usr")
)
TIGHT = with_ctypes().allow_connect("127.0.0.1:7000")

GUEST = """
import ctypes, os, random, socket, struct, subprocess, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def inet(port):
    return struct.pack("<H", 2) + struct.pack(">H", port) + bytes([127, 0, 0, 1]) + bytes(8)

def honest(function, *args):
    try:
        function(*args)
    except OSError as error:
        return isinstance(error, PermissionError)
    return False

class Worker:
    def __init__(self, seed):
        self.rng, self.told = random.Random(seed), {}
        self.tcp, self.udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)

    def note(self, refused, capability, broker):
        if refused:
            self.told[capability + " " + broker] = self.told.get(capability + " " + broker, 0) + 1

    def py_connect(self, port):
        self.note(honest(self.tcp.connect, ("127.0.0.1", port)), "net.connect", "allow")
    def raw_connect(self, port):
        refused = libc.connect(self.tcp.fileno(), inet(port), 16) < 0 and ctypes.get_errno() == 13
        self.note(refused, "net.connect", "not_consulted")
    def py_sendto(self, port):
        self.note(honest(self.udp.sendto, b"x", ("127.0.0.1", port)), "net.send", "allow")
    def raw_sendto(self, port):
        self.note(libc.sendto(self.udp.fileno(), b"x", 1, 0, inet(port), 16) < 0, "net.send", "not_consulted")
    def py_sendmsg(self, port):
        self.note(honest(self.udp.sendmsg, [b"x"], [], 0, ("127.0.0.1", port)), "net.send", "allow")
    def py_socket(self, port):
        socket.socket().close()
    def raw_socket(self, port):
        self.note(libc.socket(17, 3, 0) < 0, "net.socket", "not_consulted")
    def py_bind(self, port):
        with socket.socket() as made:
            self.note(honest(made.bind, ("127.0.0.1", 0)), "net.bind", "allow")
    def raw_bind(self, port):
        with socket.socket() as made:
            self.note(libc.bind(made.fileno(), inet(port), 16) < 0, "net.bind", "not_consulted")
    def raw_listen(self, port):
        with socket.socket() as made:
            self.note(libc.listen(made.fileno(), 1) < 0, "net.listen", "not_consulted")
    def raw_fork(self, port):
        self.note(libc.fork() < 0, "process.fork", "not_consulted")
    def raw_mount(self, port):
        self.note(libc.mount(b"a", b"/", b"tmpfs", 0, None) < 0, "kernel.mount", "not_consulted")
    def file(self, port):
        open("/dev/null").close()

    def work(self, count):
        kinds = [name for name in vars(Worker) if name.startswith(("py_", "raw_", "file"))]
        for _ in range(count):
            getattr(self, self.rng.choice(kinds))(self.rng.choice([7000, 7001, 7002]))

workers = {}

def run(round_, threads, count):
    if threads not in workers:
        workers[threads] = [Worker(n) for n in range(threads)]
    running = [threading.Thread(target=worker.work, args=(count,)) for worker in workers[threads]]
    for thread in running: thread.start()
    for thread in running: thread.join()
    total = {}
    for worker in workers[threads]:
        for key, times in worker.told.items():
            total[key] = total.get(key, 0) + times
        worker.told.clear()
        worker.tcp.close(); worker.tcp = socket.socket()
    return total
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1, network="listener") as made:
        yield made


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor) -> Iterator[pyisolate.Sandbox]:
    """A sandbox whose listener is stricter than its broker."""
    with supervisor.spawn("asked", WIDE) as made:
        made.exec(GUEST)
        tighten(supervisor, made)
        yield made


def tighten(supervisor: pyisolate.Supervisor, sandbox: pyisolate.Sandbox, policy: Policy = TIGHT) -> None:
    assert inside.plan(supervisor).listener is not None
    inside.plan(supervisor).listener.update(
        sandbox.id, compile_policy(policy, interpreter=inside.runtime(supervisor).tables.interpreter)
    )


def told(events: list[DenialEvent]) -> dict[str, int]:
    found: collections.Counter[str] = collections.Counter()
    for event in events:
        if not _of_the_interpreter(event):
            assert (event.kernel_decision, event.kernel_enforcer) == ("deny", "seccomp-notify"), event
            found[f"{event.syscall} {event.broker_decision}"] += event.count
    return dict(found)


def _of_the_interpreter(event: DenialEvent) -> bool:
    """What the interpreter looks for by itself: from 3.12 on os.fork counts the threads in /proc/self/stat."""
    own = sys.version_info >= (3, 12) and event.capability == "fs.read"
    return event.capability == "fs.access" or (own and re.fullmatch(r"/proc/\d+/stat", event.target) is not None)


def since(sandbox: pyisolate.Sandbox, source: str) -> dict[str, int]:
    """Run something; return what it added to the refusals."""
    before = collections.Counter(told(sandbox.get_denial_events()))
    sandbox.exec(source)
    return dict(collections.Counter(told(sandbox.get_denial_events())) - before)


def test_thousands_of_calls_through_the_hooks_and_round_them_are_told_apart(
    supervisor: pyisolate.Supervisor, sandbox: pyisolate.Sandbox
) -> None:
    wanted: collections.Counter[str] = collections.Counter()
    for round_ in range(60):
        wanted.update(sandbox.call("run", round_, 1 + round_ % 4, 25))
        sandbox.get_denial_events()
    assert inside.plan(supervisor).listener is not None
    assert inside.plan(supervisor).listener.lost(sandbox.id) == 0
    found: collections.Counter[str] = collections.Counter()
    for event in sandbox.get_denial_events():
        if not _of_the_interpreter(event):
            found[f"{event.capability} {event.broker_decision}"] += event.count
    assert sandbox.stats.events_lost == 0
    assert dict(found) == dict(wanted)
    assert sum(wanted.values()) > 1000
    assert len(wanted) == 10


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("libc.fork(); libc.fork()", {"clone not_consulted": 2}),
        # one question, about the program, and two calls to make a process for it: fork_exec falls back to fork
        ("honest(subprocess.run, ['/usr/bin/true'])", {"vfork unavailable": 2}),
        ("honest(os.posix_spawn, '/usr/bin/true', ['true'], {})", {"clone unavailable": 1}),
        ("os.system('true')", {"clone unavailable": 1}),
        ("t = threading.Thread(target=libc.fork); t.start(); t.join()", {"clone not_consulted": 1}),
        ("honest(os.execv, '/usr/bin/true', ['true'])", {"execve allow": 1}),
        ("libc.execv(b'/usr/bin/true', None)", {"execve not_consulted": 1}),
        ("libc.syscall(272, 0x10000000); libc.chroot(b'/')", {"unshare not_consulted": 1, "chroot not_consulted": 1}),
        # what the C library does for a name is nobody's attack
        ("socket.getaddrinfo('localhost', 80); libc.socket(17, 3, 0)", {"socket unavailable": 1}),
        ("honest(socket.if_nameindex)", {"socket unavailable": 1}),
        # no address, so nothing to ask; the control message is refused
        (
            "u = socket.socket(type=socket.SOCK_DGRAM); u.connect(('127.0.0.1', 7000));"
            "honest(u.sendmsg, [b'x'], [(socket.IPPROTO_IP, 7, bytes(8))])",
            {"sendmsg unavailable": 1},
        ),
        # a question of another kind in between takes nothing away
        (
            "import sys\nsys.addaudithook(lambda e, a: e == 'socket.connect' and open('/dev/null').close())\n"
            "honest(socket.socket().connect, ('127.0.0.1', 7001))",
            {"connect allow": 1},
        ),
        # a question about another capability is none about this one
        (
            "socket.socket(); s = socket.socket(); libc.connect(s.fileno(), inet(7001), 16)",
            {"connect not_consulted": 1},
        ),
    ],
)
def test_one_question_may_stand_for_several_calls(
    sandbox: pyisolate.Sandbox, source: str, wanted: dict[str, int]
) -> None:
    if platform.machine() != "x86_64" and ("272" in source or "subprocess" in source):
        pytest.skip("names x86-64's system calls")
    assert since(sandbox, source) == wanted


def test_forked_children_and_their_threads_have_places_of_their_own(
    supervisor: pyisolate.Supervisor,
) -> None:
    forks = with_ctypes().with_limits(processes=32, wall="60s").allow_fork()
    with supervisor.spawn("children", forks.allow_connect("127.0.0.1:7000-7099")) as sandbox:
        sandbox.exec(GUEST)
        tighten(supervisor, sandbox, TIGHT.allow_fork())
        source = """
def child():
    s = socket.socket()
    honest(s.connect, ("127.0.0.1", 7001))
    libc.connect(s.fileno(), inet(7001), 16)
    libc.connect(s.fileno(), inet(7001), 16)
for _ in range(5):
    if os.fork() == 0:
        t = threading.Thread(target=child); t.start(); t.join()
        child()
        os._exit(0)
    os.wait()
if libc.fork() == 0:
    child()
    os._exit(0)
os.wait()
"""
        assert since(sandbox, source) == {"connect allow": 11, "connect not_consulted": 22}


def test_a_call_that_was_interrupted_is_no_other_one(supervisor: pyisolate.Supervisor) -> None:
    """A signal before the answer makes the kernel restart the call: the same call, the same question."""
    with supervisor.spawn("signals", WIDE) as sandbox:
        sandbox.exec(GUEST)
        tighten(supervisor, sandbox)
        source = """
import signal
s, refused = socket.socket(type=socket.SOCK_DGRAM), 0
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for _ in range(3000):
    refused += honest(s.sendto, b"x", ("127.0.0.1", 7001))
signal.setitimer(signal.ITIMER_REAL, 0)
assert refused == 3000
"""
        found = since(sandbox, source)
        assert set(found) == {"sendto allow"}
        assert found["sendto allow"] >= 3000


@pytest.mark.parametrize(
    ("tamper", "decision"),
    [
        ("words[:] = [0] * len(words)", "not_consulted"),
        ("words[:] = [0xffffffffffffffff] * len(words)", "unavailable"),
        ("words[:] = [n << 32 | 1 << 8 | 200 for n in range(len(words))]", "unavailable"),
        ("words[:] = [9 << 32 | 77 << 8 | 7] * len(words)", "unavailable"),
        ("words[:] = [99 << 32 | 1 << 8 | 7] * len(words)", "allow"),  # it may lie about itself
    ],
)
def test_a_forged_page_harms_nothing(
    supervisor: pyisolate.Supervisor, sandbox: pyisolate.Sandbox, tamper: str, decision: str
) -> None:
    source = f"""
import re

place = next(line for line in open("/proc/self/maps") if "pyisolate asked" in line).split("-")
start, end = int(place[0], 16), int(place[1].split()[0], 16)
assert end - start == 16384 + 4096
page = (ctypes.c_uint64 * (16384 // 8)).from_address(start)
s = socket.socket()
honest(s.connect, ("127.0.0.1", 7001))
main = page[0] >> 32
words = [n for n in page]
{tamper}
for n in range(len(words)):
    if n % 16:
        page[n] = words[n]
assert libc.connect(s.fileno(), inet(7002), 16) == -1
"""
    policy = WIDE.allow_read("/proc")
    with supervisor.spawn("forger", policy) as forger:
        forger.exec(GUEST)
        tighten(supervisor, forger)
        forger.exec(source)
        events = {event.target: event.broker_decision for event in forger.get_denial_events()}
        assert events["127.0.0.1:7002"] == decision
    assert inside.plan(supervisor).listener is not None
    assert inside.plan(supervisor).listener.alive


def test_the_page_is_out_of_reach_and_of_fixed_size(sandbox: pyisolate.Sandbox) -> None:
    found = sandbox.eval("[n for n in range(3, 256) if libc.fcntl(n, 1034) >= 0]")  # F_GET_SEALS: memfds alone
    assert found == []
    assert sandbox.eval("[libc.ftruncate(n, 0) for n in range(3, 64) if libc.fcntl(n, 1034) >= 0]") == []


def test_in_monitor_mode_each_call_is_told_once_and_by_whom(supervisor: pyisolate.Supervisor) -> None:
    monitor = with_ctypes().with_limits(wall="60s", processes=32).with_mode("monitor")
    with supervisor.spawn("watched", monitor) as sandbox:
        sandbox.exec(GUEST)
        source = "u, r = socket.socket(type=socket.SOCK_DGRAM), random.Random(7)\n" + (
            "told = {'would_deny': 0, 'not_consulted': 0}\n"
            "for _ in range(200):\n"
            "    if r.random() < 0.5:\n"
            "        u.sendto(b'x', ('127.0.0.1', 7001)); told['would_deny'] += 1\n"
            "    else:\n"
            "        libc.sendto(u.fileno(), b'x', 1, 0, inet(7001), 16); told['not_consulted'] += 1\n"
        )
        sandbox.exec(source)
        found: collections.Counter[str] = collections.Counter()
        for event in sandbox.get_denial_events():
            if event.capability == "net.send":
                assert (event.kernel_decision, event.would_deny) == ("would_deny", True), event
                found[event.broker_decision] += event.count
        assert dict(found) == sandbox.eval("told")
