"""Connect to the cloud's metadata service, dressed in every way."""

from tests.escape.technique import Alone, Technique


def attack(world):
    for host in ((169, 254, 169, 254), (169, 254, 170, 2)):
        descriptor = world.socket_raw(2, 1)
        address = world.ipv4(80, host)
        result, _ = world.attempt("connect", descriptor, address, len(address))
        six = world.socket_raw(10, 1)
        mapped = world.ipv6(80, b"\0" * 10 + b"\xff\xff" + bytes(host))
        nat64 = world.ipv6(80, b"\0\x64\xff\x9b" + b"\0" * 8 + bytes(host))
        for wide in (mapped, nat64):
            world.attempt("connect", six, wide, len(wide))
        if result == 0:
            world.got("the metadata service")


TECHNIQUE = Technique(
    source="SSRF to 169.254.169.254; Capital One 2019",
    policy=lambda p, t: __import__("pyisolate").Policy.preset("web-client").allow_import("ctypes").allow_read(t.inbox),
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Alone("there is no metadata service on a test machine; network/mapped_v6_denied shows the rule at work"),
)
