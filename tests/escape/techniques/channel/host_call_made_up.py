"""Call a function of the host that was not given, under names that the host itself has."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    for number, name in enumerate(("system", "eval", "__import__", "exec", "post", "close", "os.system")):
        arguments = world.pack([[f"touch {world.base}/escape-called"], {}])
        world.send(world.frame("host_call", id=number, name=name, arguments=arguments))


TECHNIQUE = Technique(
    source="a call of a function that the host did not offer",
    event=("control.call",),
    by="broker",
    then='"alive"',
    stops=("supervisor",),
    control=Alone("tests/host/test_host_functions.py calls what was given"),
    thread=not_run(NO_WIRE),
)
