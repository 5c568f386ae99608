"""Questions: a connection that no rule speaks of waits for an answer, and everything but a timely yes refuses it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Allow, AskSocket, Deny, Policy, PolicyError, Question
from pyisolate.decision import Verdict

pytestmark = pytest.mark.usefixtures("kept_supervisor")


Spawn = Callable[..., Any]


class Server:
    """Counts who connects."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.served = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            self.served += 1
            peer.sendall(b"hello")
            peer.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(params=["process", "thread"])
def spawn(request: pytest.FixtureRequest, supervisor: pyisolate.Supervisor) -> Spawn:
    options = {} if request.param == "process" else {"isolation": "thread", "enforcement": "best_effort"}
    return lambda name="asks", policy=None, **more: supervisor.spawn(name, policy, **options, **more)


def connects(server: Server) -> str:
    return f"import socket\nwith socket.create_connection(('127.0.0.1', {server.port}), 20) as s: got = s.recv(9)\ngot"


def refused(sandbox: Any, server: Server) -> pyisolate.DenialEvent:
    before = server.served
    with pytest.raises(PolicyError) as caught:
        sandbox.exec(connects(server))
    assert server.served == before
    assert caught.value.denial_event is not None
    return caught.value.denial_event


def test_yes_connects_and_no_does_not_each_with_one_event(spawn: Spawn, server: Server) -> None:
    answers: list[Any] = [Allow(), Deny("not now"), Allow()]
    asked: list[Question] = []

    def decide(question: Question) -> Any:
        asked.append(question)
        return answers.pop(0)

    with spawn(on_ask=decide) as sandbox:
        assert sandbox.exec(connects(server)).value == b"hello"
        event = refused(sandbox, server)
        assert (event.answer, event.asked_by, event.kernel_decision) == ("deny", "callback", Verdict.DENY)
        assert "not now" in event.kernel_reason
        assert sandbox.exec(connects(server)).value == b"hello"
        first, second = sandbox.get_denial_events()
        assert sandbox.stats.denials == 3
    assert [(one.answer, one.count) for one in (first, second)] == [("once", 2), ("deny", 1)]  # equal ones are counted
    assert all(one.broker_decision is not Verdict.ALLOW for one in (first, second))
    assert (first.answer, first.would_deny, first.kernel_decision) == ("once", True, Verdict.WOULD_DENY)
    assert first.waited_ms is not None
    assert [(one.capability, one.target) for one in asked] == [("net.connect", server.target)] * 3
    assert asked[0].suggestion == {"net": [{"connect": server.target}]}
    assert server.served == 2


def test_a_rule_of_ask_is_all_that_is_asked_about(spawn: Spawn, server: Server) -> None:
    asked: list[str] = []

    def decide(question: Question) -> Allow:
        asked.append(question.target)
        return Allow()

    for rule, yes in (({"connect": f"127.0.0.0/8:{server.port}"}, True), ({"connect": "127.0.0.1:1"}, False)):
        policy = Policy.preset("compute").allow_import("socket").with_ask(rule)
        with spawn(policy=policy, on_ask=decide) as sandbox:
            if yes:
                assert sandbox.exec(connects(server)).value == b"hello"
            else:
                assert refused(sandbox, server).answer is None
    assert asked == [server.target]


def test_an_answer_for_good_is_not_asked_again(spawn: Spawn, server: Server) -> None:
    for scope in ("sandbox", "rule"):
        asked: list[Question] = []

        def decide(question: Question, asked: list[Question] = asked, scope: Any = scope) -> Allow:
            asked.append(question)
            return Allow(scope)

        with spawn(on_ask=decide) as sandbox:
            for _ in range(3):
                assert sandbox.exec(connects(server)).value == b"hello"
            assert len(asked) == 1
            kept = sandbox.answered_policy.to_dict().get("net")
            assert kept == ([{"connect": server.target}] if scope == "rule" else None)


def test_a_rule_that_denies_and_what_is_granted_are_not_asked_about(spawn: Spawn, server: Server) -> None:
    def decide(question: Question) -> Allow:
        raise AssertionError(question)

    denies = Policy.preset("compute").allow_connect("127.0.0.0/8:*").deny("net.connect", server.target)
    with spawn(policy=denies, on_ask=decide) as sandbox:
        event = refused(sandbox, server)
        assert (event.code, event.answer) == ("EXPLICIT_DENY", None)
    with spawn(policy=Policy.preset("compute").allow_connect(server.target), on_ask=decide) as sandbox:
        assert sandbox.exec(connects(server)).value == b"hello"
        assert sandbox.get_denial_events() == []


