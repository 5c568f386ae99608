"""Fill sockets with what the supervisor sends for one, past one's own limit on memory."""

import socket

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    pairs, sent = [], 0
    for _ in range(110):
        one, two = socket.socketpair()
        pairs.append((one, two))
        try:
            while True:
                sent += one.sendmsg([bytes(32768)], (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
    if sent > 20 << 20:
        world.got(f"{sent >> 20} MiB that are not received")


TECHNIQUE = Technique(
    source="unix(7): what waits in a socket is charged to who sent it",
    policy=lambda p, t: p.with_limits(open_files=256, memory="64MiB"),
    no_event="the socket is full, which is no refusal",
    stops=("notification", "limits"),
    control=Bare(),
    thread=not_run("the memory of a thread is the host's"),
)
