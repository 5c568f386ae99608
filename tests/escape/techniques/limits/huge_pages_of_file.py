"""Take the host's huge pages by a file that has no path, where native code of any kind is granted."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for size in (0, 21, 30):  # the default size, 2 MiB, 1 GiB
        descriptor, _ = world.attempt("memfd_create", b"escape", 4 | size << 26)
        if descriptor >= 0:
            world.got("a file of huge pages")
            world.attempt("mmap", 0, 1 << max(size, 21), 3, 1, descriptor, 0)


TECHNIQUE = Technique(
    source="memfd_create(2) MFD_HUGETLB; cgroups(7): the memory controller does not count them",
    policy=lambda p, t: p.allow_native("*"),
    event=("limit.memory",),
    syscall="memfd_create",
    by="kernel",
    stops=("notification", "limits"),
    control=Alone("most hosts have no pool of them"),
    thread=not_run("memory is no limit of a sandbox thread"),
)
