"""Where the egress proxy is reached, and the table that says by whom."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable

from .peers import new_table

#: Connections that wait to be taken, as while a proxy that died is replaced.
_BACKLOG = 1024
#: Has the listener write down, in the table of a descriptor, whose connections to a port of 127.0.0.1 are.
Lead = Callable[[int, int], None]
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_FUTURE_WRITE = 0x0010  # F_SEAL_FUTURE_WRITE, 5.1: the proxy maps it to be read


class Listening:
    """The proxy's address on the loopback interface: TCP for it, and UDP so that no datagram reaches another.

    `led`: the table in which the listener says whose each connection is.
    """

    def __init__(self, lead: Lead | None) -> None:
        for _ in range(16):
            self.tcp = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
            self.port: int = self.tcp.getsockname()[1]
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._udp.bind(("127.0.0.1", self.port))
                break
            except OSError:
                self.tcp.close()
                self._udp.close()
        else:
            raise OSError("egress proxy: no port is free for TCP and UDP")
        self.led = -1
        try:
            self.led = new_table()
            if lead is not None:
                lead(self.led, self.port)
            fcntl.fcntl(self.led, fcntl.F_ADD_SEALS, _SEALS | _FUTURE_WRITE)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close all; what waits to be taken is refused."""
        self.tcp.close()
        self._udp.close()
        if self.led >= 0:
            os.close(self.led)
            self.led = -1
