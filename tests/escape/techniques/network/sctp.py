"""Make an SCTP socket, stream and one-to-many."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    for family in (2, 10):
        for kind in (1, 5):
            result, _ = world.attempt("socket", family, kind, 132)
            if result >= 0:
                world.got("SCTP")


TECHNIQUE = Technique(
    source="sctp(7); landlock issue tracker: protocols beside TCP",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(answer="EPROTONOSUPPORT"),
)
