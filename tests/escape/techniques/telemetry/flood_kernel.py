"""Be refused by the kernel three thousand times, and be counted exactly."""

import ctypes

from tests.escape.technique import Alone, Technique


def attack(world):
    call = world.libc.syscall
    number = ctypes.c_long(world.nr["unshare"])
    for _ in range(3000):
        call(number, ctypes.c_long(0x10000000))


def outside(ground, run):
    return "" if run.denials == 3000 else f"3000 refusals were counted as {run.denials}"


TECHNIQUE = Technique(
    source="a flood of refusals: counters are exact",
    effect=outside,
    event=("kernel.namespace",),
    by="kernel",
    stops=("telemetry",),
    control=Alone("the count itself is the control"),
)
