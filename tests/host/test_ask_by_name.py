"""Questions about requests: what no rule speaks of waits at the egress proxy for an answer, and is one event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyisolate
from pyisolate import Allow, Deny, Policy, Question
from pyisolate.decision import DenialCode
from tests import inside
from tests.host.egress_server import Server

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

HOST, PRIVATE = "api.example.org", "inside.example.org"
_GUEST = """
import http.client, os, urllib.error, urllib.request
def get(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
def tunnel(host, port, first):
    made = http.client.HTTPConnection("127.0.0.1", int(os.environ["HTTP_PROXY"].rpartition(":")[2]))
    import base64
    password = os.environ["HTTP_PROXY"].removeprefix("http://").partition("@")[0].encode()
    made.set_tunnel(host, port, {"Proxy-Authorization": "Basic " + base64.b64encode(password).decode()})
    made.connect()
    made.sock.sendall(first)
    return made.sock.recv(100)
"""


_RAW = """
import base64, os, socket
user, _, address = os.environ["HTTP_PROXY"].removeprefix("http://").partition("@")
def raw(line, host):
    credentials = base64.b64encode(user.encode()).decode()
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as sock:
        lines = f"{line} HTTP/1.1", f"Host: {host}", f"Proxy-Authorization: Basic {credentials}", "", ""
        sock.sendall("\\r\\n".join(lines).encode())
        return int(sock.recv(1 << 16).split()[1])
"""


class World:
    """A server whose name no rule speaks of, and a supervisor."""

    def __init__(self, supervisor: pyisolate.Supervisor, plain: Server) -> None:
        self.supervisor, self.plain, self.place = supervisor, plain, f"{HOST}:{plain.port}"
        asks = Policy.preset("web-names").allow_import("@stdlib").allow_native("_socket", "_ssl")  # it asks by itself
        self.policy = asks.allow_connect(f"127.0.0.1:{plain.port}").deny_http(f"* {self.place}/denied")

    def get(self, sandbox: pyisolate.Sandbox, path: str, host: str = HOST) -> int:
        return int(sandbox.eval(f"get('http://{host}:{self.plain.port}{path}')"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    plain = Server()
    hosts = {HOST: ["127.0.0.1"], PRIVATE: ["127.0.0.2"]}
    with pyisolate.Supervisor(pool_size=1, egress_hosts=hosts) as supervisor:
        made = World(supervisor, plain)
        supervisor.spawn("first", made.policy).close()
        yield made
    plain.close()


@pytest.fixture
def asking(world: World) -> Callable[..., Any]:
    def spawn(*answers: Any, **options: Any) -> tuple[pyisolate.Sandbox, list[Question]]:
        asked: list[Question] = []
        left = list(answers)

        def decide(question: Question) -> Any:
            asked.append(question)
            return left.pop(0)

        sandbox = world.supervisor.spawn("asks", world.policy, on_ask=decide, **options)
        sandbox.exec(_GUEST)
        return sandbox, asked

    return spawn


def test_a_rule_of_ask_is_all_that_is_asked_about(world: World) -> None:
    asked: list[str] = []

    def decide(question: Question) -> Allow:
        asked.append(question.target)
        return Allow()

    policy = world.policy.with_ask({"http": f"GET {world.place}/v1/*"}, {"connect": "*.example.org:1"})
    with world.supervisor.spawn("by-rule", policy, on_ask=decide) as sandbox:
        sandbox.exec(_GUEST)
        assert [world.get(sandbox, path) for path in ("/v1/x", "/v2/x")] == [200, 403]
        sandbox.exec("")
        assert [event.answer for event in sandbox.get_denial_events()] == ["once", None]
    assert asked == [f"GET {world.place}/v1/x"]


def test_yes_carries_a_request_and_no_refuses_it_each_with_one_event(world: World, asking: Callable[..., Any]) -> None:
    sandbox, asked = asking(Allow(), Deny("not that"), Allow("rule"))
    before = len(world.plain.seen)
    with sandbox:
        assert [world.get(sandbox, path) for path in ("/a", "/b", "/c", "/c")] == [200, 403, 200, 200]
        assert world.plain.seen[before:] == ["GET /a", "GET /c", "GET /c"]
        events = [event for event in sandbox.get_denial_events() if event.capability == "net.http"]
        kept = sandbox.answered_policy.to_dict()["net"]
    targets = [f"GET {world.place}/{name}" for name in "abc"]
    assert [(one.capability, one.target) for one in asked] == [("net.http", target) for target in targets]
    said = [(one.target, one.answer, one.would_deny, one.count) for one in events]
    assert said[:2] == [(targets[0], "once", True, 1), (targets[1], "deny", False, 1)]
    assert [(target, answer, would) for target, answer, would, _ in said[2:]] == [(targets[2], "rule", True)] * len(
        said[2:]
    )
    assert sum(one.count for one in events) == 4
    assert all(one.asked_by == "callback" and one.waited_ms is not None for one in events)
    assert "not that" in events[1].broker_reason
    assert {"http": targets[2]} in kept


def test_denials_addresses_and_what_a_tunnel_says_are_no_question(world: World, asking: Callable[..., Any]) -> None:
    sandbox, asked = asking(Allow(), Allow())
    before = len(world.plain.seen)
    with sandbox:
        assert world.get(sandbox, "/denied") == 403
        assert asked == []
        assert world.get(sandbox, "/x", PRIVATE) == 403  # who answers was shown a name, and no address
        assert sandbox.eval(f"tunnel({HOST!r}, {world.plain.port}, b'GET / HTTP/1.1\\r\\n\\r\\n')")[:1] == b"\x15"
        codes = [event.code for event in sandbox.get_denial_events() if event.answer is None]
    assert len(asked) == 2
    assert codes == [DenialCode.EXPLICIT_DENY, DenialCode.SCOPE_INSUFFICIENT, DenialCode.ALWAYS_DENIED]
    assert world.plain.seen[before:] == []


def test_without_an_answer_a_request_is_refused(world: World, asking: Callable[..., Any]) -> None:
    sandbox, _ = asking("neither")
    with sandbox:
        assert world.get(sandbox, "/a") == 403
        assert [event.answer for event in sandbox.get_denial_events()] == ["failed"]
    with world.supervisor.spawn("nobody", world.policy) as alone:
        alone.exec(_GUEST)
        assert world.get(alone, "/a") == 403
        assert [event.answer for event in alone.get_denial_events()] == ["unanswered"]
    watched, asked = asking(mode="monitor")
    with watched:
        assert world.get(watched, "/a") == 200
        events = watched.get_denial_events()
        assert [(event.answer, event.would_deny) for event in events] == [("would_ask", True)]
        assert {"http": f"GET {world.place}/a"} in Policy.learn(events, base=world.policy).to_dict()["net"]
    assert asked == []


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_what_is_too_long_to_ask_about_is_refused_and_disturbs_nobody(
    world: World, asking: Callable[..., Any], mode: str
) -> None:
    proxy, begun = world.supervisor.diagnostics().proxy_pid, f"GET {world.place}/"
    sandbox, asked = asking(mode=mode)
    with sandbox:
        sandbox.exec(_RAW)
        assert sandbox.eval(f"raw('A' * 2001 + ' http://{world.place}/', {world.place!r})") == 400
        path, status = "p" * 3000, 403 if mode == "enforce" else 200
        assert sandbox.eval(f"raw('GET http://{world.place}/{path}', {world.place!r})") == status
        malformed, long = sandbox.get_denial_events()
    assert (malformed.target, malformed.code) == ("malformed request", DenialCode.ALWAYS_DENIED)
    assert long.target == f"{begun}{path}"[:1999] + "\N{HORIZONTAL ELLIPSIS}"
    assert (long.answer, long.suggestion, long.would_deny) == (None, None, mode == "monitor")
    assert "too long to be asked about" in long.broker_reason
    assert asked == []
    assert world.supervisor.diagnostics().proxy_pid == proxy is not None


def test_without_a_thread_to_ask_on_a_request_is_refused_and_events_say_what_became_of_it(
    world: World, asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_call: object) -> None:
        raise RuntimeError("can't start new thread")

    sandbox, asked = asking(Allow("sandbox"), Deny("not that"))
    with sandbox:
        assert world.get(sandbox, "/a") == 200
        with monkeypatch.context() as without:
            without.setattr(inside.function_threads(world.supervisor), "start", start)
            assert [world.get(sandbox, path) for path in ("/a", "/b")] == [200, 403]
        assert world.get(sandbox, "/b") == 403
        events = [event for event in sandbox.get_denial_events() if event.target.endswith("/b")]
        assert [(event.answer, event.asked_by) for event in events] == [("failed", "nobody"), ("deny", "callback")]
        allowed = [event for event in sandbox.get_denial_events() if event.target.endswith("/a")]
        assert {(event.answer, event.would_deny) for event in allowed} == {("sandbox", True)}
    assert len(asked) == 2
