"""Names that a name server answers for, and answers otherwise the next time: what is judged is where they lead."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator

import pytest

import pyisolate
from tests.host.dns_stub import DnsStub, asked_by_proxies
from tests.host.egress_server import Server
from tests.require import require

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_GRANTED, _OTHER = "127.0.0.1", "127.0.0.2"
_METADATA = "169.254.169.254"
_GUEST = """
import http.client, os, urllib.request
def get(host, path="/v1/x"):
    return urllib.request.urlopen(f"http://{host}:{port}{path}").read().decode()
"""


class _World:
    def __init__(self, supervisor: pyisolate.Supervisor, plain: Server, dns: DnsStub) -> None:
        self.supervisor, self.plain, self.dns = supervisor, plain, dns
        base = pyisolate.Policy.preset("compute").allow_import("@stdlib").allow_connect(f"{_GRANTED}:{plain.port}")
        self.policy = base.allow_http(f"GET *.example.org:{plain.port}/v1/*")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_World]:
    mounts = os.geteuid() == 0 and shutil.which("unshare") == "/usr/bin/unshare"
    require("root", mounts, "a proxy with a resolv.conf of its own takes a mount")
    top = tmp_path_factory.mktemp("dns")
    for directory in (top, top.parent, top.parent.parent):
        directory.chmod(directory.stat().st_mode | 0o011)
    plain = Server()
    with asked_by_proxies(top) as dns, pyisolate.Supervisor(pool_size=1) as supervisor:
        made = _World(supervisor, plain, dns)
        supervisor.spawn("first", made.policy).close()  # its proxy has started
        yield made
    plain.close()


@pytest.fixture
def guest(world: _World) -> Iterator[pyisolate.Sandbox]:
    world.dns.asked.clear()
    with world.supervisor.spawn("names", world.policy) as made:
        made.exec(f"port = {world.plain.port}\n{_GUEST}")
        yield made


def _denied(guest: pyisolate.Sandbox, host: str) -> pyisolate.DenialEvent:
    with pytest.raises(pyisolate.PolicyError) as caught:
        guest.exec(f"get({host!r})")
    assert caught.value.denial_event is not None
    return caught.value.denial_event


def test_a_name_is_looked_up_when_a_request_needs_it_and_no_other_is(world: _World, guest: pyisolate.Sandbox) -> None:
    world.dns.addresses = {"found.example.org": [[_GRANTED]], "found.example.com": [[_GRANTED]]}
    assert world.dns.asked == []
    assert guest.eval("get('found.example.org')").startswith("GET /v1/x")
    assert world.dns.asked == ["found.example.org"]
    assert _denied(guest, "found.example.com").target == f"GET found.example.com:{world.plain.port}/v1/x"
    assert world.dns.asked == ["found.example.org"]  # what is refused by its name tells no name server anything


def test_a_name_that_comes_to_lead_elsewhere_is_refused(world: _World, guest: pyisolate.Sandbox) -> None:
    world.dns.addresses = {
        "rebound.example.org": [[_GRANTED], [_OTHER]],
        "metadata.example.org": [[_METADATA]],
    }
    with socket.create_server((_OTHER, world.plain.port)) as strange:
        strange.settimeout(0)
        assert guest.eval("get('rebound.example.org')").startswith("GET /v1/x")
        event = _denied(guest, "rebound.example.org")
        assert event.target == f"GET rebound.example.org:{world.plain.port}/v1/x at {_OTHER}"
        assert event.suggestion is None  # whether to open it is for a person
        with pytest.raises(BlockingIOError):
            strange.accept()
    assert _denied(guest, "metadata.example.org").target.endswith(f" at {_METADATA}")
    assert world.dns.asked == ["rebound.example.org"] * 2 + ["metadata.example.org"]


def test_an_answer_that_changes_behind_a_connection_changes_nothing(world: _World, guest: pyisolate.Sandbox) -> None:
    world.dns.addresses = {"kept.example.org": [[_GRANTED], [_OTHER]]}
    guest.exec(
        "import base64\n"
        "login, _, proxy = os.environ['HTTP_PROXY'].removeprefix('http://').partition('@')\n"
        "kept = http.client.HTTPConnection(*proxy.split(':'))\n"
        "said = {'Host': f'kept.example.org:{port}',\n"
        "        'Proxy-Authorization': 'Basic ' + base64.b64encode(login.encode()).decode()}\n"
        "def again(path):\n"
        "    kept.request('GET', f'http://kept.example.org:{port}{path}', headers=said)\n"
        "    answer = kept.getresponse()\n"
        "    return answer.status, answer.read()"
    )
    assert [guest.eval(f"again('/v1/{number}')[0]") for number in range(4)] == [200] * 4
    assert world.dns.asked == ["kept.example.org"]


def test_of_several_addresses_a_granted_one_is_used(world: _World, guest: pyisolate.Sandbox) -> None:
    world.dns.addresses = {"many.example.org": [[_METADATA, _OTHER, _GRANTED]]}
    assert guest.eval("get('many.example.org')").startswith("GET /v1/x")
    assert guest.get_denial_events() == []


def test_a_name_that_is_not_there_is_no_refusal(world: _World, guest: pyisolate.Sandbox) -> None:
    with pytest.raises(pyisolate.GuestError, match="502"):
        guest.exec("get('absent.example.org')")
    assert guest.get_denial_events() == []
