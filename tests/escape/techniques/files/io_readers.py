"""Read the secret by every reader of the standard library."""

import codecs
import io
import linecache
import pathlib
import shutil

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    readers = (
        lambda: pathlib.Path(world.secret).read_text(),
        lambda: io.FileIO(world.secret).read(),
        lambda: io.open_code(world.secret).read(),
        lambda: codecs.open(world.secret).read(),
        lambda: linecache.getline(world.secret, 1),
        lambda: shutil.copyfile(world.secret, "/dev/null"),
        lambda: __import__("fileinput").input(world.secret).readline(),
        lambda: __import__("tokenize").open(world.secret).read(),
        lambda: __import__("runpy").run_path(world.secret),
        lambda: __import__("importlib.machinery").machinery.SourceFileLoader("x", world.secret).get_data(world.secret),
        lambda: __import__("zipimport").zipimporter(world.secret),
    )
    for read in readers:
        try:
            world.loot(read())
        except Exception:
            pass


TECHNIQUE = Technique(
    source="salvatore-abello/python-ctf-cheatsheet; GTFOBins python: file read",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
