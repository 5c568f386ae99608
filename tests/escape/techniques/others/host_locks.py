"""Have the supervisor close a file on which the host holds a record lock: a process loses its locks with any descriptor."""

import fcntl
import os
import socket
import threading

from tests.escape.technique import Alone, Technique, not_run

FILE = "/locked-by-the-host"
HELD = []


def outside_grant(policy, targets):
    """Lock a file, in the supervisor's process; any user may."""
    path = targets.outbox + FILE
    if not HELD:
        HELD.append(open(path, "w+b"))
        os.chmod(path, 0o666)
    fcntl.lockf(HELD[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    return policy.allow_read(targets.outbox).with_limits(processes=64)


def outside_effect(ground, run):
    """Look from the judge's process."""
    with open(ground.targets.outbox + FILE, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
    return "the host's record lock is gone"


def attack(world):
    path = world.outbox + FILE
    one, two = socket.socketpair()
    file = os.open(path, os.O_RDONLY)
    for _ in range(50):  # sent
        socket.send_fds(one, [b"x"], [file])
        received = socket.recv_fds(two, 1, 1)[1]
        os.close(received[0])
    for _ in range(50):  # opened by a descriptor's name
        world.attempt("openat", -100, b"/dev/fd/%d\0" % file, os.O_RDONLY)
    place, over = os.dup(file), []

    def swap():  # in a socket's place while the listener takes it
        while not over:
            os.dup2(file, place)
            os.dup2(two.fileno(), place)

    thread = threading.Thread(target=swap)
    thread.start()
    for _ in range(300):
        world.attempt("setsockopt", place, socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(16), 16)
    over.append(1)
    thread.join()


TECHNIQUE = Technique(
    source="fcntl(2): record locks go when the process closes any descriptor of their file",
    policy=outside_grant,
    effect=outside_effect,
    no_event="a file that is granted may be sent, and opened again",
    stops=("notification",),
    control=Alone("the lock is the control: the judge is to meet it"),
    thread=not_run("a sandbox thread's descriptors are the host's, and so are its closes"),
)
