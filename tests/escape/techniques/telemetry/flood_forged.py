"""Flood the host with forged records."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(*(world.denial(target=f"/{number}", sequence=number) for number in range(5000)))


TECHNIQUE = Technique(
    source="CWE-345, CWE-770: flood of forged records",
    event=("fs.read",),
    by="broker",
    then="'alive'",
    stops=("telemetry",),
    control=Alone("they are taken in, as the guest's own word, and the store is bounded"),
    thread=not_run(NO_WIRE),
)
