"""Where the egress proxy is reached."""

from __future__ import annotations

import socket

#: Connections that wait to be taken, as while a proxy that died is replaced.
_BACKLOG = 1024


class Listening:
    """The proxy's address on the loopback interface: TCP for it, and UDP so that no datagram reaches another."""

    def __init__(self) -> None:
        for _ in range(16):
            self.tcp = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
            self.port: int = self.tcp.getsockname()[1]
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._udp.bind(("127.0.0.1", self.port))
                return
            except OSError:
                self.close()
        raise OSError("egress proxy: no port is free for TCP and UDP")

    def close(self) -> None:
        """Close both; what waits to be taken is refused."""
        self.tcp.close()
        self._udp.close()
