"""Numbers are used again: of descriptors, processes and control groups. What is over must not touch what came after."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside


def test_a_closed_sandbox_cannot_touch_the_one_that_got_its_place(supervisor: pyisolate.Supervisor) -> None:
    old = []
    for _ in range(6):
        sandbox = supervisor.spawn("old")
        sandbox.close()
        assert inside.cell(sandbox).channel.exited.wait(5)
        old.append(sandbox)
    time.sleep(0.1)  # groups go back once nobody is charged to them
    forks = Policy.preset("compute").allow_fork()
    new = [supervisor.spawn("new", forks) for _ in range(6)]
    for sandbox in new:
        sandbox.exec("import os, time\nif os.fork() == 0: time.sleep(1000)\nx = 1")
    for sandbox in old:
        sandbox.kill()
        sandbox.interrupt()
        inside.session(sandbox).end("again")
        sandbox.close()
        assert sandbox.stats.processes is None
    time.sleep(0.2)
    for sandbox in new:
        assert sandbox.eval("x") == 1
        assert sandbox.stats.processes in (2, None)
        sandbox.close()


def test_killing_and_closing_race(supervisor: pyisolate.Supervisor) -> None:
    """Many threads end many sandboxes twice while others come to life in their places."""
    stop, unexpected = threading.Event(), []
    ended: list[pyisolate.Sandbox] = []

    def haunt() -> None:
        while not stop.is_set():
            for sandbox in ended[-8:]:
                sandbox.kill()
                sandbox.interrupt()

    def live() -> None:
        for number in range(40):
            try:
                with supervisor.spawn("alive") as sandbox:
                    assert sandbox.eval(f"{number} + 1") == number + 1
                    assert sandbox.exec("print('x')").stdout == "x\n"
                ended.append(sandbox)
            except BaseException as error:
                unexpected.append(error)

    ghost = threading.Thread(target=haunt)
    lives = [threading.Thread(target=live) for _ in range(3)]
    ghost.start()
    for thread in lives:
        thread.start()
    for thread in lives:
        thread.join()
    stop.set()
    ghost.join()
    assert not unexpected, unexpected[:3]


def test_a_request_that_the_host_abandons_ends_the_sandbox(supervisor: pyisolate.Supervisor) -> None:
    """Ctrl-C while a guest runs that no interrupt ends: its answer would come to whoever asks next."""
    with supervisor.spawn("abandoned") as sandbox:
        main = threading.get_ident()
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            sandbox.exec("import itertools; sum(itertools.repeat(1))")
        with pytest.raises(pyisolate.SandboxClosed, match="abandoned: KeyboardInterrupt"):
            sandbox.exec("1")


def test_a_callback_that_raises_is_the_hosts_own_error(supervisor: pyisolate.Supervisor) -> None:
    def callback(_text: str) -> None:
        raise KeyError("mine")

    with supervisor.spawn("callback") as sandbox:
        with pytest.raises(KeyError):
            sandbox.exec("print('x')\nimport time\ntime.sleep(1)", on_stdout=callback)
        with pytest.raises(pyisolate.SandboxClosed, match="abandoned: KeyError"):
            sandbox.exec("1")


def test_a_callback_that_raises_between_requests_stops_nothing(supervisor: pyisolate.Supervisor) -> None:
    calls = []

    def callback(text: str) -> None:
        calls.append(text)
        raise KeyError("mine")

    with supervisor.spawn("between", on_stdout=callback) as sandbox:
        sandbox.exec(
            "import threading, time, os\n"
            "def later():\n"
            "    for _ in range(3):\n"
            "        time.sleep(0.1)\n"
            "        os.write(1, b'late ')\n"
            "threading.Thread(target=later).start()"
        )
        deadline = time.monotonic() + 5
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(calls) >= 3
        assert sandbox.eval("1") == 1


def test_a_request_within_a_request_is_refused(supervisor: pyisolate.Supervisor) -> None:
    seen = []

    def callback(_text: str) -> None:
        try:
            sandbox.exec("2")
        except pyisolate.SandboxError as error:
            seen.append(str(error))

    with supervisor.spawn("nested") as sandbox:
        assert sandbox.exec("print('x', flush=True)\n1", on_stdout=callback).value == 1
        assert "one request at a time" in seen[0]
        assert sandbox.eval("3") == 3


def test_a_request_too_large_to_send_costs_nothing(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("large") as sandbox:
        with pytest.raises(pyisolate.SandboxError, match="limit"):
            sandbox.exec("#" * (65 << 20))
        with pytest.raises(ValueError, match="over the limit"):
            sandbox.post(b"x" * (65 << 20))
        assert sandbox.eval("1") == 1
        os.stat(f"/proc/{sandbox.pid}")
