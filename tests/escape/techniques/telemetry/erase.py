"""Silence the reports in the guest, then meet the kernel."""

import gc

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    gc.unfreeze()  # what a zygote had made is left out of the list otherwise
    for thing in gc.get_objects():
        if type(thing).__name__ in ("Guest", "GuestHooks", "Coalescer"):
            for name in ("report", "send", "add", "_report", "_deliver"):
                if hasattr(thing, name):
                    try:
                        setattr(thing, name, lambda *_: None)
                    except AttributeError:
                        pass
    world.attempt("unshare", 0x10000000)
    raise SystemExit(0)


TECHNIQUE = Technique(
    source="erase what was recorded",
    event=("kernel.namespace",),
    by="kernel",
    syscall="unshare",
    stops=("notification", "telemetry"),
    ends=("TimeoutError",),
    timeout_s=0.8,
    control=Alone("the kernel's records do not pass through the guest"),
    thread=not_run("it would silence the hooks of the whole host"),
)
