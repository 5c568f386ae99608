"""Become root: every call that sets an identity."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for name, arguments in (
        ("setuid", (0,)),
        ("setgid", (0,)),
        ("setreuid", (0, 0)),
        ("setregid", (0, 0)),
        ("setresuid", (0, 0, 0)),
        ("setresgid", (0, 0, 0)),
        ("setgroups", (0, None)),
    ):
        result, _ = world.attempt(name, *arguments)
        if result == 0:
            world.got(name)


TECHNIQUE = Technique(
    source="credentials(7)",
    event=("kernel.capability",),
    by="kernel",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
)
