"""Rearrange pages of a shared mapping with remap_file_pages."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("remap_file_pages", 0, 4096, 0, 0, 0)


TECHNIQUE = Technique(
    source="remap_file_pages(2): CVE-2014-8173 class, and W^X bypasses under SELinux",
    event=("memory.exec",),
    by="kernel",
    syscall="remap_file_pages",
    stops=("seccomp",),
    control=Bare(answer="EINVAL"),
)
