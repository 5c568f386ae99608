"""Functions of the host that a guest calls: data both ways, bounds, refusals, and that nobody else waits for them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import GuestError, HostFunction, PolicyError, SandboxError, acting_as, guard
from pyisolate.actor import current_actor
from pyisolate.capability import Capability
from pyisolate.cell import values, wire
from pyisolate.decision import DenialCode
from pyisolate.guards import guard_denials
from pyisolate.records import Reporter
from tests import inside

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("kept_supervisor")]


Spawn = Callable[..., Any]


@pytest.fixture(params=["process", "thread"])
def spawn(request: pytest.FixtureRequest, supervisor: pyisolate.Supervisor) -> Spawn:
    """Spawn in either isolation; a thread cannot hold the process's limits, so it is best effort."""
    options = {} if request.param == "process" else {"isolation": "thread", "enforcement": "best_effort"}

    def spawned(name: str = "calls", policy: Any = None, **more: Any) -> Any:
        return supervisor.spawn(name, policy, **options, **more)

    return spawned


def raised(sandbox: Any, expression: str) -> GuestError:
    with pytest.raises(GuestError) as caught:
        sandbox.eval(expression)
    return caught.value


def test_plain_data_goes_both_ways(spawn: Spawn) -> None:
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with spawn(functions={"echo": echo}) as sandbox:
        assert sandbox.eval("echo()") == ((), {})
        assert sandbox.eval("echo(1, 2**70, {'a': (1, {2})}, key=b'x')") == ((1, 2**70, {"a": (1, {2})}), {"key": b"x"})
        assert "object" in raised(sandbox, "echo(object())").message
        assert sandbox.eval("echo('still here')") == (("still here",), {})


def test_what_the_host_returns_is_data_or_an_error(spawn: Spawn) -> None:
    with spawn(functions={"lock": threading.Lock, "many": lambda: "x" * 2_000_000}) as sandbox:
        error = raised(sandbox, "lock()")
        assert (error.type_name, "0x" in str(error)) == ("TypeError", False)
        assert sandbox.eval("len(many())") == 2_000_000


def test_the_guest_sees_signature_and_docstring(spawn: Spawn) -> None:
    with spawn() as sandbox:

        @sandbox.function
        def search(query: str, limit: int = 3) -> list[str]:
            """Find pages."""
            return [query] * limit

        @sandbox.function(name="twice", timeout=5)
        def double(value: int) -> int:
            return 2 * value

        assert search("x", 1) == ["x"]  # the decorator leaves it as it is
        assert sandbox.eval("search('x', limit=2)") == ["x", "x"]
        assert sandbox.eval("twice(21)") == 42
        shown = sandbox.exec("import inspect\n(str(inspect.signature(search)), search.__doc__)").value
        assert tuple(shown if isinstance(shown, tuple) else eval(shown)) == (
            "(query: str, limit: int = 3) -> list[str]",
            "Find pages.",
        )
        assert "def search(query: str, limit: int = 3) -> list[str]:" in sandbox.function_stubs()
        assert "def twice(value: int) -> int:" in sandbox.function_stubs()
        error = raised(sandbox, "search(limit=1)")
        assert (error.type_name, error.message) == ("TypeError", "search: missing a required argument: 'query'")


def test_an_exception_arrives_as_type_and_message_only(spawn: Spawn) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def fail(kind: str) -> None:
        if kind == "file":
            Path("/nowhere/secret-name").read_text()
        if kind == "chain":
            try:
                raise KeyError("cause-secret")
            except KeyError as error:
                raise LookupError("outer") from error
        if kind == "key":
            raise KeyError("nokey")
        if kind == "exit":
            raise SystemExit(3)
        raise OddError

    with spawn(functions={"fail": fail}) as sandbox:
        for kind, type_name in (("file", "FileNotFoundError"), ("chain", "LookupError"), ("odd", "HostFunctionError")):
            error = raised(sandbox, f"fail({kind!r})")
            assert error.type_name == type_name
            text = str(error) + error.traceback
            assert "secret" not in text
            assert os.path.basename(__file__) not in text
        key = "try: fail('key')\nexcept KeyError as error: told = error.args\ntold"
        assert sandbox.exec(key).value == ("nokey",)
        assert "SystemExit" in raised(sandbox, "fail('exit')").message  # and neither side has ended
        assert sandbox.eval("1") == 1


