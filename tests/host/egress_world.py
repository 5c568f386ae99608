"""A server on this machine, and a supervisor whose guests reach it by name through the egress proxy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyisolate
from pyisolate import Policy
from pyisolate.choices import Network
from tests.host.egress_server import Server

HOST = "api.example.org"


class World:
    """A server, and a policy that grants one directory of it; `base` is the same without that grant."""

    def __init__(self, supervisor: pyisolate.Supervisor, plain: Server) -> None:
        self.supervisor, self.plain = supervisor, plain
        self.place = f"{HOST}:{plain.port}"
        self.granted, self.other = f"http://{self.place}/v1/x", f"http://{self.place}/v2/x"
        self.base = Policy.preset("compute").allow_import("@stdlib").allow_connect(f"127.0.0.1:{plain.port}")
        self.policy = self.base.allow_http(f"* {self.place}/v1/*").with_limits(open_files=128)


#: A guest's source: the port of its proxy, and the header line that says who it is.
OWN_PROXY = """
import base64, os
password, _, address = os.environ["HTTP_PROXY"].removeprefix("http://").partition("@")
port = int(address.rpartition(":")[2])
login = "Proxy-Authorization: Basic " + base64.b64encode(password.encode()).decode() + "\\r\\n"
"""


@contextlib.contextmanager
def one_world(network: Network = "auto") -> Iterator[World]:
    """Make one, whose proxy has started, and end it."""
    plain = Server()
    try:
        with pyisolate.Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}, network=network) as supervisor:
            made = World(supervisor, plain)
            supervisor.spawn("first", made.policy).close()
            yield made
    finally:
        plain.close()


def turns_of_tunnels() -> int:
    """Return how often the threads that carry tunnels and known exchanges have waited, in proxies of this process's."""
    turns = 0
    for task in Path("/proc").glob("[0-9]*/task/*"):
        with contextlib.suppress(OSError):
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            if (status["Name"], status["PPid"]) == ("egress-tunnels", str(os.getpid())):
                turns += int(status["voluntary_ctxt_switches"])
    return turns
