"""Make SQLite open a file outside by ATTACH, which CPython does not audit."""

import sqlite3

from tests.escape.grants import write_outside
from tests.escape.technique import ABSENT, Granted, Technique


def attack(world):
    database = sqlite3.connect(":memory:")
    database.execute("ATTACH ? AS other", (world.outside + "/planted.db",))
    database.execute("CREATE TABLE other.t (x)")
    database.commit()


TECHNIQUE = Technique(
    source="SQLite ATTACH; CPython audit events table",
    no_event=ABSENT,
    stops=("root view", "landlock"),
    control=Granted(write_outside),
)
