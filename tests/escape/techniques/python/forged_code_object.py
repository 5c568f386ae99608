"""Run a forged code object whose constants lie outside its tuple."""

import types

from tests.escape.technique import Alone, Technique, escapes


def attack(world):
    def template():
        return 1

    code = template.__code__.replace(
        co_code=bytes([151, 0, 144, 255, 144, 255, 144, 255, 100, 255, 83, 0]), co_consts=()
    )
    types.FunctionType(code, {})()


TECHNIQUE = Technique(
    source="pyjail collections: out-of-bounds LOAD_CONST; Ned Batchelder, Eval really is dangerous",
    no_event="nothing is refused: a guest may ruin its own memory",
    stops=("memory",),
    must_end=("SandboxDied",),
    control=Alone("the effect would be on another process's memory, which is not reached"),
    thread=escapes("the process dies, and with it the supervisor"),
)
