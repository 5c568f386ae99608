"""Call round trip of 1 kB: at most 1.5 x a bare msgpack echo over a socketpair."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

import msgspec

import pyisolate

from .figures import Outcome, Reference, Settings, at_most_ratio
from .measure import batch, median, spread, take_turns

CALLS = 20
PAYLOAD = "x" * 1000
_HEADER = struct.Struct(">I")


def run(settings: Settings) -> Outcome:
    """Echo 1 kB through `sandbox.call` and through a forked process, in batches that take turns."""
    with (
        bare_echo() as echo,
        pyisolate.Supervisor(pool_size=1) as supervisor,
        supervisor.spawn("benchmark", limits={"cpu": "60s"}) as sandbox,
    ):
        sandbox.exec("def echo(value): return value")
        if sandbox.call("echo", PAYLOAD) != PAYLOAD or echo(PAYLOAD) != PAYLOAD:
            raise AssertionError("round trip: the echo came back changed")
        for _ in range(200):
            sandbox.call("echo", PAYLOAD)
            echo(PAYLOAD)
        calls, bare = take_turns(
            settings.rounds(300, 60),
            batch(lambda: sandbox.call("echo", PAYLOAD), CALLS),
            batch(lambda: echo(PAYLOAD), CALLS),
        )
    figure = at_most_ratio(
        "call round trip, 1 kB",
        median(calls),
        Reference("bare msgpack echo, forked process", median(bare)),
        1.5,
        unit="s",
        budget="<= 1.5x",
        spread=f"{spread(calls)} x {CALLS} µs",
    )
    return Outcome(figures=[figure])


@contextlib.contextmanager
def bare_echo() -> Iterator[Callable[[object], object]]:
    """Yield a function that has a forked process send a value back. Enter it before threads start."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode

    def echo(value: object) -> object:
        data = encode(value)
        ours.sendall(_HEADER.pack(len(data)) + data)
        return decode(_receive(ours))

    try:
        yield echo
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _serve(peer: socket.socket) -> None:
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    while payload := _receive(peer):
        data = encode(decode(payload))
        peer.sendall(_HEADER.pack(len(data)) + data)


def _receive(peer: socket.socket) -> bytes:
    buffer = b""
    while len(buffer) < _HEADER.size or len(buffer) < _HEADER.size + _HEADER.unpack_from(buffer)[0]:
        data = peer.recv(1 << 16)
        if not data:
            return b""
        buffer += data
    return buffer[_HEADER.size :]
