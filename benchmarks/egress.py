"""Requests through the egress proxy, on kept connections, against the same from the same guest directly."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyisolate

from .figures import Figure, Outcome, Reference, Settings, Skipped
from .measure import median, spread, take_turns

REQUESTS, SMALL, LARGE = 20, 10_000, 8_000_000
HOST = "api.example.org"
GUEST = """
import base64, http.client, os, ssl, time
password, _, address = os.environ["HTTPS_PROXY"].removeprefix("http://").partition("@")
login = {"Proxy-Authorization": "Basic " + base64.b64encode(password.encode()).decode()}
proxy = ("127.0.0.1", int(address.rpartition(":")[2]))
def connections(plain, secure):
    # handshakes are not measured: whom one trusts makes no difference
    any_host = ssl.create_default_context()
    any_host.check_hostname, any_host.verify_mode = False, ssl.CERT_NONE
    def tunnelled(host, context):
        made = http.client.HTTPSConnection(*proxy, context=context)
        made.set_tunnel(host, secure, login)
        return made, "", {}
    return {
        "direct": (http.client.HTTPConnection("127.0.0.1", plain), "", {}),
        "plain": (http.client.HTTPConnection(*proxy), f"http://HOST:{plain}", {"Host": f"HOST:{plain}", **login}),
        "direct TLS": (http.client.HTTPSConnection("127.0.0.1", secure, context=any_host), "", {}),
        "closed": tunnelled("a.closed.example.org", any_host),
        "opened": tunnelled("HOST", ssl.create_default_context()),
    }
def ask(way, size, count):
    connection, before, headers = known[way]
    began = time.perf_counter()
    for _ in range(count):
        connection.request("GET", f"{before}/{size}", headers=headers)
        answer = connection.getresponse()
        got = len(answer.read())
        if (answer.status, got) != (200, size):
            raise OSError(f"{way}: {answer.status}, {got} bytes")
    return (time.perf_counter() - began) / count
""".replace("HOST", HOST)
#: way -> what it is called, and what it is held against
WAYS = {
    "plain": ("by the egress proxy", "direct"),
    "closed": ("in a tunnel that stays closed", "direct TLS"),
    "opened": ("in a tunnel that the proxy opens", "direct TLS"),
}


def run(settings: Settings) -> Outcome:
    """Measure both sizes in batches that take turns; the guest times its own requests."""
    if importlib.util.find_spec("cryptography") is None:
        return Outcome(skipped=[Skipped(what="egress", why="cryptography is not installed (extra tls)")])
    figures: list[Figure] = []
    with _sandbox() as sandbox:
        for size, count, rounds in ((SMALL, REQUESTS, settings.rounds(60, 10)), (LARGE, 1, settings.rounds(10, 3))):
            ways = ["direct", "direct TLS", *WAYS]
            took = dict(zip(ways, take_turns(rounds, *(_side(sandbox, way, size, count) for way in ways)), strict=True))
            figures += [_figure(way, size, count, took) for way in WAYS]
    return Outcome(figures=figures)


def _side(sandbox: pyisolate.Sandbox, way: str, size: int, count: int) -> Any:
    sandbox.call("ask", way, size, 1)  # connect, and agree on TLS
    return lambda: float(sandbox.call("ask", way, size, count))


def _figure(way: str, size: int, count: int, took: dict[str, list[float]]) -> Figure:
    (name, against), small = WAYS[way], size == SMALL
    return Figure(
        what=f"GET {'10 kB' if small else '8 MB'} {name}",
        value=median(took[way]),
        unit="s",
        spread=f"{spread(took[way], tail=False)} x {count} µs",
        reference=Reference(against, median(took[against])),
        budget="<= 1.5x" if small else "",
        met=median(took[way]) <= 1.5 * median(took[against]) if small else None,
    )


@contextlib.contextmanager
def _sandbox() -> Iterator[pyisolate.Sandbox]:
    """Yield a sandbox that reaches a server on the loopback in all ways."""
    root = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", "benchmarks.web_server"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as server,
        tempfile.NamedTemporaryFile("w", suffix=".pem") as trusted,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())
        plain, secure = said["plain"], said["secure"]
        trusted.write(said["authority"])
        trusted.flush()
        policy = (
            pyisolate.Policy.preset("compute")
            .allow_import("@stdlib")
            .allow_native("_ssl", "_socket", "_hashlib")
            .allow_read("@certificates")
            .allow_connect(f"127.0.0.1:{plain}")
            .allow_connect(f"127.0.0.1:{secure}")
            .allow_http(f"GET {HOST}:{plain}/*")
            .allow_http(f"GET https://{HOST}:{secure}/*")
            .allow_connect(f"*.closed.example.org:{secure}")
            .with_egress(inspect_tls=True)
            .with_limits(wall="600s", cpu="600s")
        )
        hosts = {name: ["127.0.0.1"] for name in (HOST, "a.closed.example.org")}
        with (
            pyisolate.Supervisor(pool_size=1, egress_hosts=hosts, egress_ca=trusted.name) as supervisor,
            supervisor.spawn("benchmark", policy) as sandbox,
        ):
            sandbox.exec(GUEST)
            sandbox.exec(f"known = connections({plain}, {secure})")
            yield sandbox
        server.stdin.close()
