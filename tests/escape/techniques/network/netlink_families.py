"""Make netlink sockets of every family: netfilter, audit, uevents, crypto, diag."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    for protocol in (2, 4, 9, 12, 15, 16, 21):
        result, _ = world.attempt("socket", 16, 3, protocol)
        if result >= 0:
            world.got(f"netlink {protocol}")


TECHNIQUE = Technique(
    source="netlink(7); CVE-2024-1086 (nf_tables), CVE-2021-22555",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(),
)
