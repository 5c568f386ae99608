"""Raise what is no Exception: SystemExit with odd codes, GeneratorExit, KeyboardInterrupt."""

from tests.escape.technique import Alone, InThread, Technique


def attack(world):
    import threading

    for code in (True, "text", object(), 1.5, -(2**31), 2**31):
        threading.Thread(target=exit, args=(code,)).start()
    raise SystemExit(2**70)


def outside(ground, run):
    return "" if run.then_text.strip() == "alive" else f"the next request: {run.then_error} {run.then_text[:200]}"


TECHNIQUE = Technique(
    source="CWE-755",
    no_event="nothing is refused",
    stops=("supervisor",),
    effect=outside,
    then="'alive'",
    control=Alone("an ordinary exit arrives: tests/host/test_cli_run.py"),
    thread=InThread("stopped"),
)
