"""Raise what is no Exception: SystemExit with odd codes, GeneratorExit, KeyboardInterrupt."""

from tests.escape.technique import Alone, InThread, Technique


def attack(world):
    raise SystemExit(2**70)


TECHNIQUE = Technique(
    source="CWE-755",
    no_event="nothing is refused",
    stops=("supervisor",),
    ends=("SandboxDied",),
    then="'alive'",
    control=Alone("an ordinary exit arrives: tests/host/test_cli_run.py"),
    thread=InThread("stopped"),
)
