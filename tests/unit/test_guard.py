"""Guards decide before the function runs, sync and async alike, and refuse as sandboxes do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyisolate.actor import acting_as, current_actor
from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.errors import PolicyError
from pyisolate.guards import guard
from pyisolate.policy import Policy
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import HOST, Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(metrics=Metrics(), sinks=(), alerts=None)
    yield made
    made.shutdown()


def both(recorder: Recorder, **options: Any) -> list[Callable[..., Any]]:
    """Return a sync and an async function under the same guard, both callable as sync."""
    capability = options.pop("capability", "net.connect")
    ran: list[str] = []

    @guard(capability, recorder=recorder, **options)
    def sync(target: str, *more: str) -> str:
        """Doc."""
        ran.append(target)
        return "done"

    @guard(capability, recorder=recorder, **options)
    async def twin(target: str, *more: str) -> str:
        """Doc."""
        await asyncio.sleep(0)
        ran.append(target)
        return "done"

    def run(*args: str) -> Any:
        return asyncio.run(twin(*args))

    assert inspect.iscoroutinefunction(twin)
    assert (sync.__name__, sync.__doc__) == ("sync", "Doc.")
    sync.ran = run.ran = ran  # type: ignore[attr-defined]
    return [sync, run]


WEB = Policy.preset("none").allow_connect("127.0.0.1:80")


@pytest.mark.parametrize("index", [0, 1])
def test_what_the_policy_grants_runs_and_what_it_does_not_does_not(recorder: Recorder, index: int) -> None:
    function = both(recorder, target="{target}", policy=WEB)[index]
    assert function("127.0.0.1:80") == "done"
    with pytest.raises(PolicyError) as caught:
        function("127.0.0.1:81")
    assert function.ran == ["127.0.0.1:80"]
    event = caught.value.denial_event
    assert recorder.events_of(HOST) == [event]
    assert (event.capability, event.target) == (Capability.NET_CONNECT, "127.0.0.1:81")
    assert caught.value.error_code == "SCOPE_INSUFFICIENT"
    assert caught.value.presented_capability
    assert (event.isolation, event.reported_by.value) == ("host", "supervisor")
    assert Path(__file__).name in event.origin
    assert recorder.metrics.denials.total() == 1
    assert event.suggestion
    assert "Hint:" in str(caught.value)


@pytest.mark.parametrize("index", [0, 1])
def test_an_actor_is_named_in_the_event_or_required(recorder: Recorder, index: int) -> None:
    function = both(recorder, target="{target}", policy=WEB, require_actor=True)[index]
    with pytest.raises(PolicyError) as caught:
        function("127.0.0.1:80")
    assert caught.value.error_code == "ACTOR_REQUIRED"
    assert "acting_as" in str(caught.value)
    with acting_as("agent", "7"):
        assert function("127.0.0.1:80") == "done"
        with pytest.raises(PolicyError) as caught:
            function("10.0.0.1:1")
    assert caught.value.error_code == "SCOPE_INSUFFICIENT"
    assert caught.value.denial_event.actor.id == "7"
    assert current_actor() is None


def test_monitor_mode_lets_through_and_records(recorder: Recorder) -> None:
    (function, _) = both(recorder, target="{target}", policy=WEB.with_mode("monitor"))
    assert function("10.0.0.1:1") == "done"
    (event,) = recorder.events_of(HOST)
    assert (event.would_deny, event.broker_decision, event.mode) == (True, Verdict.WOULD_DENY, Mode.MONITOR)


def test_without_any_policy_nothing_is_granted(recorder: Recorder) -> None:
    (function, _) = both(recorder, target="{target}")
    with pytest.raises(PolicyError, match="no policy is in force"):
        function("127.0.0.1:80")
    with acting_as("agent", "7", policy=WEB):
        assert function("127.0.0.1:80") == "done"


def test_a_path_is_resolved_before_it_is_decided(recorder: Recorder, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "file").write_text("x")
    (function, _) = both(
        recorder, capability="fs.read", target="{target}", policy=Policy.preset("none").allow_read(str(inside))
    )
    assert function(str(inside / "file")) == "done"
    for path in (inside / "link", inside / ".." / "secret", tmp_path / "secret"):
        with pytest.raises(PolicyError):
            function(str(path))


def test_names_of_ones_own_are_granted_by_name(recorder: Recorder) -> None:
    (function, _) = both(
        recorder, capability="send_email", target=lambda to, *rest: to, policy={"send_email bob@x", "other"}
    )
    assert function("bob@x") == "done"
    with pytest.raises(PolicyError) as caught:
        function("eve@x")
    event = caught.value.denial_event
    assert (event.capability, event.target) == (Capability.CONTROL_GUARD, "send_email eve@x")
    assert event.code is DenialCode.SCOPE_INSUFFICIENT
    assert event.presented_capability == "send_email bob@x"
    (nobody, _) = both(recorder, capability="send_email", policy=())
    with pytest.raises(PolicyError) as caught:
        nobody("x")
    assert caught.value.error_code == "NOT_GRANTED"


@pytest.mark.parametrize("granted", [{"send"}, {"send_email2"}, {"send_email x y"}, {"SEND_EMAIL"}, "send_emai"])
def test_names_match_exactly(recorder: Recorder, granted: Any) -> None:
    (function, _) = both(recorder, capability="send_email", target="{target}", policy=granted)
    with pytest.raises(PolicyError):
        function("x")
    (granted_one, _) = both(recorder, capability="send_email", target="{target}", policy="send_email")
    assert granted_one("x") == "done"


@pytest.mark.parametrize("answer", [False, None, 1, "yes"])
def test_a_function_decides_only_by_saying_true(recorder: Recorder, answer: object) -> None:
    (function, _) = both(recorder, target="{target}", policy=lambda capability, target: answer)
    with pytest.raises(PolicyError):
        function("x")
    (allowed, _) = both(recorder, target="{target}", policy=lambda capability, target: True)
    assert allowed("x") == "done"


def test_a_policy_that_fails_lets_nothing_through(recorder: Recorder) -> None:
    def broken(capability: Capability, target: str) -> bool:
        raise RuntimeError("no database")

    (function, _) = both(recorder, target="{target}", policy=broken)
    with pytest.raises(RuntimeError, match="no database"):
        function("x")
    assert function.ran == []


def test_actors_do_not_leak_between_tasks() -> None:
    async def named(name: str) -> str:
        with acting_as("agent", name):
            await asyncio.sleep(0.01)
            actor = current_actor()
            assert actor is not None
            return actor.id

    async def run() -> list[str]:
        return await asyncio.gather(*(named(str(n)) for n in range(20)))

    assert asyncio.run(run()) == [str(n) for n in range(20)]


@pytest.mark.parametrize(("kind", "name"), [("", "x"), ("x", "")])
def test_an_actor_has_kind_and_id(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="acting_as"), acting_as(kind, name):
        pass


@pytest.mark.parametrize("capability", ["", "two words"])
def test_a_capability_is_a_name(capability: str) -> None:
    with pytest.raises(ValueError, match="guard, capability"):
        guard(capability)


def test_methods_and_arguments_by_name(recorder: Recorder) -> None:
    class Tool:
        @guard("net.connect", target="{host}:{port}", policy=WEB, recorder=recorder)
        def open(self, host: str, port: int = 80) -> str:
            return host

    assert Tool().open("127.0.0.1") == "127.0.0.1"
    assert Tool().open(host="127.0.0.1", port=80) == "127.0.0.1"
    with pytest.raises(PolicyError):
        Tool().open("127.0.0.1", port=22)


@pytest.mark.parametrize("target", ["{hots}:{port}", "{}", "{port.x} {hots[0]}"])
def test_a_target_that_names_no_argument_is_refused_where_it_is_written(target: str) -> None:
    with pytest.raises(ValueError, match="it has no argument"):

        @guard("net.connect", target=target)
        def connect(host: str, port: int) -> None: ...
