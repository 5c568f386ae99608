"""The control token on live sandboxes: what needs it, what becomes of a refusal, and that no guest can read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import AlertRule, Policy, PolicyAuthError
from pyisolate.api import set_alert_rules
from pyisolate.guards import guard_denials
from pyisolate.supervisor import control_token as control
from pyisolate.telemetry.alerts import AlertEngine
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks.audit import AuditLog
from tests import inside

pytestmark = pytest.mark.core

TOKEN = "-".join(["correct", "horse", "battery", "staple"])
WRONG = "nobody-gave-me-this-one"


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    alerts = AlertEngine([AlertRule("Intruder", {"code": "TOKEN_INVALID"}, threshold=1, window=60, by=["capability"])])
    made = Recorder(metrics=Metrics(), audit=AuditLog(tmp_path / "audit.jsonl"), sinks=(), alerts=alerts)
    yield made
    made.shutdown()


@pytest.fixture
def guarded(recorder: Recorder) -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=0, recorder=recorder) as supervisor:
        pyisolate.set_policy_token(TOKEN)
        yield supervisor
        control._digest = None


def test_reload_and_kill_need_the_token_and_a_refusal_is_an_event_everywhere(
    guarded: pyisolate.Supervisor, recorder: Recorder, tmp_path: Path
) -> None:
    narrower = Policy.preset("compute")
    sandbox = guarded.spawn("target", narrower.allow_read("/etc/hostname"))
    attempts: list[tuple[str, Callable[[str | None], object]]] = [
        ("reload", lambda token: sandbox.reload_policy(narrower, token)),
        ("reload", lambda token: guarded.reload_policy("compute", narrower, token)),
        ("kill", lambda token: sandbox.kill(token)),
        ("kill", lambda token: guarded.kill("target", token)),
    ]
    texts = []
    for operation, attempt in attempts:
        for token in (None, WRONG):
            with pytest.raises(PolicyAuthError) as caught:
                attempt(token)
            event = caught.value.denial_event
            assert event is not None
            assert (event.capability, event.code) == (f"control.{operation}", "TOKEN_INVALID")
            assert event.reported_by == "supervisor"
            texts += [str(caught.value), event.to_json()]
    assert sandbox.eval("open('/etc/hostname').read()"), "neither reloaded nor killed"

    assert sum(event.count for event in sandbox.get_denial_events()) == 4  # what named the sandbox
    assert recorder.metrics.denials.total() == 8
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["count"] for line in lines) == 8
    assert recorder.alerts is not None
    assert recorder.alerts.active() == {"Intruder": True}
    everything = "".join(texts + lines)
    assert TOKEN not in everything
    assert WRONG not in everything

    bpf = inside.plan(guarded).bpf
    if bpf.decides or bpf.counter is not None:
        sandbox.reload_policy(narrower, TOKEN)
        with pytest.raises(pyisolate.PolicyError):
            sandbox.eval("open('/etc/hostname').read()")
    else:  # an ordinary user's kernel proves no tighter file rules; the token lets the request through to that answer
        with pytest.raises(pyisolate.EnforcementError, match="cannot be proven"):
            sandbox.reload_policy(narrower, TOKEN)
    assert guarded.kill("target", TOKEN) == 1
    sandbox.close()


def test_the_administration_of_metrics_needs_the_token(guarded: pyisolate.Supervisor) -> None:
    before = len(guard_denials())
    for attempt in (
        lambda: pyisolate.serve_metrics(0),
        lambda: pyisolate.set_event_sinks([], token=WRONG),
        lambda: set_alert_rules([]),
    ):
        with pytest.raises(PolicyAuthError):
            attempt()
    refused = guard_denials()[before:]
    assert [(event.capability, event.target) for event in refused] == [
        ("control.metrics", "serve 127.0.0.1:0"),
        ("control.metrics", "event sinks"),
        ("control.metrics", "alert rules"),
    ]
    pyisolate.serve_metrics(0, token=TOKEN).close()
    pyisolate.set_event_sinks(pyisolate.get_event_sinks(), token=TOKEN)


def memory_holds(pid: int, needle: bytes) -> bool:
    """Tell whether a process holds some bytes anywhere: in its memory, its environment or its arguments."""
    process = Path(f"/proc/{pid}")
    if any(needle in (process / name).read_bytes() for name in ("environ", "cmdline")):
        return True
    with open(process / "mem", "rb", buffering=0) as memory:
        for line in (process / "maps").read_text().splitlines():
            span, rights, *_ = line.split()
            start, end = (int(text, 16) for text in span.split("-"))
            if not rights.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            memory.seek(start)
            if needle in memory.read(end - start):
                return True
    return False


def test_a_guest_holds_the_token_nowhere(guarded: pyisolate.Supervisor) -> None:
    """Its process descends from one that was started afresh, and is told nothing of the host's memory."""
    with guarded.spawn("before", "compute") as sandbox:
        sandbox.exec("planted = '-'.join(['planted', 'where', 'it', 'is', 'found'])")
        with pytest.raises(PolicyAuthError):
            sandbox.kill(WRONG)
        try:
            assert memory_holds(sandbox.pid, b"planted-where-it-is-found"), "the search does find things"
        except PermissionError:
            pytest.skip("this user may not read a cell's memory")
        assert not memory_holds(sandbox.pid, TOKEN.encode())
        assert not memory_holds(sandbox.pid, WRONG.encode())