def test_coroutines_run_and_are_cancelled_at_their_time(spawn: Spawn) -> None:
    cancelled = threading.Event()

    async def wait(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "waited"

    with spawn(functions={"wait": HostFunction(wait, timeout=0.3)}) as sandbox:
        assert sandbox.eval("wait(0.01)") == "waited"
        assert raised(sandbox, "wait(60)").type_name == "TimeoutError"
        assert cancelled.wait(5)
        assert sandbox.eval("wait(0)") == "waited"


def test_a_late_value_of_a_plain_function_is_dropped(spawn: Spawn) -> None:
    free = threading.Event()
    with spawn(functions={"hang": HostFunction(lambda: free.wait(10), timeout=0.2)}) as sandbox:
        began = time.monotonic()
        assert raised(sandbox, "hang()").type_name == "TimeoutError"
        assert time.monotonic() - began < 5
        free.set()
        assert sandbox.eval("'next'") == "next"


def test_aspawn_runs_coroutines_on_the_loop_it_was_called_on(spawn: Spawn, supervisor: pyisolate.Supervisor) -> None:
    async def main() -> None:
        here = asyncio.get_running_loop()

        async def same_loop() -> bool:
            return asyncio.get_running_loop() is here

        async with await supervisor.aspawn("loop", functions={"same_loop": same_loop}) as sandbox:
            assert await sandbox.aeval("same_loop()") is True
        with supervisor.spawn("own", functions={"same_loop": same_loop}) as sandbox:
            assert await sandbox.aeval("same_loop()") is False  # a caller that blocks its loop is answered too

    asyncio.run(main())


def test_calls_of_many_guest_threads_run_side_by_side_and_within_the_bound(spawn: Spawn) -> None:
    lock, most = threading.Lock(), [0, 0]

    def slow(value: int) -> int:
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.05)
        with lock:
            most[0] -= 1
        return value * value

    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: found = list(pool.map(slow, range(8)))\nfound"
    )
    with spawn(functions={"slow": HostFunction(slow, concurrency=3)}) as sandbox:
        assert sandbox.exec(code, timeout=20).value == [value * value for value in range(8)]
    assert most[1] == 3


