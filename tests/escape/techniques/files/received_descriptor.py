"""Open the secret by a descriptor passed through a socket pair of one's own."""

import socket

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    one, two = socket.socketpair()
    descriptor = world.open_raw(world.secret)
    socket.send_fds(one, [b"."], [descriptor])
    _, descriptors, _, _ = socket.recv_fds(two, 1, 1)
    world.take(descriptors[0])


TECHNIQUE = Technique(
    source="unix(7) SCM_RIGHTS; Landlock does not restrict received descriptors",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
