"""Change the mode of a granted file through a read-only descriptor."""

from tests.escape.technique import METADATA, Granted, Technique, escapes


def attack(world):
    world.syscall("fchmod", world.open_raw(world.granted), 0o600)


TECHNIQUE = Technique(
    source="Landlock does not handle fchmod",
    event=("fs.metadata",),
    stops=("root view",),
    control=Granted(lambda p, t: p.allow_write(t.inbox)),
    thread=escapes(METADATA),
)
