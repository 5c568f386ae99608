"""Look at and remove other processes' System V objects."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    for name, arguments in (
        ("shmctl", (0, 14, ctypes.create_string_buffer(256))),
        ("semctl", (0, 0, 19, 0)),
        ("msgctl", (0, 12, ctypes.create_string_buffer(256))),
        ("semop", (0, ctypes.create_string_buffer(6), 1)),
        ("msgsnd", (0, ctypes.create_string_buffer(16), 1, 0)),
        ("shmdt", (0,)),
    ):
        result, _ = world.attempt(name, *arguments)
        if result >= 0:
            world.got(name)


TECHNIQUE = Technique(
    source="svipc(7)", event=("ipc.sysv",), by="kernel", stops=("seccomp", "namespaces"), control=Bare()
)