def test_without_an_answer_it_is_refused(spawn: Spawn, server: Server) -> None:
    free = threading.Event()

    def raises(question: Question) -> Allow:
        raise RuntimeError("no")

    async def never(question: Question) -> Allow:
        await asyncio.sleep(60)
        return Allow()

    cases: list[tuple[Any, str]] = [
        (raises, "failed"),
        (lambda question: True, "failed"),
        (lambda question: free.wait(30) and Allow(), "timeout"),
        (never, "timeout"),
    ]
    for on_ask, answer in cases:
        with spawn(on_ask=on_ask, ask_timeout=0.3) as sandbox:
            began = time.monotonic()
            assert refused(sandbox, server).answer == answer
            assert time.monotonic() - began < 15
    free.set()
    with spawn(policy=Policy.preset("compute").with_ask("net.connect")) as sandbox:
        assert refused(sandbox, server).answer == "unanswered"


def test_a_coroutine_answers(supervisor: pyisolate.Supervisor, server: Server) -> None:
    async def main() -> None:
        here = asyncio.get_running_loop()

        async def decide(question: Question) -> Allow | Deny:
            return Allow() if asyncio.get_running_loop() is here else Deny("another loop")

        async with await supervisor.aspawn("loop", on_ask=decide) as sandbox:
            assert (await sandbox.aexec(connects(server))).value == b"hello"

    asyncio.run(main())


def test_native_code_is_asked_about_and_what_was_asked_is_used(
    supervisor: pyisolate.Supervisor, server: Server
) -> None:
    """The guest changes the address in its memory while the question waits: the supervisor's copy counts."""
    other = Server()
    code = (
        "import ctypes, socket, struct, threading, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "s = socket.socket()\n"
        f"name = struct.pack('=H', 2) + struct.pack('!H4B8x', {server.port}, 127, 0, 0, 1)\n"
        "address = ctypes.create_string_buffer(name)\n"
        "def swap():\n"
        f"    time.sleep(0.3); ctypes.memmove(ctypes.addressof(address) + 2, struct.pack('!H', {other.port}), 2)\n"
        "threading.Thread(target=swap).start()\n"
        "libc.connect(s.fileno(), address, 16), s.getpeername()[1]\n"
    )
    policy = Policy.preset("compute").allow_native("_ctypes").allow_import("ctypes")

    def decide(question: Question) -> Allow:
        time.sleep(0.8)
        assert question.target == server.target
        return Allow()

    with supervisor.spawn("native", policy, on_ask=decide) as sandbox:
        assert sandbox.exec(code).value == (0, server.port)
        assert [event.answer for event in sandbox.get_denial_events() if event.capability == "net.connect"] == ["once"]
    other.close()
    assert other.served == 0


@pytest.mark.parametrize("then", ["denies", "asks no more", "asks about others", "asks still"])
def test_a_reload_wins_over_an_earlier_question(supervisor: pyisolate.Supervisor, server: Server, then: str) -> None:
    made: list[Any] = []
    policy = Policy.preset("compute").with_ask("net.connect")
    other = {
        "denies": policy.allow_connect("127.0.0.0/8:*").deny("net.connect", server.target),
        "asks no more": policy.with_ask().allow_connect("127.0.0.2:9"),
        "asks about others": policy.with_ask({"connect": "127.0.0.2:9"}),
        "asks still": policy.with_ask({"connect": server.target}),
    }[then]

    def decide(question: Question) -> Allow:
        made[0].reload_policy(other)
        return Allow()

    with supervisor.spawn("reloads", policy, on_ask=decide) as sandbox:
        made.append(sandbox)
        code = f"import socket, threading\ns = socket.socket()\ns.connect(('127.0.0.1', {server.port}))"
        if then == "asks still":  # the control
            assert sandbox.exec(connects(server)).value == b"hello"
        else:
            with pytest.raises(PolicyError):
                sandbox.exec(code)
    assert server.served == (then == "asks still")


@pytest.mark.parametrize("narrower", [True, False])
def test_from_an_answer_what_its_request_must_end_for_is_refused_and_never_waits(
    supervisor: pyisolate.Supervisor, server: Server, narrower: bool
) -> None:
    """The guest waits for the answer: file rules narrow between two requests, and another request comes after it."""
    policy = Policy.preset("compute").allow_read("/var/tmp").with_ask("net.connect")
    others = policy.with_ask({"connect": server.target})
    after, raised = Policy.preset("compute").with_ask("net.connect") if narrower else others, list[Any]()

    def decide(question: Question) -> Allow:
        calls: list[Callable[[], object]] = [lambda: sandbox.reload_policy(after), lambda: sandbox.eval("1")]
        with concurrent.futures.ThreadPoolExecutor(1) as others:  # a thread that does not know for whom it works
            calls.append(others.submit(calls[0]).result)
            for call in calls:
                try:
                    call()
                except pyisolate.SandboxError as error:
                    raised.append((type(error).__name__, bool(error.hint)))
        return Allow()

    with supervisor.spawn("reloads", policy, on_ask=decide) as sandbox:
        assert sandbox.exec(connects(server)).value == b"hello"
        refused = ("EnforcementError", True)
        assert sorted(raised) == [*[refused] * (2 * narrower), ("SandboxError", True)]
        (event,) = sandbox.get_denial_events()
        assert event.answer == "once"
        assert sandbox.eval("1") == 1


