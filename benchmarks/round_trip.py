"""Call round trip of 1 kB: at most 2.5 x a bare msgpack echo over a socketpair, 2 x on one processor."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

import msgspec

import pyisolate

from .figures import Figure, Outcome, Reference, Settings
from .measure import batch, median, spread, take_turns

CALLS = 20
PAYLOAD = "x" * 1000
BUDGETS = {"": 2.5, ", on one processor": 2.0}
_HEADER = struct.Struct(">I")


def run(settings: Settings) -> Outcome:
    """Echo 1 kB through `sandbox.call` and through a forked process, in batches that take turns.

    A wake-up on another processor costs several times what one on the same costs, and the scheduler chooses: so the
    same is also measured with both ends held to one processor, and to two.
    """
    everywhere = sorted(os.sched_getaffinity(0))
    places = {"": (everywhere, everywhere), ", on one processor": (everywhere[:1], everywhere[:1])}
    if len(everywhere) > 1:
        places[", across two processors"] = (everywhere[:1], everywhere[1:2])
    figures = []
    with (
        bare_echo() as (echo, echo_pid),
        pyisolate.Supervisor(pool_size=1) as supervisor,
        supervisor.spawn("benchmark", limits={"cpu": "60s"}) as sandbox,
    ):
        sandbox.exec("def echo(value): return value")
        if sandbox.call("echo", PAYLOAD) != PAYLOAD or echo(PAYLOAD) != PAYLOAD:
            raise AssertionError("round trip: the echo came back changed")
        for where, (ours, theirs) in places.items():
            os.sched_setaffinity(0, ours)
            os.sched_setaffinity(echo_pid, theirs)
            os.sched_setaffinity(sandbox.pid, theirs)
            calls, bare = take_turns(
                settings.rounds(300, 60),
                batch(lambda: sandbox.call("echo", PAYLOAD), CALLS),
                batch(lambda: echo(PAYLOAD), CALLS),
            )
            figures.append(_figure(where, calls, bare))
    return Outcome(figures=figures)


def _figure(where: str, calls: list[float], bare: list[float]) -> Figure:
    reference, allowed = Reference("bare msgpack echo, forked process", median(bare)), BUDGETS.get(where)
    return Figure(
        what=f"call round trip, 1 kB{where}",
        value=median(calls),
        unit="s",
        spread=f"{spread(calls)} x {CALLS} µs",
        reference=reference,
        budget="" if allowed is None else f"<= {allowed:g}x",
        met=None if allowed is None else median(calls) <= allowed * reference.value,
    )


@contextlib.contextmanager
def bare_echo() -> Iterator[tuple[Callable[[object], object], int]]:
    """Yield a function that has a forked process send a value back, and its id. Enter it before threads start."""
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
        yield echo, pid
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
