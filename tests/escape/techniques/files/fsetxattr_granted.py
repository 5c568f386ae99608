"""Write an extended attribute through a read-only descriptor."""

from tests.escape.technique import METADATA, READ_ONLY, Granted, Technique, escapes


def attack(world):
    world.syscall("fsetxattr", world.open_raw(world.granted), b"user.escape", b"owned", 5, 0)


TECHNIQUE = Technique(
    source="Landlock does not handle setxattr",
    no_event=READ_ONLY,
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
