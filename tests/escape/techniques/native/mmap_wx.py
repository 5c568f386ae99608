"""Map memory that can be written and run."""

from tests.escape.technique import Bare, Technique


def attack(world):
    if world.code(bytes.fromhex("b82a000000c3")) == 42:
        world.got("machine code ran")


TECHNIQUE = Technique(
    source="mmap(2); W^X", event=("memory.exec",), by="kernel", syscall="mmap", stops=("seccomp",), control=Bare()
)
