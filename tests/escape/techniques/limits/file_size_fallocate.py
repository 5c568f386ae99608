"""Grow a file without writing: ftruncate, fallocate, mmap."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    descriptor = os.open(world.outbox + "/big", os.O_RDWR | os.O_CREAT)
    grown = 0
    for way in (
        lambda: os.ftruncate(descriptor, 64 << 20),
        lambda: os.posix_fallocate(descriptor, 0, 64 << 20),
        lambda: os.pwrite(descriptor, b"x", 64 << 20),
    ):
        try:
            way()
        except OSError as error:
            print(error)
    grown = os.fstat(descriptor).st_size
    os.close(descriptor)
    if grown > 4 << 20:
        world.got(f"a file of {grown} bytes")


TECHNIQUE = Technique(
    source="getrlimit(2) RLIMIT_FSIZE",
    policy=lambda p, t: writable_outbox(p, t).with_limits(file_size="4MiB"),
    event=("limit.file_size",),
    stops=("limits",),
    control=Bare(),
    thread=not_run("a limit on a thread's files would be one on the host's"),
)
