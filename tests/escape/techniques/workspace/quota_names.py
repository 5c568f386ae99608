"""Hold more names in the workspace than its bound: files, directories, links of both kinds, FIFOs, long names."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Granted, Technique

BOUND = 16 + (1 << 20) // 4096


def attack(world):
    names, refused = 0, 0
    open(world.own + "/" + "f" * 250, "w").close()
    while refused < 8 and names < 2 * BOUND:
        path = f"{world.own}/{names}-" + "n" * 200
        try:
            if names % 4 == 0:
                os.link(world.own + "/" + "f" * 250, path)
            elif names % 4 == 1:
                os.symlink("t" * 3000, path)
            elif names % 4 == 2:
                os.mkdir(path)
            else:
                open(path, "w").close()
        except OSError:
            refused += 1
        names += 1
    if names - refused > BOUND:
        world.got(f"{names} names")


TECHNIQUE = Technique(
    source="tmpfs(5), nr_inodes; CWE-400",
    policy=workspace,
    event=("limit.workspace",),
    stops=("limits",),
    control=Granted(lambda p, t: p.with_workspace("8MiB")),
    thread=NO_WORKSPACE,
)
