"""connect(2) to a granted address through the notification listener, against a process of no sandbox."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator

import pyisolate

from .asked import AskedProcess
from .figures import Figure, Outcome, Reference, Settings
from .measure import median, spread, take_turns

CONNECTS = 25
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
    sockets: dict[str, list[float]] = {"guest": [], "bare": []}
    with (
        _server() as port,
        AskedProcess([sys.executable, "-I", "-c", BARE]) as bare,
        pyisolate.Supervisor(pool_size=1) as supervisor,
    ):
        policy = pyisolate.Policy.preset("compute").allow_connect(f"127.0.0.1:{port}")
        with supervisor.spawn("benchmark", policy, limits={"wall": "60s", "cpu": "60s"}) as sandbox:
            sandbox.exec(SOURCE)

            def guest() -> float:
                connect, made = sandbox.call("connects", port, CONNECTS)
                sockets["guest"].append(made)
                return float(connect)

            def plain() -> float:
                connect, made = map(float, bare.ask(f"{port} {CONNECTS}").split())
                sockets["bare"].append(made)
                return connect

            guest(), plain()
            ours, theirs = take_turns(settings.rounds(80, 20), guest, plain)
    return Outcome(
        figures=[
            Figure(
                what="connect() granted by the listener",
                value=median(ours),
                unit="s",
                spread=f"{spread(ours, tail=False)} x {CONNECTS} µs",
                reference=Reference("plain connect()", median(theirs)),
            ),
            Figure(
                what="socket() made by the listener",
                value=median(sockets["guest"]),
                unit="s",
                spread=f"{spread(sockets['guest'], tail=False)} x {CONNECTS} µs",
                reference=Reference("plain socket()", median(sockets["bare"])),
            ),
        ]
    )


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """Yield the port of a socket that accepts and drops connections."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                listening.accept()[0].close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)
