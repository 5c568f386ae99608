"""The webhook through a real proxy, over real TLS, and with a server that names a time to come back."""

from __future__ import annotations

import email.utils
import http.server
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.telemetry.sinks.http_endpoint import _retry_after
from pyisolate.telemetry.sinks.webhook import WebhookSink
from tests.require import require
from tests.unit.test_webhook import Make, Receiver, make, receiver, send  # noqa: F401 - fixtures


class Proxy:
    """A real forwarding proxy: CONNECT, and absolute URLs. `seen`: request lines with their Proxy-Authorization."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                outer.seen.append((self.requestline, self.headers["Proxy-Authorization"]))
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port)), 5) as there:
                    self.send_response(200)
                    self.end_headers()
                    _relay(self.connection, there)
                self.close_connection = True

            def do_POST(self) -> None:
                outer.seen.append((self.requestline, self.headers["Proxy-Authorization"]))
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        for ready in select.select([one, other], [], [], 5)[0]:
            if not (data := ready.recv(65536)):
                return
            (other if ready is one else one).sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def openssl(*arguments: str, where: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=where, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority (ca.pem), a server's certificate and a client's, each with its key beside it."""
    require("openssl", shutil.which("openssl") is not None, "apt-get install openssl")
    where = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", *ca, where=where)
    for name in ("server", "client"):
        (where / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", where=where)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-extfile", "names", "-out", f"{name}.pem", where=where)  # fmt: skip
    return where


@pytest.fixture
def secure(certificates: Path) -> Iterator[Receiver]:
    """A receiver over TLS that takes clients with a certificate only."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    made = Receiver()
    made.server.socket = context.wrap_socket(made.server.socket, server_side=True)
    made.url = made.url.replace("http:", "https:")
    yield made
    made.close()


def files(certificates: Path) -> dict[str, Path]:
    return {
        "ca_file": certificates / "ca.pem",
        "client_cert_file": certificates / "client.pem",
        "client_key_file": certificates / "client.key",
    }


def test_tls_with_an_authority_and_a_client_certificate(secure: Receiver, certificates: Path, make: Make) -> None:  # noqa: F811
    sink = make(secure.url, **files(certificates))
    targets = send(sink, 3)
    assert sink.flush(5)
    assert secure.events == targets


@pytest.mark.parametrize("missing", [("ca_file",), ("client_cert_file", "client_key_file")])
def test_tls_without_either_delivers_nothing(
    secure: Receiver,
    certificates: Path,
    make: Make,  # noqa: F811
    missing: tuple[str, ...],
) -> None:
    options = {name: path for name, path in files(certificates).items() if name not in missing}
    sink = make(secure.url, max_age_s=0.1, **options)
    send(sink, 2)
    assert sink.flush(5)
    assert (secure.events, make.dropped("expired")) == ([], 2)


def test_https_goes_through_the_proxy_by_a_tunnel(
    secure: Receiver,
    certificates: Path,
    proxy: Proxy,
    make: Make,  # noqa: F811
) -> None:
    sink = make(secure.url, key="s3cr3t", proxy=f"http://user:p%40ss@{proxy.host}", **files(certificates))
    send(sink, 1)
    assert sink.flush(5)
    assert secure.events == ["/0"]
    ((line, words),) = proxy.seen
    assert line.startswith(f"CONNECT 127.0.0.1:{secure.port} HTTP/1.")
    assert words == "Basic dXNlcjpwQHNz"
    assert "Proxy-Authorization" not in secure.headers[0]


def test_http_goes_through_the_proxy_by_its_whole_url(proxy: Proxy, make: Make) -> None:  # noqa: F811
    sink = make("http://collector.invalid/v1?x=1", proxy=f"http://user:pass@{proxy.host}")
    send(sink, 1)
    assert sink.flush(5)
    assert make.dropped("rejected") + make.dropped("expired") == 0
    assert proxy.seen == [("POST http://collector.invalid/v1?x=1 HTTP/1.1", "Basic dXNlcjpwYXNz")]


def test_the_environment_names_the_proxy_and_who_goes_without(
    receiver: Receiver,  # noqa: F811
    proxy: Proxy,
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    by_it, without = make("http://collector.invalid/"), make(receiver.url, proxy="")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    passed = make(receiver.url)
    for sink in (by_it, without, passed):
        send(sink, 1)
        assert sink.flush(5)
    assert [line for line, _ in proxy.seen] == ["POST http://collector.invalid/ HTTP/1.1"]
    assert receiver.events == ["/0", "/0"]


def _come_back(seconds: str) -> object:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(503)
        handler.send_header("Retry-After", seconds)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_a_server_that_names_a_time_gets_nothing_before(receiver: Receiver, make: Make) -> None:  # noqa: F811
    receiver.script = [_come_back("1")]  # type: ignore[list-item]
    started = time.monotonic()
    sink = make(receiver.url)
    send(sink, 1)
    assert sink.flush(10)
    assert time.monotonic() - started >= 1.0  # without it, the pause is 0.01 s
    assert receiver.events == ["/0"]


def test_a_time_past_a_batchs_age_drops_it_and_still_holds_for_the_next(receiver: Receiver, make: Make) -> None:  # noqa: F811
    receiver.script = [_come_back("1800")]  # type: ignore[list-item]
    sink = make(receiver.url, max_age_s=5)
    send(sink, 1)
    assert sink.flush(4)
    send(sink, 1)
    assert sink.flush(4)
    assert (make.dropped("expired"), receiver.requests) == (2, 1)


def test_retry_after_is_read_in_both_forms_and_garbage_is_none() -> None:
    assert _retry_after("120") == 120
    soon = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 <= _retry_after(soon) <= 61
    for text in (None, "", "soon", "-5", "Fri, 31 Dec 1999 23:59:59 GMT"):
        assert _retry_after(text) == 0
    assert _retry_after("9" * 400) == 3600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca_file": "/nonexistent/ca.pem"}, "ca_file"),
        ({"client_cert_file": "/nonexistent/c.pem"}, "client_cert_file"),
        ({"client_key_file": "/nonexistent/c.key"}, "needs client_cert_file"),
        ({"proxy": "socks5://user:hidden@host:1"}, "proxy: it must be"),
        ({"ca_file": "/x", "tls": ssl.create_default_context()}, "keep one"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        WebhookSink("https://collector.example/", **options)  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_a_key_with_a_password_is_no_prompt(certificates: Path) -> None:
    openssl("ec", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "locked.key", where=certificates)
    with pytest.raises(ValueError, match="encrypted"):
        WebhookSink(
            "https://collector.example/",
            client_cert_file=certificates / "client.pem",
            client_key_file=os.fspath(certificates / "locked.key"),
        )
