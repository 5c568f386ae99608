"""A server on loopback that guests try to reach."""

from __future__ import annotations

import contextlib
import socket
import threading


class Server:
    """A TCP server on loopback that counts and answers connections."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.bind((address, 0))
        self.socket.listen(512)
        self.port = self.socket.getsockname()[1]
        self.reached = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.reached += 1
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"hello")

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join(5)


def fetch(port: int, host: str = "127.0.0.1") -> str:
    with socket.create_connection((host, port), 5) as connection:
        return connection.recv(5).decode()
