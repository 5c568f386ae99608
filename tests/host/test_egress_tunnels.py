"""Tunnels by name alone: clients as they are, what the proxy reads nothing of, and what it does not speak itself."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from tests.host.test_egress_clients import CURL, GIT, HOST, LIBRARIES, port, requested

__all__ = ["port"]
pytestmark = [pytest.mark.once, pytest.mark.slow]

trustme = pytest.importorskip("trustme")
pytest.importorskip("cryptography")

#: below the granted names, and not
_OTHER = "files.example.com"
_TRUST = "SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE PIP_CERT GIT_SSL_CAINFO".split()
_ROOM: dict[str, Any] = {"memory": "1GiB", "wall": "60s", "cpu": "30s", "processes": 64, "open_files": 256}


def closed(number: int, authority: Path) -> Policy:
    """Return the rules that the table of `docs/egress.md` has for packages and git: names, and no paths."""
    return (
        Policy.preset("compute")
        .allow_import("@stdlib", "requests", "httpx", "aiohttp", "pip")
        .allow_native("*")
        .allow_read(str(authority))
        .allow_connect(f"127.0.0.1:{number}")
        .allow_connect(f"*.example.org:{number}")
        .with_limits(**_ROOM)
    )


def trusting(authority: Path) -> dict[str, str]:
    return dict.fromkeys(_TRUST, str(authority))


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of whom the host's certificate is by."""
    return next(tmp_path_factory.getbasetemp().glob("host*/ca.pem"))


@pytest.mark.parametrize("client", sorted(LIBRARIES))
def test_a_library_reaches_granted_names_and_no_other(
    port: tuple[pyisolate.Supervisor, int], authority: Path, client: str
) -> None:
    if client != "urllib" and importlib.util.find_spec(client) is None:
        pytest.skip(f"no {client}")
    supervisor, number = port
    with supervisor.spawn(client, closed(number, authority), env=trusting(authority)) as sandbox:
        sandbox.exec(f"url = 'https://{HOST}:{number}/v1/'\n{LIBRARIES[client]}")
        assert sandbox.eval("text") == "hello"
        assert requested(sandbox) == set()
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(f"url = 'https://{_OTHER}:{number}/v1/'\n{LIBRARIES[client]}")
        assert requested(sandbox) == {f"CONNECT {_OTHER}:{number}"}


@pytest.mark.parametrize("client", ["curl", "git"])
def test_a_program_reaches_granted_names_and_no_other(
    port: tuple[pyisolate.Supervisor, int], authority: Path, client: str
) -> None:
    if not (CURL if client == "curl" else GIT).exists():
        pytest.skip(f"no {client}")
    supervisor, number = port
    policy = closed(number, authority).allow_exec(f"/usr/bin/{client}")
    if client == "git":
        policy = policy.allow_exec(GIT).allow_read("/usr/share/git-core")
    with supervisor.spawn(client, policy, env=trusting(authority)) as sandbox:

        def reach(host: str) -> int:
            url = f"https://{host}:{number}/v1"
            command = (
                [CURL, "-sSf", f"{url}/x"]
                if client == "curl"
                else ["/usr/bin/git", "clone", "-q", f"{url}/repo.git", host]
            )
            return sandbox.run(command).returncode

        assert reach(HOST) == 0
        assert requested(sandbox) == set()
        assert reach(_OTHER) != 0
        sandbox.exec("")
        assert requested(sandbox) == {f"CONNECT {_OTHER}:{number}"}


class _Host:
    """A host that agrees on HTTP/2 by ALPN and answers every WebSocket; what it met stands in `seen`."""

    def __init__(self, top: Path) -> None:
        self.authority, self.seen = top / "ca.pem", list[str]()
        made = trustme.CA()
        made.cert_pem.write_to_path(self.authority)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.issue_cert(HOST).configure_cert(self.context)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.ports: list[int] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        servers = [await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=tls) for tls in (None, self.context)]
        self.ports = [server.sockets[0].getsockname()[1] for server in servers]
        self._ready.set()
        await self._end.wait()
        for server in servers:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.append(
                f"{None if tls is None else tls.selected_alpn_protocol()} {head.split(None, 2)[1].decode()}"
            )
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except (OSError, EOFError):
            pass
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[_Host]:
    made = _Host(tmp_path)
    yield made
    made.close()


