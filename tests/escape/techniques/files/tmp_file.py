"""Leave a file in /tmp, which many sandboxes share with the host."""

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique


def attack(world):
    import tempfile

    with tempfile.NamedTemporaryFile(dir=world.base + "/outside", delete=False) as file:
        file.write(b"owned")


TECHNIQUE = Technique(
    source="CWE-377",
    event=("fs.create", "fs.write"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(write_outside),
)
