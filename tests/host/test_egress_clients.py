"""Clients of HTTP as guests, as they are: each follows the proxy, trusts its authority, and is refused by path."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import io
import os
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy

pytestmark = [pytest.mark.once, pytest.mark.slow]

trustme = pytest.importorskip("trustme")
pytest.importorskip("cryptography")

HOST = "files.example.org"
GIT, CURL = Path("/usr/lib/git-core"), Path("/usr/bin/curl")


class _Files(http.server.SimpleHTTPRequestHandler):
    """Files, and repositories by git's own program for that (git-http-backend(1))."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "/repo.git/" in self.path:
            self._git()
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._git()

    def _git(self) -> None:
        path, _, query = self.path.partition("?")
        length = self.headers.get("Content-Length", "0")
        asked = {
            "GIT_PROJECT_ROOT": str(self.directory),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": length,
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(length))
        done = subprocess.run(["git", "http-backend"], input=body, env={**os.environ, **asked}, capture_output=True)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pyisolate.Supervisor, int]]:
    """A host with a file, a repository and a package, below /v1 and below /v2; and a supervisor that knows it."""
    top = tmp_path_factory.mktemp("host")
    for version in ("v1", "v2"):
        place = top / version
        place.mkdir()
        (place / "x").write_text("hello")
        _package(place)
        if GIT.exists():
            _repository(place)
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    authority.cert_pem.write_to_path(top / "ca.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(top)))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with pyisolate.Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}, egress_ca=top / "ca.pem") as supervisor:
        supervisor.spawn("first", policy_for(server.server_port)).close()
        yield supervisor, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def _package(place: Path) -> None:
    wheel = "tiny-1.0-py3-none-any.whl"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("tiny.py", "answer = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    index = place / "simple/tiny"
    index.mkdir(parents=True)
    (index / wheel).write_bytes(data.getvalue())
    (index / "index.html").write_text(f"<!DOCTYPE html><a href='{wheel}'>{wheel}</a>")


def _repository(place: Path) -> None:
    work = place / "work"
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    run(["git", "init", "-q", str(work)])
    (work / "file").write_text("hello")
    run(["git", "-C", str(work), "add", "."])
    run(["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"])
    run(["git", "clone", "-q", "--bare", str(work), str(place / "repo.git")])
    run(["git", "-C", str(place / "repo.git"), "config", "http.receivepack", "true"])


def policy_for(port: int) -> Policy:
    return (
        Policy.preset("compute")
        .allow_import("@stdlib", "requests", "httpx", "aiohttp", "pip")
        .allow_native("*")
        .allow_connect(f"127.0.0.1:{port}")
        .allow_http(f"GET https://{HOST}:{port}/v1/*")
        .with_egress(inspect_tls=True)
        .with_limits(memory="1GiB", wall="60s", cpu="30s", processes=64, open_files=256)
    )


LIBRARIES = {
    "urllib": "import urllib.request; text = urllib.request.urlopen(url + 'x').read().decode()",
    "requests": "import requests; answer = requests.get(url + 'x'); answer.raise_for_status(); text = answer.text",
    "httpx": "import httpx; text = httpx.get(url + 'x').raise_for_status().text",
    "aiohttp": """
import aiohttp, asyncio
async def get():
    async with aiohttp.ClientSession(trust_env=True, raise_for_status=True) as session:
        async with session.get(url + 'x') as answer:
            return await answer.text()
text = asyncio.run(get())
""",
    "pip": """
from pip._internal.cli.main import main
options = ['-q', '--no-deps', '--no-cache-dir', '--disable-pip-version-check', '--retries=0']
if main(['download', *options, '-i', url + 'simple', 'tiny']):
    raise OSError('pip failed')
import os
text = 'hello' if os.path.exists('tiny-1.0-py3-none-any.whl') else ''
""",
}


@pytest.mark.parametrize("client", sorted(LIBRARIES))
def test_a_library_as_it_is(port: tuple[pyisolate.Supervisor, int], client: str) -> None:
    if client not in ("urllib",) and importlib.util.find_spec(client) is None:
        pytest.skip(f"no {client}")
    supervisor, number = port
    with supervisor.spawn(client, policy_for(number)) as sandbox:
        url = f"https://{HOST}:{number}/v1/"
        sandbox.exec(f"url = {url!r}\n{LIBRARIES[client]}")
        assert sandbox.eval("text") == "hello"
        assert requested(sandbox) == set()
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(f"url = {url.replace('v1', 'v2')!r}\n{LIBRARIES[client]}")
        assert requested(sandbox) == {f"GET https://{HOST}:{number}/v2/{'simple/tiny/' if client == 'pip' else 'x'}"}


def test_curl_as_it_is(port: tuple[pyisolate.Supervisor, int]) -> None:
    if not CURL.exists():
        pytest.skip("no curl")
    supervisor, number = port
    policy = policy_for(number).allow_exec(CURL).allow_read("@certificates")
    with supervisor.spawn("curl", policy) as sandbox:
        url = f"https://{HOST}:{number}"
        done = sandbox.run([CURL, "-sSf", f"{url}/v1/x"])
        assert done.stdout == b"hello", done.stderr
        assert requested(sandbox) == set()
        assert sandbox.run([CURL, "-sSf", f"{url}/v2/x"]).returncode != 0
        sandbox.exec("")
        assert requested(sandbox) == {f"GET {url}/v2/x"}


def test_git_clones_and_does_not_push(port: tuple[pyisolate.Supervisor, int]) -> None:
    if not GIT.exists():
        pytest.skip("no git")
    supervisor, number = port
    git, own = "/usr/bin/git", "got"
    url = f"https://{HOST}:{number}"
    repository = f"{url}/v1/repo.git"
    policy = policy_for(number).allow_exec(git).allow_exec(GIT).allow_read("@certificates")
    policy = policy.allow_read("/usr/share/git-core")
    others = [rule for rule in policy.to_dict()["net"] if "http" not in rule]
    paths = (f"GET {repository}/info/refs", f"POST {repository}/git-upload-pack")
    policy = Policy.from_dict({**policy.to_dict(), "net": [*others, *({"http": path} for path in paths)]})
    with supervisor.spawn("git", policy) as sandbox:
        done = sandbox.run([git, "clone", "-q", repository, own])
        assert done.returncode == 0, done.stderr
        assert sandbox.files.read_text(f"{own}/file") == "hello"
        assert requested(sandbox) == set()
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        assert sandbox.run([git, "-C", own, *who, "commit", "-q", "--allow-empty", "-m", "two"]).returncode == 0
        assert sandbox.run([git, "-C", own, "push", "-q"]).returncode != 0
        assert sandbox.run([git, "clone", "-q", f"{url}/v2/repo.git", "other"]).returncode != 0
        sandbox.exec("")
        assert requested(sandbox) == {f"POST {repository}/git-receive-pack", f"GET {url}/v2/repo.git/info/refs"}


def requested(sandbox: pyisolate.Sandbox) -> set[str]:
    """Return what the proxy refused."""
    return {event.target for event in sandbox.get_denial_events() if event.capability == "net.http"}
