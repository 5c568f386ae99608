"""Copy the interpreter itself and run it, where no hooks are installed."""

import os
import sys

from tests.escape.grants import outbox_and_other_program
from tests.escape.technique import LANDLOCK_SILENT, Bare, Technique, silent


def attack(world):
    copy = world.outbox + "/python"
    source_path = sys.executable if os.path.exists(sys.executable) else world.python
    with open(source_path, "rb") as source, open(copy, "wb") as target:
        target.write(source.read())
    os.chmod(copy, 0o755)
    world.execute(copy, copy, "-I", "-S", "-c", "print('ESCAPED: another interpreter')")


TECHNIQUE = Technique(
    source="GTFOBins python; restricted shells",
    policy=outbox_and_other_program,
    event=("process.exec",),
    stops=("landlock", "root view"),
    control=Bare(),
    thread=silent(LANDLOCK_SILENT),
)
