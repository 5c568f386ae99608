"""SandboxExecutor is an executor in every point: CPython's own tests of executors say so, where they apply."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import importlib.util
import os
import pickle
import threading
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from typing import Any

import pytest

import pyisolate
from pyisolate import SandboxExecutor
from tests.require import require

CPYTHON = ("test.test_concurrent_futures", "test.test_concurrent_futures.executor")
#: Tests that ask for what a sandbox does not give: objects and exceptions of the guest's come back as plain data and as
#: GuestError.
NOT_APPLICABLE = {
    "test_map_exception": "a guest's ZeroDivisionError is a GuestError",
    "test_free_reference": "its objects have no plain form",
}


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=2) as made:
        yield made


@pytest.fixture
def executor(supervisor: pyisolate.Supervisor) -> Iterator[SandboxExecutor]:
    with SandboxExecutor("compute", 2, supervisor=supervisor) as made:
        yield made


def cpythons_tests() -> Any:
    for name in CPYTHON:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "ExecutorTest"):
            return module
    return None


@pytest.mark.timeout(240)
def test_cpythons_own_tests_of_executors_pass(supervisor: pyisolate.Supervisor) -> None:
    module = cpythons_tests()
    require("cpython_tests", module is not None, "apt-get install libpython3.11-testsuite")
    bases = [
        getattr(module, name) for name in ("ExecutorTest", "WaitTests", "AsCompletedTests") if hasattr(module, name)
    ]

    class OfSandboxes(*bases, unittest.TestCase):  # type: ignore[misc]
        worker_count = 5
        executor_type = SandboxExecutor

        def setUp(self) -> None:
            self.t1 = time.monotonic()
            self.executor = SandboxExecutor("compute", self.worker_count, supervisor=supervisor)

        def tearDown(self) -> None:
            self.executor.shutdown(wait=True)

        def get_context(self) -> Any:
            import multiprocessing

            return multiprocessing.get_context("fork")

    suite = unittest.TestSuite()
    for name in unittest.defaultTestLoader.getTestCaseNames(OfSandboxes):
        if name not in NOT_APPLICABLE:
            suite.addTest(OfSandboxes(name))
    result = unittest.TestResult()
    suite.run(result)
    failed = [(str(one), text[-1500:]) for one, text in (*result.failures, *result.errors)]
    assert not failed, failed
    assert result.testsRun - len(result.skipped) >= 12


def test_each_task_has_a_sandbox_of_its_own(executor: SandboxExecutor) -> None:
    assert executor.submit(setattr_global).result() == executor.submit(setattr_global).result() == 1


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def setattr_global() -> int:
    import builtins

    builtins.count = getattr(builtins, "count", 0) + 1  # type: ignore[attr-defined]
    return int(builtins.count)  # type: ignore[attr-defined]


def test_reuse_gives_a_sandbox_that_many_tasks(supervisor: pyisolate.Supervisor) -> None:
    with SandboxExecutor("compute", 1, reuse=3, supervisor=supervisor) as executor:
        assert [future.result() for future in [executor.submit(setattr_global) for _ in range(7)]] == [1, 2, 3] * 2 + [
            1
        ]
    assert not supervisor.sandboxes


def test_what_was_refused_is_on_the_future_and_on_its_exception(supervisor: pyisolate.Supervisor) -> None:
    def caught() -> str:
        try:
            open("/etc/passwd").close()
        except PermissionError:
            return "went on"
        return "read"

    with SandboxExecutor("compute", 1, reuse=9, supervisor=supervisor) as executor:
        refused = executor.submit(read, "/etc/passwd")
        with pytest.raises(pyisolate.PolicyError) as error:
            refused.result()
        assert [event.target for event in refused.denials] == ["/etc/passwd"]
        assert error.value.denials == refused.denials
        assert pickle.loads(pickle.dumps(error.value)).denials[0].event_id == refused.denials[0].event_id
        went_on = executor.submit(caught)
        assert went_on.result() == "went on"
        assert [event.target for event in went_on.denials] == ["/etc/passwd"]
        quiet = executor.submit(pow, 2, 8)  # the control, in the same sandbox
        assert (quiet.result(), quiet.denials) == (256, ())


def test_the_submitters_actor_is_the_events(executor: SandboxExecutor) -> None:
    with pyisolate.acting_as("user", "alice"):
        future = executor.submit(read, "/etc/passwd")
    assert isinstance(future.exception(), pyisolate.PolicyError)
    assert future.denials[0].actor is not None
    assert "alice" in str(future.denials[0].actor)


def test_tasks_of_two_actors_share_no_sandbox(supervisor: pyisolate.Supervisor) -> None:
    """The control: a second task of the same actor finds what the first one left."""
    source = "import builtins\nbuiltins.seen = getattr(builtins, 'seen', 0) + 1"

    def refused_once(source: str = source) -> int:
        import builtins
        import contextlib

        exec(source)
        with contextlib.suppress(PermissionError), open("/etc/shadow"):
            pass
        return int(builtins.seen)  # type: ignore[attr-defined]

    with SandboxExecutor("compute", 1, reuse=5, supervisor=supervisor) as executor:
        for who, expected in (("alice", 1), ("alice", 2), ("bob", 1)):
            with pyisolate.acting_as("user", who):
                future = executor.submit(refused_once)
            assert future.result() == expected
            assert [event.actor and event.actor.id for event in future.denials] == [who]


def test_the_submitters_trace_is_the_events(executor: SandboxExecutor) -> None:
    require("otel", importlib.util.find_spec("opentelemetry.sdk") is not None, "pip install opentelemetry-sdk")
    from opentelemetry.sdk.trace import TracerProvider

    traces = TracerProvider(shutdown_on_exit=False)
    pyisolate.set_tracer_provider(traces)
    try:
        with traces.get_tracer("test").start_as_current_span("job") as span:
            future = executor.submit(read, "/etc/passwd")
        assert isinstance(future.exception(), pyisolate.PolicyError)
    finally:
        pyisolate.set_tracer_provider(None)
    assert f"-{span.get_span_context().trace_id:032x}-" in str(future.denials[0].traceparent)


def test_a_guests_end_fails_its_own_task_and_no_other(supervisor: pyisolate.Supervisor) -> None:
    with SandboxExecutor("compute", 1, reuse=5, supervisor=supervisor) as executor:
        ended, after = executor.submit(os._exit, 3), executor.submit(pow, 2, 2)
        assert isinstance(ended.exception(), pyisolate.SandboxDied)
        assert after.result() == 4


def test_a_task_that_takes_too_long_is_ended(supervisor: pyisolate.Supervisor) -> None:
    with SandboxExecutor("compute", 1, timeout=0.3, supervisor=supervisor) as executor:
        assert isinstance(executor.submit(time.sleep, 30).exception(timeout=20), pyisolate.TimeoutError)
        assert executor.submit(pow, 2, 2).result() == 4


def test_an_initializer_prepares_each_sandbox(supervisor: pyisolate.Supervisor) -> None:
    def prepare(word: str) -> None:
        import builtins

        builtins.word = word  # type: ignore[attr-defined]

    def read() -> str:
        import builtins

        return str(builtins.word)  # type: ignore[attr-defined]

    with SandboxExecutor("compute", 2, initializer=prepare, initargs=("ready",), supervisor=supervisor) as executor:
        assert [executor.submit(read).result() for _ in range(3)] == ["ready"] * 3


def test_a_failing_initializer_breaks_the_executor(supervisor: pyisolate.Supervisor) -> None:
    with SandboxExecutor("compute", 1, initializer=lambda: 1 / 0, supervisor=supervisor) as executor:
        futures = []
        with pytest.raises(BrokenExecutor):  # noqa: PT012 - which submit is the first to know is open
            for _ in range(1000):
                futures.append(executor.submit(pow, 2, 2))
                time.sleep(0.01)
        assert futures
        assert all(isinstance(future.exception(timeout=10), BrokenExecutor) for future in futures)
    assert not supervisor.sandboxes


def test_map_in_chunks_is_map(executor: SandboxExecutor) -> None:
    assert list(executor.map(pow, range(7), range(7), chunksize=3)) == [pow(n, n) for n in range(7)]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(pow, [1], [1], chunksize=0)


def add_a_result(number: int) -> str:
    import gc

    for one in gc.get_objects():
        if type(one) is list and one and one[0] == "first":
            one.append("of another chunk")
    return "first" if number == 0 else str(number)


def test_a_guest_cannot_move_the_results_of_other_chunks(executor: SandboxExecutor) -> None:
    with pytest.raises(pyisolate.SandboxError, match=r"map, on a chunk of 2: .* returned 3 results\. Hint: "):
        list(executor.map(add_a_result, range(4), chunksize=2))


def test_cancelled_futures_never_run(supervisor: pyisolate.Supervisor) -> None:
    executor = SandboxExecutor("compute", 1, supervisor=supervisor)
    running, *waiting = [executor.submit(time.sleep, 0.5) for _ in range(5)]
    while not running.running():
        time.sleep(0.001)
    executor.shutdown(cancel_futures=True)
    assert running.result() is None
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 2)


def test_asyncio_runs_its_calls_there(executor: SandboxExecutor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, pow, 2, n) for n in range(5)))

    assert asyncio.run(main()) == [1, 2, 4, 8, 16]


def test_many_threads_may_submit(executor: SandboxExecutor) -> None:
    found: list[int] = []

    def submit() -> None:
        found.extend(future.result() for future in [executor.submit(pow, 2, n) for n in range(5)])

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([1, 2, 4, 8, 16] * 4)
    assert isinstance(executor, concurrent.futures.Executor)
