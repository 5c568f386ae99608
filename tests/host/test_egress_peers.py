"""The egress proxy knows whose a connection is before its first byte: the kernel says so."""

from __future__ import annotations

import base64
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate.decision import DenialCode
from tests.host.egress_world import OWN_PROXY, World, one_world

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_GUEST = (
    OWN_PROXY
    + """
import socket
def ask(url, host, header=login, through=("127.0.0.1", port), family=socket.AF_INET, fast=False):
    said = f"GET {url} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n{header}\\r\\n".encode()
    with socket.socket(family) as sock:
        if fast:
            sock.sendto(said, socket.MSG_FASTOPEN, through)
        else:
            sock.connect(through)
            sock.sendall(said)
        return sock.recv(1 << 16)[9:12]
def flood(times):
    for _ in range(times):
        socket.create_connection(("127.0.0.1", port)).close()
def hold(count):
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
"""
)
_PATIENCE_S = 20.0


@pytest.fixture(scope="module", params=["listener", "auto"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """By cookies that the listener writes down, and where programs decide by control groups."""
    with one_world(request.param) as made:
        yield made


def _ask(world: World, more: str = "") -> str:
    return f"ask({world.granted!r}, {world.place!r}{more})"


def _from_outside(port: int, login: str, world: World) -> bytes:
    """Return what this process is answered, which is no guest."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock:
        try:
            sock.sendall(f"GET {world.granted} HTTP/1.1\r\nHost: {world.place}\r\n{login}\r\n".encode())
            return sock.recv(1 << 16)
        except ConnectionError:
            return b""


def test_a_connection_from_outside_is_closed_whatever_password_it_bears(world: World) -> None:
    with world.supervisor.spawn("inside", world.policy) as guest:
        guest.exec(_GUEST)
        port, login = guest.eval("(port, login)")
        assert guest.eval(_ask(world)) == b"200"
        before = len(world.plain.seen)
        assert _from_outside(port, login, world) == b""
        assert _from_outside(port, "", world) == b""
        assert len(world.plain.seen) == before
        assert guest.eval(_ask(world)) == b"200"
        # by each of the ways to the proxy's address that lead there
        assert guest.eval(_ask(world, ', through=("0.0.0.0", port)')) == b"200"
        mapped = ', through=("::ffff:127.0.0.1", port), family=socket.AF_INET6'
        assert guest.eval(_ask(world, mapped)) == b"200"
        assert guest.eval(_ask(world, ", fast=True")) == b"200"
        assert guest.get_denial_events() == []


def test_connections_without_a_password_are_charged_to_who_made_them(world: World) -> None:
    proxy = world.supervisor._runtime.egress
    with (
        world.supervisor.spawn("floods", world.policy) as floods,
        world.supervisor.spawn("rests", world.policy) as rests,
    ):
        floods.exec(_GUEST)
        rests.exec(_GUEST)
        deadline = time.monotonic() + _PATIENCE_S
        while not (charged := proxy.spent_s(floods.id)) and time.monotonic() < deadline:  # it tells now and then
            floods.eval("flood(50)")
        assert charged > 0
        assert proxy.spent_s(rests.id) == 0
        assert rests.eval(_ask(world)) == b"200"


def test_more_connections_than_a_sandbox_may_have_keep_none_of_anothers(world: World) -> None:
    """They were counted from their passwords on, and 256 without one put those of others out."""
    with (
        world.supervisor.spawn("greedy", world.policy.with_limits(open_files=512)) as greedy,
        world.supervisor.spawn("other", world.policy) as other,
    ):
        other.exec(_GUEST)
        other.exec('held = socket.create_connection(("127.0.0.1", port))')
        greedy.exec(_GUEST)
        greedy.exec("many = hold(300)")
        request = f"GET {world.granted} HTTP/1.1\\r\\nHost: {world.place}\\r\\n"
        other.exec(f'held.sendall(f"{request}{{login}}\\r\\n".encode())')
        assert other.eval("held.recv(1 << 16)[9:12]") == b"200"
        deadline, told = time.monotonic() + _PATIENCE_S, 0
        while told < 300 - 32 and time.monotonic() < deadline:
            greedy.exec("")
            events = greedy.get_denial_events()
            told = sum(event.count for event in events)
        assert told == 300 - 32
        assert {(event.target, event.code) for event in events} == {("egress connections", DenialCode.LIMIT_EXCEEDED)}
        greedy.exec("for one in many: one.close()")
        said = b""
        while said != b"200" and time.monotonic() < deadline:
            with contextlib.suppress(pyisolate.GuestError):  # the proxy closes one more until it has seen those go
                said = greedy.eval(_ask(world))
        assert said == b"200"


def test_a_sandbox_that_begins_in_anothers_place_has_connections_of_its_own(world: World) -> None:
    for name in ("first", "second", "third"):
        with world.supervisor.spawn(name, world.policy) as guest:
            guest.exec(_GUEST)
            assert guest.eval(_ask(world)) == b"200"
            wrong = "Proxy-Authorization: Basic " + base64.b64encode(b"sandbox:wrong").decode() + "\r\n"
            assert guest.eval(_ask(world, f", {wrong!r}")) == b"407"
            guest.reload_policy(world.policy.with_egress(requests=100))
            assert guest.eval(_ask(world)) == b"200"
            assert isinstance(guest, pyisolate.Sandbox)
