"""The hosts that guests may reach by name, plain and over TLS: a process that says which requests reached it.

`python -m tests.escape.web <socket>`: its ports and its certificate authority in a first line, then a line a request,
written before the request is answered.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import sys
import threading
from typing import Any

import trustme

from tests.escape.lifetime import die_with_parent

DOMAIN = "escape.test"
#: Requests for these, below /granted, are what policies of the techniques grant.
GRANTED = tuple(f"{name}.{DOMAIN}" for name in ("api", "friend", "open", "a.one"))
#: Where the proxy finds them and others: all on this machine, and one in the clothes of IPv6.
HOSTS = {name: ["127.0.0.1"] for name in (*GRANTED, f"evil.{DOMAIN}", f"rebound.{DOMAIN}")}
HOSTS[f"mapped.{DOMAIN}"] = ["::ffff:127.0.0.1"]


def harm(request: dict[str, Any], token: str) -> str:
    """Say what a request that came does to others; empty for one that is granted."""
    host = str(request["host"]).partition(":")[0]
    if host not in GRANTED or not request["path"].startswith("/granted") or ".." in request["path"]:
        return f"a request for {host}{request['path']} came"
    if request["name"] not in (None, host):
        return f"a request for {host} came under the name {request['name']}"
    if request["path"].startswith("/granted/read") and request["method"] != "GET":
        return f"a request to {request['method']} what may be read came"
    if request["upgrade"]:
        return "another protocol came"
    if token in request["authorization"] and host.startswith("friend"):
        return f"the secret came to {host}"
    return ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    report: Any
    plain_port = 0

    def do_GET(self) -> None:
        authorization = str(self.headers.get("Authorization", ""))
        given = {name.replace("_", "-").lower(): value for name, value in self.headers.items()}  # as WSGI has them
        self.report(
            host=str(self.headers.get("Host")),
            path=self.path,
            method=given.get("x-http-method-override", self.command),
            authorization=authorization,
            upgrade=str(self.headers.get("Upgrade", "")),
            name=getattr(self.connection, "server_name", None),
        )
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"{self.path} {authorization}".encode()
        self.send_response(302 if self.path == "/granted/away" else 200)
        if self.path == "/granted/away":
            self.send_header("Location", f"http://evil.{DOMAIN}:{self.plain_port}/taken")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_arguments: object) -> None: ...


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None: ...


def _note_name(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    connection.server_name = name  # type: ignore[union-attr]


def main(descriptor: int) -> None:
    """Serve until the judge closes its end of the socket `descriptor`."""
    die_with_parent()
    lock = threading.Lock()
    with socket.socket(fileno=descriptor) as channel:

        def report(**said: Any) -> None:
            with lock:
                channel.sendall(json.dumps(said).encode() + b"\n")

        handler = type("Handler", (_Handler,), {"report": staticmethod(report)})
        plain, secure = _Server(("127.0.0.1", 0), handler), _Server(("127.0.0.1", 0), handler)
        handler.plain_port = plain.server_port  # type: ignore[attr-defined]
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(context)
        context.sni_callback = _note_name
        secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        for server in (plain, secure):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        report(plain=plain.server_port, secure=secure.server_port, authority=authority.cert_pem.bytes().decode())
        channel.recv(1)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
