"""Take the host's huge pages, which no limit on memory counts."""

from tests.escape.technique import Alone, Technique, silent


def attack(world):
    for size in (0, 21, 30):  # the default size, 2 MiB, 1 GiB
        address, _ = world.attempt("mmap", 0, 1 << max(size, 21), 3, 0x40022 | size << 26, -1, 0)
        if address > 0:
            world.got("huge pages")


TECHNIQUE = Technique(
    source="mmap(2) MAP_HUGETLB; cgroups(7): the memory controller does not count them",
    event=("limit.memory",),
    stops=("notification", "limits"),
    control=Alone("most hosts have no pool of them"),
    thread=silent("a sandbox thread maps what the host may"),
)
