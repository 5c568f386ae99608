"""Call through the legacy vsyscall page."""

import ctypes

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    clock = ctypes.create_string_buffer(16)
    call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)(0xFFFFFFFFFF600000)
    print(call(ctypes.addressof(clock), 0))


TECHNIQUE = Technique(
    source="seccomp(2): vsyscall; vdso(7)",
    no_event="it only tells the time, which is granted",
    stops=("seccomp",),
    ends=("SandboxDied",),
    control=Alone("it can do no harm: the check is that it opens no other way"),
    thread=not_run("a kernel without the page kills the process"),
)
