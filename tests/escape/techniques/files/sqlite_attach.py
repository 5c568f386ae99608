"""Make SQLite open a file outside by ATTACH, which CPython does not audit."""

import sqlite3

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    database = sqlite3.connect(":memory:")
    database.execute("ATTACH ? AS other", (world.outside + "/planted.db",))
    database.execute("CREATE TABLE other.t (x)")
    database.commit()


TECHNIQUE = Technique(
    source="SQLite ATTACH; CPython audit events table",
    event=("fs.create", "fs.metadata"),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
