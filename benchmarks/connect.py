"""connect(2) to a granted address, by the listener and by the control group's programs, against a bare process."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import pyisolate

from .asked import AskedProcess
from .figures import Figure, Outcome, Reference, Settings, at_most_ratio
from .measure import median, spread, take_turns

CONNECTS = 25
#: Times a plain connect().
BUDGET_LISTENER, BUDGET_PROGRAMS = 3.0, 2.0
SOURCE = """
import socket, struct, time
LINGER = struct.pack("ii", 1, 0)
def connects(port, count):
    took = made = 0.0
    for _ in range(count):
        t0 = time.perf_counter()
        peer = socket.socket()
        t1 = time.perf_counter()
        peer.connect(("127.0.0.1", port))
        took += time.perf_counter() - t1
        made += t1 - t0
        try:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        except OSError:
            pass
        peer.close()
    return took / count, made / count
"""
BARE = SOURCE + "import sys\nfor line in sys.stdin: print(*connects(*map(int, line.split())), flush=True)\n"


def run(settings: Settings) -> Outcome:
    """Connect to a listening socket on the loopback, in batches that take turns."""
    figures: list[Figure] = []
    with listening() as server, AskedProcess([sys.executable, "-I", "-c", BARE]) as bare:
        figures += _compare(settings, server, bare, "listener", BUDGET_LISTENER)
        if os.geteuid() == 0:
            figures += _compare(settings, server, bare, "auto", BUDGET_PROGRAMS)
    return Outcome(figures=figures)


def _compare(
    settings: Settings, server: socket.socket, bare: AskedProcess, network: str, budget: float
) -> list[Figure]:
    who = "the listener" if network == "listener" else "programs of the control group"
    sockets: dict[str, list[float]] = {"guest": [], "bare": []}
    port = server.getsockname()[1]
    policy = pyisolate.Policy.preset("compute").allow_connect(f"127.0.0.1:{port}")
    with (
        pyisolate.Supervisor(pool_size=1, network=network) as supervisor,
        supervisor.spawn("benchmark", policy, limits={"wall": "60s", "cpu": "60s"}) as sandbox,
    ):
        deciders = {line.capability.value: line.enforcers for line in sandbox.enforcement.capabilities}
        if ("cgroup-bpf" in deciders["net.connect"]) != (network == "auto"):
            return []
        sandbox.exec(SOURCE)

        def guest() -> float:
            connect, made = sandbox.call("connects", port, CONNECTS)
            sockets["guest"].append(made)
            empty(server)
            return float(connect)

        def plain() -> float:
            connect, made = map(float, bare.ask(f"{port} {CONNECTS}").split())
            sockets["bare"].append(made)
            empty(server)
            return connect

        guest(), plain()
        ours, theirs = take_turns(settings.rounds(60, 20), guest, plain)
    return [
        at_most_ratio(
            f"connect() granted by {who}",
            median(ours),
            Reference("plain connect()", median(theirs)),
            budget,
            unit="s",
            budget=f"<= {budget:g}x",
            spread=f"{spread(ours, tail=False)} x {CONNECTS} µs",
        ),
        Figure(
            what=f"socket() granted by {who}",
            value=median(sockets["guest"]),
            unit="s",
            spread=f"{spread(sockets['guest'], tail=False)} x {CONNECTS} µs",
            reference=Reference("plain socket()", median(sockets["bare"])),
        ),
    ]


@contextlib.contextmanager
def listening(backlog: int = 4 * CONNECTS) -> Iterator[socket.socket]:
    """Yield a listening socket. No thread accepts: one that woke up for each connection would preempt the client."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        server.setblocking(False)
        yield server


def empty(server: socket.socket) -> None:
    """Take all connections out of the backlog, between two batches.

    A connection that its client has reset stays there too. Once the backlog is full the kernel drops each SYN, and the
    benchmark would measure its retransmission.
    """
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return
        except OSError:  # accept(2) reports an error of the connection that it takes
            continue