def test_a_call_for_which_no_thread_starts_is_answered(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took a place among those that run at once, for good."""

    def no_thread(*_call: object) -> None:
        raise RuntimeError("can't start new thread")

    with supervisor.spawn("short", functions={"one": HostFunction(lambda: 1, concurrency=1)}) as sandbox:
        with monkeypatch.context() as short:
            short.setattr("pyisolate.sandbox.session.Session.start_call", no_thread)
            with pytest.raises(GuestError, match="can't start new thread"):
                sandbox.eval("one()", timeout=10)
        assert sandbox.eval("one()", timeout=10) == 1


def test_a_guest_thread_calls_while_no_request_runs(supervisor: pyisolate.Supervisor) -> None:
    called = threading.Event()
    with supervisor.spawn("later", functions={"note": called.set}) as sandbox:
        sandbox.exec("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), note())).start()")
        assert called.wait(10)


def test_a_child_of_the_guest_cannot_call(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.from_dict(
        {"version": 1, "name": "forks", "extends": "compute", "process": [{"fork": True}]}
    )
    code = (
        "import os\nread, write = os.pipe()\nif not (child := os.fork()):\n"
        "    try: note(); text = 'called'\n    except RuntimeError as error: text = str(error)\n"
        "    os.write(write, text.encode()); os._exit(0)\n"
        "os.waitpid(child, 0); os.read(read, 999).decode(), note()"
    )
    with supervisor.spawn("forks", policy, functions={"note": lambda: "parent"}) as sandbox:
        text, parent = sandbox.exec(code).value
        assert "only the process that the sandbox began with" in text
        assert parent == "parent"


def test_max_calls_is_refused_with_one_event(spawn: Spawn) -> None:
    with spawn(functions={"once": HostFunction(lambda: 1, max_calls=1)}) as sandbox:
        assert sandbox.eval("once()") == 1
        with pytest.raises(PolicyError) as caught:
            sandbox.eval("once()")
        (event,) = sandbox.get_denial_events()
        assert caught.value.denial_event == event
        assert (event.capability, event.target, event.code) == (
            Capability.CONTROL_CALL,
            "once",
            DenialCode.LIMIT_EXCEEDED,
        )
        assert event.reported_by is Reporter.SUPERVISOR
        assert sandbox.exec("try: once()\nexcept PermissionError: 'caught'").value in ("caught", None)
        assert sum(one.count for one in sandbox.get_denial_events()) == 2


def test_as_many_calls_as_may_be_are_let_through_when_two_come_at_once(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("calls", functions={"once": HostFunction(lambda: 1, max_calls=1)}) as sandbox:
        calls = inside.session(sandbox).calls
        arguments, _ = values.encode([[], {}])
        for number in (1, 2):
            calls.take(wire.HostCall(id=number, name="once", arguments=arguments), start=lambda _call: None)
        known = calls._known["once"]
        taken = [calls._next(known), calls._next(known)]  # both, before either is looked at
        assert [calls._run(known, call)[0] for call in taken if call is not None] == ["returned", "refused"]


def test_the_time_of_a_function_is_not_its_guests(supervisor: pyisolate.Supervisor) -> None:
    """Also where a guard in it refuses: the refusal is, the function is not."""

    @guard("send_email", target="{to}", policy={"send_email bob"})
    def send(to: str) -> None:
        raise AssertionError(to)

    def slow() -> None:
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass
        send("eve")

    with supervisor.spawn("slow", functions={"slow": slow}) as sandbox:
        with pytest.raises(PolicyError):
            sandbox.eval("slow()")
        assert 0 < (sandbox.stats.host_cpu_s or 0) < 0.1


def test_what_a_value_takes_to_be_sent_is_its_guests(supervisor: pyisolate.Supervisor) -> None:
    spent = {}
    for name, value in (("small", [0]), ("large", [0] * 200_000)):
        with supervisor.spawn(name, functions={"get": lambda value=value: value}) as sandbox:
            before = sandbox.stats.host_cpu_s
            sandbox.exec("for _ in range(20): get()")
            after = sandbox.stats.host_cpu_s
            assert before is not None
            assert after is not None
            spent[name] = after - before
    assert spent["large"] > 3 * spent["small"]


def test_a_guards_refusal_is_one_event_of_the_sandbox(spawn: Spawn) -> None:
    @guard("send_email", target="{to}", policy={"send_email bob"})
    def send(to: str) -> str:
        actor = current_actor()
        return f"{to} for {actor.id if actor else None}"

    before = len(guard_denials())
    with spawn(functions={"send": send}, actor={"kind": "agent", "id": "7"}) as sandbox:
        assert sandbox.eval("send('bob')") == "bob for 7"
        with pytest.raises(PolicyError) as caught:
            sandbox.eval("send('eve')")
        (event,) = sandbox.get_denial_events()
        assert caught.value.denial_event == event
        assert (event.capability, event.target) == (Capability.CONTROL_GUARD, "send_email eve")
        assert (event.sandbox, event.actor and event.actor.id) == (sandbox.name, "7")
    assert len(guard_denials()) == before


def test_context_variables_are_those_of_spawn(spawn: Spawn) -> None:
    with acting_as("agent", "of-spawn", policy={"mail"}):
        sandbox = spawn(functions={"mail": guard("mail")(lambda: current_actor().id)})  # type: ignore[union-attr]
    with sandbox, acting_as("agent", "of-exec"):
        assert sandbox.eval("mail()") == "of-spawn"


def test_a_function_may_not_run_its_own_guest_but_may_post(spawn: Spawn) -> None:
    made: list[Any] = []

    def again() -> Any:
        return made[0].eval("1")

    async def again_async() -> Any:
        return await made[0].aeval("1")

    with spawn(functions={"again": again, "again_async": again_async, "say": lambda: made[0].post("hello")}) as sandbox:
        made.append(sandbox)
        began = time.monotonic()
        for expression in ("again()", "again_async()"):
            assert "its own guest called" in raised(sandbox, expression).message
        assert sandbox.eval("say() or recv(5)") == "hello"
        assert time.monotonic() - began < 10
        assert sandbox.eval("1") == 1


def test_a_reload_from_a_function_that_its_request_must_end_for_is_refused(supervisor: pyisolate.Supervisor) -> None:
    made: list[pyisolate.Sandbox] = []
    policy = pyisolate.Policy.preset("compute")

    def narrow() -> None:
        made[0].reload_policy(policy)

    with supervisor.spawn("reloads", policy.allow_read("/var/tmp"), functions={"narrow": narrow}) as sandbox:
        made.append(sandbox)
        error = raised(sandbox, "narrow()")
        assert "file rules would tighten, which happens between two requests" in error.message
        assert sandbox.policy.to_dict()["fs"]


def test_a_function_may_use_another_sandbox(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("inner") as inner, supervisor.spawn("outer", functions={"ask": inner.eval}) as outer:
        assert outer.eval("ask('6 * 7')") == 42


def test_a_call_that_its_guest_gave_up_is_cancelled(spawn: Spawn) -> None:
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with spawn(functions={"hang": HostFunction(hang, timeout=None)}) as sandbox:
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("hang()", timeout=0.3)
        assert cancelled.wait(10)
        assert sandbox.eval("1") == 1  # the request was interrupted, and the sandbox lives on


def test_interrupt_reaches_a_guest_that_waits(supervisor: pyisolate.Supervisor) -> None:
    entered, free = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        free.wait(10)

    with supervisor.spawn("waits", functions={"hang": hang}) as sandbox:
        threading.Thread(target=lambda: entered.wait(10) and sandbox.interrupt()).start()
        assert raised(sandbox, "hang()").type_name == "KeyboardInterrupt"
        free.set()
        assert sandbox.eval("1") == 1


def test_a_guest_that_ends_while_it_waits_leaves_nothing(supervisor: pyisolate.Supervisor) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        entered.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    for end in ("timeout", "kill", "death"):
        entered.clear()
        cancelled.clear()
        with supervisor.spawn(end, functions={"hang": HostFunction(hang, timeout=None)}) as sandbox:
            if end == "death":
                code = "import threading, os, time\nthreading.Thread(target=hang).start()\ntime.sleep(0.3)\nos._exit(1)"
            else:
                code = "hang()"
            if end == "kill":
                threading.Thread(target=lambda: entered.wait(10) and sandbox.kill()).start()
            with pytest.raises(SandboxError):
                sandbox.exec(code, timeout=1 if end == "timeout" else 20)
            assert entered.is_set()
            assert cancelled.wait(10), end


def test_a_hanging_function_keeps_no_other_sandbox_waiting(supervisor: pyisolate.Supervisor) -> None:
    free = threading.Event()
    code = "import threading\nfor _ in range(6): threading.Thread(target=hang, daemon=True).start()"
    try:
        with supervisor.spawn("hangs", functions={"hang": lambda: free.wait(30)}) as hangs:
            hangs.exec(code)
            with supervisor.spawn("other", functions={"echo": lambda value: value}) as other:
                other.exec("import threading\ndef later(): post(echo(7))\nthreading.Thread(target=later).start()")
                assert other.recv(5) == 7  # served by the reactor, which runs no function
                assert other.eval("echo(8)", timeout=5) == 8
            assert hangs.eval("1") == 1
    finally:
        free.set()


#: What a guest that goes past its stubs has: the runtime's own end of the wire.
PAST_THE_STUBS = f"guest = {inside.GUEST}\nwire = type(guest).send.__globals__['wire']\n"


@pytest.fixture
def hostile(supervisor: pyisolate.Supervisor) -> Iterator[Any]:
    """A guest that goes past its stubs."""
    with supervisor.spawn("hostile", functions={"echo": lambda *values: values}) as sandbox:
        sandbox.exec(PAST_THE_STUBS)
        yield sandbox


def test_a_made_up_name_is_refused_with_one_event(hostile: Any) -> None:
    with pytest.raises(PolicyError):
        hostile.eval("guest.call_host('made_up', 5, (), {})")
    (event,) = hostile.get_denial_events()
    assert (event.capability, event.target, event.code) == (Capability.CONTROL_CALL, "made_up", DenialCode.NOT_GRANTED)
    assert hostile.eval("echo(1)") == (1,)


@pytest.mark.parametrize(
    "arguments", [b"", b"\xc0", b"\x92\x90\x90", b"\x91\x90", b"\x92\x90\x81\x01\x02", b"\xc1\x91\xa1x"]
)
def test_arguments_of_another_shape_end_the_sandbox(hostile: Any, arguments: bytes) -> None:
    with pytest.raises(SandboxError, match="protocol violation"):
        hostile.exec(
            f"import time\nguest.send(wire.HostCall(id=1, name='echo', arguments={arguments!r}))\ntime.sleep(20)"
        )


def test_a_flood_of_calls_ends_its_sandbox_with_one_event(supervisor: pyisolate.Supervisor) -> None:
    free = threading.Event()
    with supervisor.spawn("flood", functions={"hang": lambda: free.wait(30)}) as sandbox:
        flood = "for n in range(2000): guest.send(wire.HostCall(id=n, name='hang', arguments=b'\\x92\\x90\\x80'))"
        with pytest.raises(SandboxError, match="wait to be run"):
            sandbox.exec(f"import time\n{PAST_THE_STUBS}{flood}\ntime.sleep(20)")
        free.set()
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.code, event.count) == (Capability.CONTROL_CALL, DenialCode.LIMIT_EXCEEDED, 1)


def test_a_guest_that_reads_no_answer_keeps_nobody_waiting(supervisor: pyisolate.Supervisor) -> None:
    """Answers are kept up to a bound, then the sandbox ends; others are served meanwhile."""
    big = "x" * 4_000_000
    with supervisor.spawn("deaf", functions={"big": lambda: big}) as deaf, supervisor.spawn("other") as other:
        calls = "for n in range(40): guest.send(wire.HostCall(id=n, name='big', arguments=b'\\x92\\x90\\x80'))"
        with pytest.raises(SandboxError, match="waiting to be read"):
            deaf.exec(f"import time\n{PAST_THE_STUBS}{calls}\ntime.sleep(20)")
        assert other.eval("1", timeout=5) == 1


def test_every_call_is_counted_by_what_came_of_it(supervisor: pyisolate.Supervisor) -> None:
    counted = supervisor.recorder.metrics.host_calls.value
    functions = {
        "ok": lambda: 1,
        "bad": lambda: 1 / 0,
        "once": HostFunction(lambda: 1, max_calls=0),
        "slow": HostFunction(lambda: time.sleep(0.2), timeout=0.05),
    }
    policy = pyisolate.Policy.from_dict({"version": 1, "name": "counted", "extends": "compute"})
    with supervisor.spawn("counted", policy, functions=functions) as sandbox:
        for name in functions:
            sandbox.exec(f"try: {name}()\nexcept Exception: pass")
        deadline = time.monotonic() + 10
        while counted("counted", "timeout") < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [counted("counted", one) for one in ("returned", "raised", "refused", "timeout")] == [1, 1, 1, 1]
