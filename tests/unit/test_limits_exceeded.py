"""Which limit a reading is past, and what the error says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyisolate import errors
from pyisolate.capability import Capability
from pyisolate.cell.wire import Failed
from pyisolate.decision import DenialCode, Verdict
from pyisolate.limits.exceeded import ExceededLimit, exceeded, filled
from pyisolate.limits.monitor import SandboxLimits
from pyisolate.limits.usage import Filling, Usage
from pyisolate.policy.compiled import Limits
from pyisolate.records import BrokerRecord
from pyisolate.sandbox.denials import Denials
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.pipeline import SandboxTelemetry
from pyisolate.telemetry.recorder import Recorder
from tests.telemetry_events import CONTEXT

MIB = 1 << 20
LIMITS = Limits(cpu_s=2, memory_bytes=100 * MIB, processes=4, open_files=8)


@pytest.mark.parametrize(
    ("usage", "limit"),
    [
        (Usage(), None),
        (Usage(cpu_s=2, memory_bytes=100 * MIB, processes=4), None),
        (Usage(cpu_s=2.01), "cpu"),
        (Usage(memory_bytes=100 * MIB + 1), "memory"),
        (Usage(processes=5), "processes"),
        (Usage(oom_kills=1, memory_peak_bytes=100 * MIB), "memory"),
        (Usage(pids_refused=1, processes=4), "processes"),
        (Usage(oom_kills=1, cpu_s=3), "memory"),
    ],
)
def test_a_limit_is_exceeded_above_it_and_not_at_it(usage: Usage, limit: str | None) -> None:
    found = exceeded(LIMITS, usage)
    assert (found and found.limit) == limit


def test_nothing_is_exceeded_without_limits() -> None:
    unlimited = Limits(cpu_s=None, memory_bytes=None, processes=None)
    usage = Usage(cpu_s=1e9, memory_bytes=1 << 60, processes=10**6, oom_kills=3, pids_refused=3)
    assert exceeded(unlimited, usage) is None


def test_a_kill_far_below_the_limit_is_laid_on_the_host() -> None:
    found = exceeded(LIMITS, Usage(oom_kills=1, memory_peak_bytes=10 * MIB))
    assert found is not None
    assert "the host" in found.cause


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ("wall", errors.TimeoutError),
        ("cpu", errors.CPUExceeded),
        ("memory", errors.MemoryExceeded),
        ("processes", errors.ProcessesExceeded),
        ("open_files", errors.OpenFilesExceeded),
        ("file_size", errors.FileSizeExceeded),
        ("output", errors.OutputExceeded),
        ("messages", errors.MessagesExceeded),
    ],
)
def test_each_limit_has_its_own_exception_with_figures_and_a_hint(limit: str, kind: type[errors.LimitExceeded]) -> None:
    error = ExceededLimit(limit=limit, used=3, allowed=2).to_error("sandbox 'report'")
    assert type(error) is kind
    assert (error.limit, error.used, error.allowed) == (limit, 3, 2)
    assert str(error).startswith(f"limit {limit}, on sandbox 'report': used 3")
    assert f"raise limits.{limit}" in str(error)


def test_the_text_speaks_in_units_people_read() -> None:
    error = ExceededLimit(limit="memory", used=300 * MIB, allowed=256 * MIB, cause="the kernel ended it").to_error()
    assert "used 300.0 MiB of 256.0 MiB; the kernel ended it. Hint: " in str(error)


@pytest.mark.parametrize(
    ("limits", "filling", "limit", "allowed"),
    [
        (Limits(disk_bytes=MIB), Filling(MIB, MIB, True, 9, 2 * MIB), "disk", MIB),
        (Limits(disk_bytes=32 * MIB), Filling(MIB, MIB, True, 9, MIB), "workspace", MIB),
        (Limits(disk_bytes=MIB), Filling(MIB, MIB, True, 9, MIB), "workspace", MIB),
        (Limits(files=5), Filling(0, MIB, True, 0, MIB), "files", 5),
        (Limits(files=9999), Filling(0, MIB, True, 0, MIB), "workspace", MIB),
        (Limits(disk_bytes=MIB), Filling(0, MIB, True, 0, 2 * MIB), "workspace", 2 * MIB),
    ],
)
def test_a_full_workspace_names_the_limit_that_can_be_raised(
    limits: Limits, filling: Filling, limit: str, allowed: int
) -> None:
    met = filled(limits, filling)
    assert (met.limit, met.allowed) == (limit, allowed)


def _watched(record: Callable[..., Any]) -> Callable[[str, ExceededLimit], None]:
    """Watch a sandbox that records limits so; return what the watchdog calls."""
    given: dict[str, Any] = {}
    subject = SimpleNamespace(
        id="1", name="n", limits=LIMITS, requests=1, record_limit=record, end_with=lambda _error: None
    )
    watchdog = SimpleNamespace(watch=lambda _key, **what: given.update(what))
    SandboxLimits(subject, watchdog, None).watch()  # type: ignore[arg-type]
    on_exceeded: Callable[[str, ExceededLimit], None] = given["on_exceeded"]
    return on_exceeded


def test_an_event_has_all_digits_of_bytes() -> None:
    told: list[tuple[str, str]] = []
    on_exceeded = _watched(lambda _capability, target, reason, _reported: told.append((target, reason)))
    on_exceeded("1", ExceededLimit(limit="memory", used=(16 << 30) + 1, allowed=16 << 30))
    assert told == [("17179869184", "used 17179869185")]


def test_an_overrun_that_several_notice_is_one_event() -> None:
    told: list[Any] = []

    def record(capability: Any, target: str, _reason: str, reported: Any) -> Any:
        assert reported is None
        told.append(SimpleNamespace(reported_by="supervisor", last_seen=time.monotonic_ns(), target=target))
        return told[-1]

    on_exceeded = _watched(record)
    for _ in range(2):
        on_exceeded("1", ExceededLimit(limit="memory", used=2 << 30, allowed=1 << 30))
    assert len(told) == 1
    told[0].last_seen -= 3_000_000_000  # the control: an overrun of its own, later
    on_exceeded("1", ExceededLimit(limit="memory", used=2 << 30, allowed=1 << 30))
    assert len(told) == 2


@pytest.mark.parametrize("lost", [False, True])
def test_an_overrun_that_the_guest_noticed_first_becomes_the_hosts(lost: bool) -> None:
    """Whatever the guest has sent of that limit stays its own, and stands for nothing."""
    recorder = Recorder(metrics=Metrics(), sinks=(), alerts=None, capacity=2)
    denials = Denials(SandboxTelemetry(CONTEXT, recorder), SimpleNamespace(), lambda: 7)
    given: dict[str, Any] = {}
    ended: list[Any] = []
    subject = SimpleNamespace(
        id="1",
        name="n",
        pid=os.getpid(),
        requests=1,
        limits=LIMITS,
        filling=lambda: None,
        recorded_limit=lambda _capability: None,
        record_limit=denials.limit,
        record_reported_limit=denials.guest,
        end_with=ended.append,
    )
    lease = SimpleNamespace(pids_refused=lambda: 0, usage=lambda: Usage(memory_bytes=1 << 30))
    control = SandboxLimits(
        subject,
        SimpleNamespace(watch=lambda _key, **what: given.update(what)),  # type: ignore[arg-type]
        lease,  # type: ignore[arg-type]
    )
    control.watch()
    sent = {"verdict": Verdict.WOULD_DENY, "code": DenialCode.LIMIT_EXCEEDED, "capability": Capability.LIMIT_MEMORY}
    denials.guest(BrokerRecord(sequence=1, target="forged", **sent))  # type: ignore[arg-type]
    met = control.diagnose(Failed(id=1, type_name="MemoryError", message="no more", traceback=""))
    assert met is not None
    assert met.denial_event is not None
    assert met.denial_event.reported_by == "guest"
    for number in range(2 if lost else 0):  # the store has no room for it any more
        denials.guest(BrokerRecord(sequence=2, target=f"forged {number}", **sent))  # type: ignore[arg-type]
    given["on_exceeded"]("1", ExceededLimit(limit="memory", used=2 << 30, allowed=1 << 30))
    events = [event for event in denials.stored() if not event.target.startswith("forged")]
    assert [(event.target, event.reported_by, event.count) for event in events] == [("1073741824", "supervisor", 1)]
    assert events == [ended[0].denial_event]
    assert (events[0].event_id == met.denial_event.event_id) is not lost
    assert denials.total == (5 if lost else 2)
    recorder.shutdown()
