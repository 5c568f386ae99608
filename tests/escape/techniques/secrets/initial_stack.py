"""Read what the program was started with, above the stack: arguments and environment."""

import ctypes

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    program = ctypes.c_ulong.in_dll(world.libc, "__libc_stack_end").value
    for offset in range(0, 65536, 4096):
        try:
            text = ctypes.string_at(program + offset, 2048 if offset else 1024)
        except Exception:
            break
        world.loot(text)
        if b"PATH=" in text:
            break


TECHNIQUE = Technique(
    source="execve(2): strings stay on the initial stack of all that are forked",
    no_event="nothing is refused: the memory is the guest's own",
    stops=("environment",),
    ends=("SandboxDied",),
    control=Alone("the zygote is started with an environment of its own: tests/host/test_sandbox.py"),
    thread=not_run("it may read past the mapping, and end the host"),
)
