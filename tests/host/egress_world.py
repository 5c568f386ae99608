"""A server on this machine, and a supervisor whose guests reach it by name through the egress proxy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyisolate
from pyisolate import Policy
from tests.host.test_egress import Server

HOST = "api.example.org"


class World:
    """A server, and a policy that grants one directory of it; `base` is the same without that grant."""

    def __init__(self, supervisor: pyisolate.Supervisor, plain: Server) -> None:
        self.supervisor, self.plain = supervisor, plain
        self.place = f"{HOST}:{plain.port}"
        self.granted, self.other = f"http://{self.place}/v1/x", f"http://{self.place}/v2/x"
        self.base = Policy.preset("compute").allow_import("@stdlib").allow_connect(f"127.0.0.1:{plain.port}")
        self.policy = self.base.allow_http(f"* {self.place}/v1/*").with_limits(open_files=128)


@contextlib.contextmanager
def one_world() -> Iterator[World]:
    """Make one, whose proxy has started, and end it."""
    plain = Server()
    try:
        with pyisolate.Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}) as supervisor:
            made = World(supervisor, plain)
            supervisor.spawn("first", made.policy).close()
            yield made
    finally:
        plain.close()
