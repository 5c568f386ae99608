"""Hold more in the workspace than its bound: by writing, allocating ahead, holes, mappings, and files that are gone."""

import errno
import mmap
import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Granted, Technique

BOUND = 1 << 20


def attack(world):
    held, full, kept = 0, [], []
    for number in range(64):
        descriptor = os.open(f"{world.own}/part{number}", os.O_CREAT | os.O_RDWR)
        kept.append(descriptor)
        try:
            if number % 4 == 0:
                os.posix_fallocate(descriptor, 0, 1 << 16)
            elif number % 4 == 1:
                os.unlink(f"{world.own}/part{number}")
                os.pwrite(descriptor, b"x" * (1 << 16), 0)
            elif number % 4 == 2:
                for at in range(16):
                    os.pwrite(descriptor, b"x", at << 20)
            else:
                os.ftruncate(descriptor, 1 << 16)
                with mmap.mmap(descriptor, 1 << 16) as shared:
                    os.preadv(kept[0], [memoryview(shared)], 0)
        except OSError as error:
            full.append(error.errno)
        held += os.fstat(descriptor).st_blocks * 512
    if held > BOUND:
        world.got(f"{held} bytes")
    assert held > BOUND or set(full) <= {errno.ENOSPC, errno.EFAULT}, full


TECHNIQUE = Technique(
    source="tmpfs(5); CWE-400",
    policy=workspace,
    event=("limit.workspace",),
    stops=("limits",),
    control=Granted(lambda p, t: p.with_workspace("8MiB")),
    thread=NO_WORKSPACE,
)