_ALPN = """
import base64, os, socket, ssl
password, _, address = os.environ["HTTPS_PROXY"].removeprefix("http://").partition("@")
login = base64.b64encode(password.encode()).decode()
def agreed(host, port, cafile, path):
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as sock:
        head = f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n"
        sock.sendall(f"{head}Proxy-Authorization: Basic {login}\\r\\n\\r\\n".encode())
        sock.recv(1 << 16)
        context = ssl.create_default_context(cafile=cafile)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with context.wrap_socket(sock, server_hostname=host) as secure:
            secure.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
            return secure.selected_alpn_protocol(), secure.recv(1 << 16).split()[1].decode()
"""


def test_http2_passes_in_a_tunnel_that_stays_closed_and_is_not_agreed_on_in_one_that_is_opened(host: _Host) -> None:
    secure = host.ports[1]
    base = Policy.preset("compute").allow_import("@stdlib").allow_native("_ssl", "_socket", "_hashlib")
    base = base.allow_connect(f"127.0.0.1:{secure}").allow_read(str(host.authority))
    opened = base.allow_http(f"GET https://{HOST}:{secure}/v1/*").with_egress(inspect_tls=True)
    with pyisolate.Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}, egress_ca=host.authority) as supervisor:
        with supervisor.spawn("closed", base.allow_connect(f"*.example.org:{secure}")) as sandbox:
            sandbox.exec(_ALPN)
            assert sandbox.call("agreed", HOST, secure, str(host.authority), "/v1/x") == ("h2", "200")
        with supervisor.spawn("opened", opened) as sandbox:
            sandbox.exec(_ALPN)
            assert sandbox.call("agreed", HOST, secure, None, "/v1/x") == ("http/1.1", "200")
            assert requested(sandbox) == set()
            assert sandbox.call("agreed", HOST, secure, None, "/v2/x") == ("http/1.1", "403")
            assert requested(sandbox) == {f"GET https://{HOST}:{secure}/v2/x"}
    assert host.seen == ["h2 /v1/x", "http/1.1 /v1/x"]


_SOCKET = """
import aiohttp, asyncio
def upgraded(url):
    'Tell what a client of WebSockets is answered.'
    async def connect():
        async with aiohttp.ClientSession(trust_env=True) as session:
            try:
                async with session.ws_connect(url):
                    return 101
            except aiohttp.WSServerHandshakeError as error:
                return error.status
    return asyncio.run(connect())
"""


def test_a_websocket_is_refused_with_its_event_by_a_proxy_that_reads_it_and_reaches_its_host_in_a_closed_tunnel(
    host: _Host,
) -> None:
    pytest.importorskip("aiohttp")
    plain, secure = host.ports
    base = Policy.preset("compute").allow_import("@stdlib", "aiohttp").allow_native("*").with_limits(**_ROOM)
    base = base.allow_connect(f"127.0.0.1:{secure}").allow_connect(f"127.0.0.1:{plain}")
    base = base.allow_read(str(host.authority))
    read = (
        base.allow_http(f"* {HOST}:{plain}/*").allow_http(f"* https://{HOST}:{secure}/*").with_egress(inspect_tls=True)
    )
    with pyisolate.Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}, egress_ca=host.authority) as supervisor:
        with supervisor.spawn("read", read) as sandbox:
            sandbox.exec(_SOCKET)
            said = list[str]()
            for url in (f"ws://{HOST}:{plain}/chat", f"wss://{HOST}:{secure}/chat"):
                before = len(sandbox.get_denial_events())
                assert sandbox.call("upgraded", url) in (400, 403)
                (event,) = [one for one in sandbox.get_denial_events()[before:] if one.capability == "net.http"]
                assert event.code == "ALWAYS_DENIED"
                said.append(event.broker_reason)
        assert ["http://host/path" in said[0], "Upgrade" in said[1]] == [True, True]  # the first asks for ws://
        assert host.seen == []
        tunnels = base.allow_connect(f"*.example.org:{secure}")
        with supervisor.spawn("closed", tunnels, env=trusting(host.authority)) as sandbox:
            sandbox.exec(_SOCKET)
            assert sandbox.call("upgraded", f"wss://{HOST}:{secure}/chat") == 200  # it was the host that answered
            assert requested(sandbox) == set()
        assert [one.split()[1] for one in host.seen] == ["/chat"]
