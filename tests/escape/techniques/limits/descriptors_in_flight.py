"""Hide descriptors in sockets, where no limit of one's own counts them."""

import os
import socket

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    pairs = []
    sent = 0
    descriptor = os.dup(0)
    try:
        for _ in range(15):
            one, two = socket.socketpair()
            one.setblocking(False)
            pairs.append((one, two))
            for _ in range(40):
                socket.send_fds(one, [b"x"], [descriptor] * 100)
                sent += 100
    except OSError as error:
        print(error)
    if sent > 2000:
        world.got(f"{sent} descriptors in flight")


TECHNIQUE = Technique(
    source="unix(7) SCM_RIGHTS; CVE-2013-4312",
    policy=lambda p, t: p.with_limits(open_files=40),
    event=("limit.open_files",),
    stops=("notification", "limits"),
    control=Alone("the number outside depends on the machine's limits"),
    thread=not_run("descriptors of a thread are the host's"),
)
