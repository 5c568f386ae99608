"""A time-out and Ctrl-C interrupt the guest first: its state lives on where it lets them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest

import pyisolate
from tests.thread_limits import WITHOUT_UNHELD

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("kept_supervisor"), pytest.mark.alone]


SupervisorOf = pyisolate.Supervisor
#: Runs in C without looking for signals.
DEAF = "import itertools; sum(itertools.repeat(1))"
STUBBORN = "while True:\n    try:\n        for _ in iter(int, 1): x = 1\n    except BaseException: pass"


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("source", ["while True: pass", "import time\nwhile True: time.sleep(0.05)"])
def test_a_timeout_keeps_the_state(supervisor: SupervisorOf, isolation: Any, source: str) -> None:
    with supervisor.spawn("kept", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec("state = [1]")
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(pyisolate.TimeoutError) as caught:
                sandbox.exec(f"state.append(2)\nprint('so far')\n{source}", timeout=0.3)
            assert time.monotonic() - started < 2
            assert (caught.value.limit, caught.value.stdout) == ("timeout", "so far\n")
        assert not sandbox.closed
        assert sandbox.exec("state").value == [1, 2, 2, 2]
        assert [event.capability.value for event in sandbox.get_denial_events()] == ["limit.wall"]
        assert sandbox.stats.denials == 3


def test_where_the_guest_was_is_told(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("told") as sandbox, pytest.raises(pyisolate.TimeoutError) as caught:
        sandbox.exec("def spin():\n    while True: pass\nspin()", timeout=0.2)
    assert "line 2, in spin" in "".join(caught.value.__notes__)
    assert caught.value.__notes__[0].endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize(
    "source", [DEAF, STUBBORN, "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass"]
)
def test_what_does_not_stop_is_killed(supervisor: SupervisorOf, source: str) -> None:
    with supervisor.spawn("deaf") as sandbox:
        for _ in range(10):  # a busy machine may not have come to that code in time: it is interrupted before
            started = time.monotonic()
            with pytest.raises(pyisolate.TimeoutError) as caught:
                sandbox.exec(source, timeout=0.3)
            if sandbox.closed:
                break
        assert "was killed" in str(caught.value)
        assert time.monotonic() - started > 0.7
        assert len(sandbox.get_denial_events()) == 1


def test_the_grace_ends_with_the_wall_limit(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("wall", limits={"wall": "0.6s"}) as sandbox:
        sandbox.exec("1")
        started = time.monotonic()
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec(STUBBORN, timeout=0.5)
        assert time.monotonic() - started < 0.9
        assert sandbox.closed
    with supervisor.spawn("wall", limits={"wall": "0.3s"}) as sandbox:
        with pytest.raises(pyisolate.TimeoutError, match="was killed"):
            sandbox.exec("while True: pass", timeout=5)
        assert sandbox.closed


def test_an_interrupt_between_requests_and_at_their_ends_breaks_nothing(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("rained on") as sandbox:
        sandbox.exec("seen = 0")
        stop = threading.Event()

        def rain() -> None:
            while not stop.wait(0.0003):
                sandbox.interrupt()

        thread = threading.Thread(target=rain)
        thread.start()
        ended, raised = 0, set()
        try:
            for _ in range(300):
                try:
                    sandbox.exec("seen += 1\nfor _ in range(2000): pass")
                    ended += 1
                except pyisolate.GuestError as error:
                    raised.add(error.type_name)
        finally:
            stop.set()
            thread.join()
        assert raised <= {"KeyboardInterrupt"}
        assert sandbox.eval("seen") >= ended > 0


def test_asyncio_in_the_guest_sees_a_cancelled_task(supervisor: SupervisorOf) -> None:
    source = "import asyncio\nasync def wait():\n    try: await asyncio.sleep(60)\n    finally: seen.append(1)\n"
    with supervisor.spawn("tasks") as sandbox:
        sandbox.exec("seen = []")
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec(source + "await wait()", timeout=1)
        assert sandbox.eval("seen") == [1]
        assert sandbox.eval("await asyncio.sleep(0, 5)") == 5


def test_tasks_of_the_host_have_the_same(supervisor: SupervisorOf) -> None:
    async def run() -> Any:
        async with await supervisor.aspawn("task") as sandbox:
            await sandbox.aexec("x = 4")
            with pytest.raises(pyisolate.TimeoutError):
                await sandbox.aexec("while True: pass", timeout=0.3)
            return await sandbox.aeval("x")

    assert asyncio.run(run()) == 4


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_ctrl_c_keeps_the_state(supervisor: SupervisorOf, isolation: Any) -> None:
    with supervisor.spawn("kept", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec("x = 4")
        threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            sandbox.exec("print('lost')\nwhile True: pass")
        assert "line 2, in <module>" in "".join(caught.value.__notes__)
        again = sandbox.exec("print('mine')\nx")
        assert (again.value, again.stdout) == (4, "mine\n")


def test_a_second_ctrl_c_does_not_wait(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("stubborn") as sandbox:
        for delay in (0.3, 0.45):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            sandbox.exec(STUBBORN)
        assert time.monotonic() - started < 0.75
        with pytest.raises(pyisolate.SandboxClosed, match="abandoned: KeyboardInterrupt"):
            sandbox.exec("1")