def test_a_guest_that_ends_while_it_waits_leaves_nothing(supervisor: pyisolate.Supervisor, server: Server) -> None:
    asked, free = threading.Event(), threading.Event()

    def decide(question: Question) -> Allow:
        asked.set()
        free.wait(20)
        return Allow()

    with supervisor.spawn("ends", on_ask=decide) as sandbox:
        threading.Thread(target=lambda: asked.wait(10) and sandbox.kill()).start()
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(connects(server))
        free.set()
    assert server.served == 0


def test_a_flood_of_questions_is_refused_and_costs_others_nothing(
    supervisor: pyisolate.Supervisor, server: Server
) -> None:
    asked: list[Question] = []
    flood = (
        "import socket, time\n"
        "count, until = 0, time.monotonic() + 2\n"
        "while time.monotonic() < until:\n"
        "    with socket.socket() as s:\n"
        "        try: s.connect(('127.0.0.1', 1 + count % 60000))\n"
        "        except OSError: pass\n"
        "    count += 1\n"
        "count"
    )
    with (
        supervisor.spawn("flood", on_ask=lambda question: asked.append(question) or Deny()) as hostile,
        supervisor.spawn("other", "compute") as other,
    ):
        counted: list[int] = []
        runner = threading.Thread(target=lambda: counted.append(hostile.exec(flood, timeout=25).value))
        runner.start()
        waited = []
        while runner.is_alive():
            began = time.monotonic()
            assert other.eval("1") == 1
            waited.append(time.monotonic() - began)
        runner.join()
        events = [event for event in hostile.get_denial_events() if event.capability == "net.connect"]
    assert counted[0] > 100
    assert len(asked) <= 20 + 10 * 4  # the burst, and ten a second
    assert {event.answer for event in events} >= {"full"}
    assert sorted(waited)[len(waited) // 2] < 0.5


def test_monitor_mode_says_what_would_be_asked(supervisor: pyisolate.Supervisor, server: Server) -> None:
    asked: list[Question] = []
    with supervisor.spawn("watch", mode="monitor", on_ask=lambda question: asked.append(question) or Deny()) as sandbox:
        assert sandbox.exec(connects(server)).value == b"hello"
        (event,) = [one for one in sandbox.get_denial_events() if one.capability == "net.connect"]
    assert (event.answer, event.would_deny, asked) == ("would_ask", True, [])


def test_every_question_is_counted(supervisor: pyisolate.Supervisor, server: Server) -> None:
    answers: list[Any] = [Allow(), Deny()]
    policy = Policy.from_dict({"version": 1, "name": "asked", "extends": "compute", "ask": ["net.connect"]})
    with supervisor.spawn("counted", policy, on_ask=lambda question: answers.pop(0)) as sandbox:
        sandbox.exec(connects(server))
        refused(sandbox, server)
    counted = supervisor.recorder.metrics.questions.value
    assert (counted("asked", "once"), counted("asked", "deny")) == (1, 1)


def test_another_process_answers_by_lines(supervisor: pyisolate.Supervisor, server: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "ask.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    seen: list[dict[str, Any]] = []
    replies: list[Callable[[int], bytes]] = [
        lambda number: json.dumps({"id": number, "result": "allow"}).encode() + b"\n",
        lambda number: json.dumps({"id": number, "result": "deny", "reason": "closed"}).encode() + b"\n",
        lambda number: json.dumps({"id": number + 7, "result": "allow"}).encode() + b"\n",
        lambda number: b"{nonsense\n",
        lambda number: b"",
    ]

    def serve() -> None:
        while replies:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                for line in lines:
                    seen.append(json.loads(line))
                    answer = replies.pop(0)(seen[-1]["id"])
                    if not answer:
                        break
                    peer.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    asker = AskSocket(path, timeout=1)
    with supervisor.spawn("lines", on_ask=asker) as sandbox:
        assert sandbox.exec(connects(server)).value == b"hello"
        assert [refused(sandbox, server).answer for _ in range(4)] == ["deny", "failed", "failed", "failed"]
    asker.close()
    listening.close()
    assert (seen[0]["v"], seen[0]["permission"], seen[0]["value"]) == (1, "net.connect", server.target)


@pytest.mark.parametrize("value", [["process.exec"], ["nonsense"], "net.connect", [1]])
def test_what_cannot_be_asked_about_is_an_error(value: Any) -> None:
    with pytest.raises(pyisolate.PolicySyntaxError):
        Policy.from_dict({"version": 1, "ask": value})


@pytest.mark.parametrize(("on_ask", "timeout"), [(7, 30.0), (print, 0), (print, float("inf")), (print, True)])
def test_who_cannot_answer_is_an_error(supervisor: pyisolate.Supervisor, on_ask: Any, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        supervisor.spawn("bad", on_ask=on_ask, ask_timeout=timeout)
