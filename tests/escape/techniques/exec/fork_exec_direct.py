"""Start a program by _posixsubprocess.fork_exec, which raises no audit event."""

import _posixsubprocess
import os

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    reader, writer = os.pipe()
    arguments = [
        [b"tool", b"ESCAPED:", b"direct"],
        (os.fsencode(world.tool),),
        True,
        (),
        None,
        None,
        -1,
        -1,
        -1,
        -1,
        -1,
        -1,
        reader,
        writer,
        False,
        False,
        -1,
        None,
        None,
        None,
        -1,
        None,
        False,
    ]
    for count in (len(arguments), 21, 22):
        try:
            pid = _posixsubprocess.fork_exec(*arguments[:count])
            os.waitpid(pid, 0)
        except TypeError:
            pass


TECHNIQUE = Technique(
    source="pyjail collections: _posixsubprocess.fork_exec; CPython has no audit event for it",
    event=("process.exec", "process.fork", "import.module"),
    by="broker",
    stops=("broker", "notification"),
    control=Granted(run_tool),
    thread=not_run("exec/fork_libc shows what its fork would do"),
)
