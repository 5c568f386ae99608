"""End, stop or overwrite the cell's init, which shares the zygote's memory."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Alone, Technique, not_run

REQUESTS = {"attach": 16, "seize": 0x4206}


def attack(world):
    parent = os.getppid()
    for number in (9, 19, 11, 6, 15):
        if world.attempt("kill", parent, number) == 0 and parent != 1:
            world.got(f"signal {number} reached process {parent}")
    for name, request in REQUESTS.items():
        if world.attempt("ptrace", request, parent, 0, 0) == 0:
            world.got(f"ptrace {name} of the init")
    for path in (f"/proc/{parent}/mem", f"/proc/{parent}/maps"):
        try:
            with open(path, "rb") as file:
                world.got(f"{path} opened: {file.fileno()}")
        except OSError as error:
            print(error)
    if os.fork() == 0:  # an orphan asks it to do its work, again and again
        for _ in range(50):
            if os.fork() == 0:
                os._exit(0)
        os._exit(0)
    print("the guest lives", os.getppid())


TECHNIQUE = Technique(
    source="pid_namespaces(7); clone(2) CLONE_VM",
    policy=lambda p, t: fork(p, t).with_limits(processes=100),
    event=("process.signal", "process.trace"),
    also=("fs.read",),
    stops=("namespaces", "landlock", "seccomp", "root view"),
    control=Alone("a plain process's parent would be the judge"),
    thread=not_run("a thread has no init"),
)
