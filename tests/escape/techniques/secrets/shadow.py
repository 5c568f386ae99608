"""Read the system's secrets by raw calls: shadow, keys, tokens, sockets."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for path in (
        "/etc/shadow",
        "/etc/passwd",
        "/root/.ssh/id_rsa",
        "/root/.bash_history",
        "/etc/ssh/ssh_host_rsa_key",
        "/run/secrets/kubernetes.io/serviceaccount/token",
        "/var/run/docker.sock",
        "/etc/hostname",
        "/etc/machine-id",
    ):
        descriptor, _ = world.attempt("openat", -100, path.encode(), 0)
        if descriptor >= 0:
            world.got(f"{path}: {os.read(descriptor, 20)}")


TECHNIQUE = Technique(
    source="GTFOBins; MITRE T1552",
    event=("fs.read",),
    stops=("root view", "landlock", "file permissions"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
