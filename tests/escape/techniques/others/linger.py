"""Have the listener close the last descriptor of a socket that lingers, so that it waits and answers nobody."""

import os
import socket
import struct
import threading
import time

from tests.escape.technique import Alone, Technique, not_run

PORT_FILE = "/port"


def outside_peer():
    """Listen as somebody who never reads; a policy of the worker's grants it."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.bind(("127.0.0.1", 0))
    server.listen(8)
    HELD.append(server)
    return server.getsockname()[1]


def outside_grant(policy, targets):
    port = outside_peer()
    with open(targets.outbox + PORT_FILE, "w") as file:
        file.write(str(port))
    os.chmod(targets.outbox + PORT_FILE, 0o644)
    return policy.allow_read(targets.outbox).allow_connect(f"127.0.0.1:{port}").allow_fork().with_limits(processes=64)


HELD = []


def attack(world):
    import ctypes

    with open(world.outbox + PORT_FILE) as file:
        name = world.ipv4(int(file.read()))
    children = []
    for _ in range(4):  # whether a send waits when its process ends is a race
        if child := world.fork():
            children.append(child)
            continue
        one = world.socket_raw(2, 1)
        world.attempt("connect", one, name, len(name))
        world.attempt("setsockopt", one, 1, 13, struct.pack("ii", 1, 60), 8)
        peer = socket.socket(fileno=one)
        peer.setblocking(False)
        for size in (1 << 16, 1):
            try:
                while True:
                    peer.send(b"x" * size)
            except OSError:
                pass
        peer.setblocking(True)
        data = ctypes.create_string_buffer(b"x" * 60000)
        vector = struct.pack("QQ", ctypes.addressof(data), 60000)
        vector = ctypes.create_string_buffer(vector)
        message = ctypes.create_string_buffer(struct.pack("QI4xQQQQi4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0))
        for _ in range(6):
            threading.Thread(target=world.attempt, args=("sendmsg", one, message, 0), daemon=True).start()
        time.sleep(0.5)
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    time.sleep(1.5)


TECHNIQUE = Technique(
    source="socket(7) SO_LINGER; inet_release waits on behalf of whoever closes last",
    policy=outside_grant,
    no_event="the option is taken without its seconds, which is no refusal",
    sibling_s=1.0,
    stops=("notification",),
    control=Alone("what is measured is how long another sandbox waits"),
    thread=not_run("a sandbox thread closes its own sockets"),
)
