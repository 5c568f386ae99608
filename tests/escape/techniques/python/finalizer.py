"""Leave an object whose finalizer the host's garbage collector runs."""

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


class Trap:
    def __init__(self, path):
        self.path, self.me = path, self

    def __del__(self):
        try:
            open(self.path, "w").write("owned")
        except OSError:
            pass


def attack(world):
    global trap
    import gc

    gc.disable()
    trap = Trap(world.canary)
    trap = None
    gc.enable()


TECHNIQUE = Technique(
    source="a finalizer run by the host's garbage collector",
    no_event="it may run at the end of the cell, where the broker refuses without anybody listening",
    stops=("memory", "broker"),
    control=Alone("another process's collector is not reached"),
    thread=escapes(OWN_MEMORY),
)
