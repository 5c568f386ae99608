"""Where the kernel does not tell whose a connection is, its password alone does: the proxy is served no word of it."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import pyisolate
from pyisolate.decision import DenialCode
from pyisolate.egress import process
from tests import inside
from tests.host.egress_world import OWN_PROXY, World, one_world

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_GUEST = (
    OWN_PROXY
    + """
import http.client, socket
def ask(url, host, header=login):
    said = f"GET {url} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n{header}\\r\\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(said)
        return sock.recv(1 << 16)[9:12]
def hold(count, header=""):
    made = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for one in made:
        one.sendall(header.encode())
    return made
def answered(sock):
    # An answer may come in several pieces: what is left of one would be taken for the next one's status.
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    answer.read()
    return b"%d" % answer.status
"""
)
#: A word of the proxy's own code that has it ask the kernel for what no kernel tells: a netlink protocol, an attribute.
_TAKEN_AWAY = {
    "no sockets": ("listener", "_NETLINK_SOCK_DIAG = 31"),
    "no sockets, by groups": ("auto", "_NETLINK_SOCK_DIAG = 31"),
    "no groups": ("auto", "_INET_DIAG_CGROUP_ID = 0x7fff"),
}
_MAIN = "import sys\nfrom pyisolate.egress import peers\npeers.{}\nfrom pyisolate.egress.serve import main\n"
_PATIENCE_S = 20.0


@pytest.fixture(scope="module", params=list(_TAKEN_AWAY))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One whose proxy is told nothing by the kernel, as on one that is built without that."""
    network, word = _TAKEN_AWAY[request.param]
    code = _MAIN.format(word) + "sys.exit(main(*map(int, sys.argv[1:4])))"

    def start(arguments: Sequence[str], *others: Any, **options: Any) -> subprocess.Popen[bytes]:
        if list(arguments[:2]) == ["-m", "pyisolate.egress"]:
            arguments = ["-c", code, *arguments[2:]]
        return started(arguments, *others, **options)

    started = process.interpreter.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.interpreter, "start", start)
        with one_world(network) as made:  # type: ignore[arg-type]
            yield made


@pytest.fixture
def guest(world: World) -> Iterator[pyisolate.Sandbox]:
    with world.supervisor.spawn("inside", world.policy.with_limits(open_files=1024)) as made:
        made.exec(_GUEST)
        if not _answers_strangers(world, made.eval("port")):
            pytest.skip("the listener connects for this supervisor's cells, and tells whose each connection is")
        yield made


def _ask(world: World, header: str = "login") -> str:
    return f"ask({world.granted!r}, {world.place!r}, {header})"


def _login(password: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(password.encode()).decode() + "\r\n"


def _from_outside(port: int, login: str, world: World) -> bytes:
    """Return the status that this process is answered, which is no guest."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock:
        sock.sendall(f"GET {world.granted} HTTP/1.1\r\nHost: {world.place}\r\n{login}\r\n".encode())
        return sock.recv(1 << 16)[9:12]


def _answers_strangers(world: World, port: int) -> bool:
    """Tell whether the password is what is asked for; where the kernel tells, this is closed unread."""
    try:
        return _from_outside(port, "", world) == b"407"
    except ConnectionError:
        return False


def _told(world: World) -> float:
    """Return how many refusals the supervisor has counted, of the host's and of its guests'."""
    inside.runtime(world.supervisor).egress.drain()
    return world.supervisor.recorder.metrics.denials.total()


def test_a_password_says_whose_a_request_is_and_without_it_none_goes_on(world: World, guest: pyisolate.Sandbox) -> None:
    before, told = len(world.plain.seen), _told(world)
    assert guest.eval(_ask(world)) == b"200"
    assert guest.eval(_ask(world, "''")) == b"407"
    assert guest.eval(_ask(world, repr(_login("sandbox:wrong")))) == b"407"
    assert guest.eval(_ask(world, repr(_login("sandbox:")))) == b"407"
    assert len(world.plain.seen) == before + 1
    assert guest.get_denial_events() == []
    assert _told(world) == told + 3  # of the host: nothing said whose they were


def test_what_a_password_shows_is_refused_in_its_sandboxs_name_and_ends_with_it(
    world: World, guest: pyisolate.Sandbox
) -> None:
    with world.supervisor.spawn("other", world.policy) as other:
        other.exec(_GUEST)
        others = other.eval("login")
        said = guest.eval(f"ask({world.other!r}, {world.place!r}, {others!r})")
        assert said == b"403"
        other.exec("")
        assert [event.target for event in other.get_denial_events()] == [f"GET {world.place}/v2/x"]
        assert guest.get_denial_events() == []
        port = guest.eval("port")
        assert _from_outside(port, others, world) == b"200"  # the control: it is the password that counts
    assert _from_outside(port, others, world) == b"407"
    assert guest.eval(_ask(world, repr(others))) == b"407"
    assert guest.eval(_ask(world)) == b"200"


def test_connections_that_show_none_keep_no_sandboxs_place(world: World, guest: pyisolate.Sandbox) -> None:
    """The oldest of those are closed from the 257th on; what has shown its password is not among them."""
    with world.supervisor.spawn("other", world.policy) as other:
        other.exec(_GUEST)
        kept = f"GET {world.granted} HTTP/1.1\r\nHost: {world.place}\r\n"
        other.exec(f"(held,) = hold(1, {kept!r} + login + '\\r\\n')")
        assert other.eval("answered(held)") == b"200"
        guest.exec("many = hold(400)")
        other.exec(f"held.sendall(({kept!r} + login + '\\r\\n').encode())")
        assert other.eval("answered(held)") == b"200"
        guest.exec("many[0].settimeout(20)")
        assert guest.eval("many[0].recv(1)") == b""  # the oldest
        assert other.eval(_ask(world)) == b"200"
        assert guest.eval(_ask(world)) == b"200"
        guest.exec("for one in many: one.close()")


def test_more_connections_than_a_sandbox_may_have_are_refused_with_an_event(
    world: World, guest: pyisolate.Sandbox
) -> None:
    post = f"POST {world.granted} HTTP/1.1\r\nHost: {world.place}\r\nContent-Length: 9\r\n"
    guest.exec(f"held = hold(32, {post!r} + login + '\\r\\n')")
    deadline, said = time.monotonic() + _PATIENCE_S, b""
    while (said := guest.eval(_ask(world))) != b"429" and time.monotonic() < deadline:
        pass
    assert said == b"429"
    guest.exec("")
    events = guest.get_denial_events()
    assert {(event.target, event.code) for event in events} == {("egress connections", DenialCode.LIMIT_EXCEEDED)}
    with contextlib.suppress(OSError):
        guest.exec("for one in held: one.close()")
