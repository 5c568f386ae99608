"""A host that answers before it has read a request, and closes: the guest has its answer, as without the proxy."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.host.egress_world import HOST

pytestmark = pytest.mark.once

CURL = Path("/usr/bin/curl")
_BODY = b"too large"
#: Answers by how their end is known.
_ANSWERS = {
    "stated": b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(_BODY) + _BODY,
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_BODY), _BODY),
    "closed": b"Connection: close\r\n\r\n" + _BODY,
}
_GUEST = """
import http.client, os, base64
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["HTTP_PROXY"])
login = "Basic " + base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
def post(url, chunked):
    kept = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    headers = {"Proxy-Authorization": login}
    try:
        if chunked:
            kept.request("POST", url, iter([bytes(1 << 20)] * 8), headers, encode_chunked=True)
        else:
            kept.request("POST", url, bytes(8 << 20), headers)
    except OSError:  # the proxy takes no more of it, as the host
        pass
    answer = kept.getresponse()
    return answer.status, answer.read()
"""


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        with one:
            got = b""
            while b"\r\n\r\n" not in got and (more := one.recv(1 << 16)):
                got += more
            how = got.split(b"/v1/", 1)[1].split(b" ", 1)[0].decode()
            cut = how.removeprefix("cut-")
            one.sendall(b"HTTP/1.1 413 Too Large\r\n" + (_ANSWERS[cut] if how == cut else _ANSWERS[cut][:-4]))


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[pyisolate.Sandbox, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    serving = threading.Thread(target=_serve, args=(listener,))
    serving.start()
    port = listener.getsockname()[1]
    policy = pyisolate.Policy.preset("compute").allow_import("@stdlib")
    policy = policy.allow_connect(f"127.0.0.1:{port}").allow_http(f"POST {HOST}:{port}/v1/*")
    if CURL.exists():
        policy = policy.allow_exec(CURL).with_limits(processes=32)
    try:
        with (
            pyisolate.Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}) as supervisor,
            supervisor.spawn("posts", policy) as sandbox,
        ):
            sandbox.exec(_GUEST)
            yield sandbox, port
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        serving.join()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("how", _ANSWERS)
def test_an_early_answer_reaches_the_guest(world: tuple[pyisolate.Sandbox, int], how: str, *, chunked: bool) -> None:
    sandbox, port = world
    for _ in range(4):  # whether the reset or the answer is met first is by chance
        assert sandbox.eval(f"post('http://{HOST}:{port}/v1/{how}', {chunked})") == (413, _BODY)


@pytest.mark.parametrize("how", ["stated", "chunked"])
def test_one_that_is_cut_off_is_no_whole_one(world: tuple[pyisolate.Sandbox, int], how: str) -> None:
    sandbox, port = world
    with pytest.raises(pyisolate.SandboxError, match="IncompleteRead"):
        sandbox.eval(f"post('http://{HOST}:{port}/v1/cut-{how}', False)")


def test_curl_has_an_early_answer(world: tuple[pyisolate.Sandbox, int]) -> None:
    if not CURL.exists():
        pytest.skip("no curl")
    sandbox, port = world
    for how in _ANSWERS:
        command = [CURL, "-sS", "-H", "Expect:", "-w", "%{http_code}", "--data-binary", "@-"]
        done = sandbox.run([*command, f"http://{HOST}:{port}/v1/{how}"], input=bytes(8 << 20))
        assert done.stdout == _BODY + b"413", done.stderr
