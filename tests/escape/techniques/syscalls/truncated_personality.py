"""Ask that reading implies executing, with bits above that the kernel cuts off."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for persona in (0x0400000, 0x0400000 | (1 << 32), 0x0040000, 0x10400000000):
        result, _ = world.attempt("personality", persona)
        if result >= 0:
            world.got(f"personality {persona:#x}")


TECHNIQUE = Technique(
    source="personality(2) READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE",
    event=("memory.exec",),
    by="kernel",
    syscall="personality",
    stops=("seccomp",),
    control=Bare(),
)
