"""An uncaught exception of a guest is a limit's only where the kernel or a reading agrees."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from pyisolate.cell.wire import Failed
from pyisolate.limits.diagnose import Findings, diagnose_limit
from pyisolate.limits.usage import Usage
from pyisolate.policy.compiled import Limits

LIMITS = Limits(cpu_s=2, memory_bytes=100 << 20, processes=4, open_files=8)
UNLIMITED = Limits(memory_bytes=None, processes=None, open_files=None, file_size_bytes=None)

CASES = [
    ("MemoryError", "", None, Usage(), "memory"),
    ("OSError", "mmap", 12, Usage(memory_peak_bytes=60 << 20), "memory"),
    ("OSError", "mlock", 12, Usage(memory_peak_bytes=10 << 20), None),
    ("OSError", "Too many open files", 24, Usage(), "open_files"),
    ("OSError", "File too large", 27, Usage(), "file_size"),
    ("BlockingIOError", "", 11, Usage(pids_refused=1), "processes"),
    ("BlockingIOError", "", 11, Usage(processes=4), "processes"),
    ("BlockingIOError", "", 11, Usage(processes=1), None),
    ("BlockingIOError", "", 11, None, None),
    ("RuntimeError", "can't start new thread", None, Usage(processes=4), "processes"),
    ("RuntimeError", "something else", None, Usage(processes=4), None),
    ("ValueError", "", None, Usage(), None),
    ("PermissionError", "", 13, Usage(), None),
]


def limit_named(
    type_name: str,
    message: str,
    code: int | None,
    usage: Usage | None,
    limits: Limits,
    descriptors: int | None = None,
    soft: dict[str, int] | None = None,
    *,
    raised_by_guest: bool = False,
    made_no_process: bool = False,
) -> str | None:
    subject = SimpleNamespace(
        limits=limits, name="report", record_limit=lambda *_: None, record_reported_limit=lambda _: None
    )
    answer = Failed(id=1, type_name=type_name, message=message, traceback="", errno=code)
    answer = msgspec.structs.replace(answer, raised_by_guest=raised_by_guest, made_no_process=made_no_process)
    found = Findings(usage=usage, descriptors=descriptors, soft=soft or {})
    error = diagnose_limit(subject, answer, found)  # type: ignore[arg-type]
    return error and error.limit


@pytest.mark.parametrize(("type_name", "message", "code", "usage", "limit"), CASES)
def test_an_exception_is_a_limits_only_where_the_kernel_agrees(
    type_name: str, message: str, code: int | None, usage: Usage | None, limit: str | None
) -> None:
    assert limit_named(type_name, message, code, usage, LIMITS) == limit
    # by a `raise` of its own, a limit that nothing else speaks of is none
    unproven = type_name == "MemoryError" or limit in ("open_files", "file_size")
    found = limit_named(type_name, message, code, usage, LIMITS, raised_by_guest=True)
    assert found == (None if unproven else limit)


@pytest.mark.parametrize(
    ("type_name", "code", "resource", "policy"),
    [("OSError", 24, "Max open files", 8), ("OSError", 27, "Max file size", 64 << 20),
     ("MemoryError", None, "Max address space", 100 << 20)],
)  # fmt: skip
def test_a_limit_that_the_guest_has_lowered_is_not_the_policys(
    type_name: str, code: int | None, resource: str, policy: int
) -> None:
    assert limit_named(type_name, "", code, Usage(), LIMITS, soft={resource: policy}) is not None
    assert limit_named(type_name, "", code, Usage(), LIMITS, soft={resource: policy - 1}) is None


@pytest.mark.parametrize(
    ("descriptors", "limit"), [(7, None), (8, "open_files"), (64, "open_files"), (None, "open_files")]
)
def test_emfile_is_the_limits_only_where_the_table_could_be_full(descriptors: int | None, limit: str | None) -> None:
    assert limit_named("OSError", "mq", 24, Usage(), LIMITS, descriptors=descriptors) == limit


@pytest.mark.parametrize(
    ("source", "most", "forked", "limit"),
    [
        ("tree", 8, True, "processes"),
        ("tree", 8, False, None),
        ("tree", 7, True, None),  # the guest's own limit
        ("tree", None, True, None),  # not the policy's
        ("cgroup", 8, True, None),  # which counts what it refuses
    ],
)
def test_a_fork_that_the_kernel_refused_is_the_limits_where_its_processes_are_gone(
    source: str, most: int | None, forked: bool, limit: str | None
) -> None:
    """RLIMIT_NPROC refuses a fork bomb, whose processes end by it before anybody counts them."""
    soft = {} if most is None else {"Max processes": most}
    usage = Usage(processes=1, source=source)
    assert limit_named("BlockingIOError", "", 11, usage, LIMITS, soft=soft, made_no_process=forked) == limit


def test_what_the_kernel_refused_is_recorded_once() -> None:
    event = object()
    answer = Failed(id=1, type_name="BlockingIOError", message="", traceback="", errno=11)
    subject = SimpleNamespace(limits=LIMITS, name="report", record_limit=pytest.fail)
    found = Findings(usage=Usage(pids_refused=1), refused=event)  # type: ignore[arg-type]
    error = diagnose_limit(subject, answer, found)  # type: ignore[arg-type]
    assert error is not None
    assert error.denial_event is event


@pytest.mark.parametrize(("type_name", "message", "code", "usage", "limit"), CASES)
def test_without_the_limit_it_is_the_guests_own_exception(
    type_name: str, message: str, code: int | None, usage: Usage | None, limit: str | None
) -> None:
    assert limit_named(type_name, message, code, usage, UNLIMITED) is None
