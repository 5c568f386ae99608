"""Find what a sandbox that ended before has left: names, and bytes in pages that nobody has written."""

import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, OWN_FILE, Granted, Technique


def attack(world):
    for at, _directories, files in os.walk(world.own):
        for name in files:
            world.loot(open(os.path.join(at, name), "rb").read())
    descriptor = os.open(world.own + "/fresh", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(descriptor, 0, 1 << 19)
    fresh = os.pread(descriptor, 1 << 19, 0)
    if fresh.count(0) != len(fresh):
        world.got("pages that another has written")
        world.loot(fresh.replace(b"\0", b""))


def outside_leave(sandbox, token):
    sandbox.files.write("left", token * 1000)
    sandbox.exec("import os; os.makedirs('d/e'); open('d/e/f', 'w').write(open('left').read())")


TECHNIQUE = Technique(
    source="CWE-226; CWE-908",
    policy=workspace,
    before=outside_leave,
    no_event=OWN_FILE,
    stops=("namespaces", "root view"),
    control=Granted(workspace, {"files": "token"}),
    thread=NO_WORKSPACE,
)
