"""A server on loopback for guests of the egress proxy: it answers with what it was asked, and keeps it."""

from __future__ import annotations

import gzip
import http.server
import ssl
import threading


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        self.server.authorized.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        sent = self._body()
        self.server.last = (self.command, self.path, list(self.headers.items()), sent)  # type: ignore[attr-defined]
        body = f"{self.command} {self.path} {self.headers['Host']} ".encode() + sent
        if self.path.endswith("/echo"):
            body += str(self.headers.get("Authorization")).encode()
        if self.path.endswith("/zipped"):
            body = gzip.compress(body + str(self.headers.get("Authorization")).encode())
        self.send_response(302 if self.path.endswith("/away") else 200)
        if self.path.endswith("/away"):
            self.send_header("Location", f"http://evil.test:{self.server.server_port}/stolen")  # type: ignore[attr-defined]
        if self.path.endswith("/zipped"):
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Authorization", str(self.headers.get("Authorization")))
        self.send_header("X-Sent", repr(sorted(name.lower() for name in self.headers)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    do_POST = do_PUT = do_GET

    def date_time_string(self, timestamp: float | None = None) -> str:  # equal requests have equal answers
        return "Mon, 30 Nov 2026 00:00:00 GMT"

    def log_message(self, *args: object) -> None: ...


class Server:
    """A server on loopback, with TLS where it has a certificate; `seen` are the requests that reached it."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # connections that are cut off
        self.seen: list[str] = []
        self.http.seen = self.seen  # type: ignore[attr-defined]
        self.authorized: list[str | None] = []
        self.http.authorized = self.authorized  # type: ignore[attr-defined]
        if context is not None:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.http.server_port
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()
