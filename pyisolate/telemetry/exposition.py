"""Serve the metrics: a small HTTP server of our own, and WSGI and ASGI applications to mount elsewhere."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app
from prometheus_client.exposition import choose_encoder

from ..errors import SandboxError
from ..native.forked import renew
from ..native.threads import Thread
from .metrics import METRICS

#: A scraper that sends nothing for this long is disconnected.
_IDLE_TIMEOUT_S = 10.0
#: Scrapes served at once; more are turned away (503) so that clients cannot pile threads up.
_CONCURRENT_SCRAPES = 16


class MetricsAddressError(SandboxError, OSError):
    """`serve_metrics` cannot listen there."""


class MetricsServer:
    """A running `/metrics` endpoint: `port` (the real one, if 0 was asked for), `url`, `close()`."""

    def __init__(self, server: _Server, addr: str) -> None:
        self._server: _Server | None = server
        self._pid = os.getpid()
        self.addr = addr
        self.port: int = server.server_address[1]
        host = f"[{addr}]" if ":" in addr else addr
        self.url = f"http://{host}:{self.port}/metrics"
        self._thread = Thread(target=server.serve_forever, args=(0.2,), name=f"pyisolate-metrics-{self.port}")
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads
            server.server_close()
            raise OSError(errno.EAGAIN, str(error)) from error
        renew(self)

    def renew_after_fork(self) -> None:
        """Close the inherited listening socket: the child serves nothing, and must not hold the parent's port."""
        if self._server is not None:
            self._server.socket.close()

    def close(self) -> None:
        """Stop serving and free the port. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        if os.getpid() == self._pid:
            server.shutdown()
            self._thread.join(5)
        server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def start_server(port: int, addr: str, registry: CollectorRegistry | None = None) -> MetricsServer:
    """Serve `/metrics` from a background thread. Internal: users call `serve_metrics`, which asks for the token.

    Raises MetricsAddressError (an OSError) when the address cannot be bound.
    """
    if not isinstance(port, int):
        raise TypeError(f"serve_metrics: port {port!r}: must be int, not {type(port).__name__}")
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    handler = type("Handler", (_Handler,), {"registry": _default(registry)})
    try:
        return MetricsServer(_Server((addr, port), handler, family), addr)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "a port is 0 to 65535"
        raise MetricsAddressError(
            operation="serve_metrics",
            subject=f"{addr}:{port}",
            cause=reason,
            hint="choose another port, or 0 for any free one",
            errno=error.errno if isinstance(error, OSError) else None,
        ) from error


def wsgi_app(registry: CollectorRegistry | None = None) -> Callable[..., Any]:
    """Return a WSGI application that answers with the metrics, to be mounted at `/metrics`."""
    return make_wsgi_app(_default(registry))


def asgi_app(registry: CollectorRegistry | None = None) -> Callable[..., Any]:
    """Return an ASGI application that answers with the metrics, to be mounted at `/metrics`."""
    return make_asgi_app(_default(registry))


def _default(registry: CollectorRegistry | None) -> CollectorRegistry:
    if registry is not None:
        return registry
    return METRICS.exposed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], family: int) -> None:
        self.address_family = family
        self.slots = threading.BoundedSemaphore(_CONCURRENT_SCRAPES)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer.server_bind: that looks the host's name up, which may stall on a broken resolver.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        except OSError:
            pass
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about a client that went away: a library never prints."""


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    timeout = _IDLE_TIMEOUT_S
    server_version = "pyisolate"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.split("?", 1)[0] not in ("/metrics", "/"):
            self._answer(404, b"not found: the metrics are at /metrics\n", "text/plain; charset=utf-8")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(200, encode(self.registry), content_type)

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: a library never prints."""
