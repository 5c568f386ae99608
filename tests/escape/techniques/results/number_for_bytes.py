"""Answer a host that reads a file through the guest with a number, of which it would make as many bytes."""

import builtins

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    class File:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def read(self, most):
            return 1 << 50

    builtins.open = lambda *_: File()


def outside_read(sandbox, _targets):
    from pyisolate.integrations.guest_files import read_file

    return str(len(read_file(sandbox, "/data/file", max_bytes=1 << 20, timeout=5)))


TECHNIQUE = Technique(
    source="CWE-843: bytes(number) is as many zeros",
    reader=outside_read,
    no_event="the guest's interpreter is its own, and the host refuses the answer",
    also=("fs.read",),  # where the host is first, the guest's own open is refused
    stops=("supervisor",),
    control=Alone("tests of the integrations read what guests have"),
    thread=not_run("memory is shared: builtins are the host's own"),
)
