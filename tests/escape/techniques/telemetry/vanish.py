"""Be refused, and end before anybody can ask."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    world.attempt("unshare", 0x10000000)
    world.libc._exit(0)


TECHNIQUE = Technique(
    source="erase by ending at once",
    event=("kernel.namespace",),
    by="kernel",
    syscall="unshare",
    stops=("notification", "telemetry"),
    must_end=("SandboxDied",),
    control=Alone("the kernel's records do not pass through the guest"),
    thread=not_run("the process would end, and with it the supervisor"),
)
