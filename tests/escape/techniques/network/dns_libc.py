"""Have the C library resolve a name, past Python's wrapper."""

import ctypes

from tests.escape.technique import Alone, Technique


def attack(world):
    result = ctypes.c_void_p()
    print(world.libc.getaddrinfo(b"token.escape.invalid", b"443", None, ctypes.byref(result)))


TECHNIQUE = Technique(
    source="getaddrinfo(3): nss modules, /etc/resolv.conf",
    event=("net.socket", "net.connect"),
    by="kernel",
    stops=("notification", "namespaces", "root view"),
    control=Alone("resolving needs a name server of the host's"),
)
