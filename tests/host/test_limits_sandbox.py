"""Each limit ends a sandbox in time, with its own exception, its event, and nothing left behind."""

from __future__ import annotations

import time

import pytest

import pyisolate
from pyisolate import Policy

BASE = Policy.preset("compute")


def events_of(sandbox: pyisolate.Sandbox, capability: str) -> list[pyisolate.DenialEvent]:
    return [event for event in sandbox.get_denial_events() if event.capability == capability]


def test_wall(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("wall", BASE.with_limits(wall="500ms")) as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.TimeoutError) as caught:
            sandbox.exec("while True: pass")
        assert time.monotonic() - started < 1.5
        assert caught.value.limit == "wall"
        assert events_of(sandbox, "limit.wall")[0].code == "LIMIT_EXCEEDED"


def test_cpu(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("cpu", BASE.with_limits(cpu="500ms", wall="20s")) as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.CPUExceeded) as caught:
            sandbox.exec("while True: pass")
        assert time.monotonic() - started < 4
        assert caught.value.used is not None
        assert caught.value.used >= 0.5
        assert events_of(sandbox, "limit.cpu")


def test_cpu_is_summed_over_processes(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(cpu="1s", wall="20s")
    with supervisor.spawn("cpu-sum", policy) as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.CPUExceeded):
            sandbox.exec("import os\nfor _ in range(3): os.fork()\nwhile True: pass")
        assert time.monotonic() - started < 4


def test_memory(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("memory", BASE.with_limits(memory="64MiB")) as sandbox:
        with pytest.raises(pyisolate.MemoryExceeded) as caught:
            sandbox.exec("x = []\nwhile True: x.append(bytearray(4 << 20))")
        assert caught.value.allowed == 64 << 20
        assert events_of(sandbox, "limit.memory")


def test_memory_is_summed_over_processes(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(memory="96MiB", wall="10s")
    hold = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: break\nx = bytearray(60 << 20)\ntime.sleep(8)"
    with supervisor.spawn("memory-sum", policy) as sandbox:
        with pytest.raises((pyisolate.MemoryExceeded, pyisolate.GuestError)):
            sandbox.exec(hold)
        assert events_of(sandbox, "limit.memory")


def test_processes(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(processes=8, wall="5s")
    bomb = "import os, time\nfor _ in range(100):\n    if os.fork() == 0:\n        time.sleep(30)"
    with supervisor.spawn("processes", policy) as sandbox:
        with pytest.raises(pyisolate.ProcessesExceeded):
            sandbox.exec(bomb)
        assert events_of(sandbox, "limit.processes")


def test_open_files(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("files", BASE.with_limits(open_files=32)) as sandbox:
        with pytest.raises(pyisolate.OpenFilesExceeded):
            sandbox.exec("held = [open('/dev/null') for _ in range(100)]")
        assert events_of(sandbox, "limit.open_files")


def test_output(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("output", BASE.with_limits(output="64KiB")) as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.OutputExceeded):
            sandbox.exec("while True: print('x' * 1000)")
        assert time.monotonic() - started < 2
        assert events_of(sandbox, "limit.output")


def test_messages(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("messages", BASE.with_limits(messages=10)) as sandbox:
        with pytest.raises(pyisolate.MessagesExceeded):
            sandbox.exec("while True: post(1)")
        assert [sandbox.recv(timeout=1) for _ in range(10)] == [1] * 10


def test_file_size(supervisor: pyisolate.Supervisor, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("size")
    for parent in (directory, *list(directory.parents)[:3]):
        parent.chmod(0o777)
    policy = BASE.allow_write(str(directory)).with_limits(file_size="64KiB")
    with supervisor.spawn("size", policy) as sandbox:
        sandbox.exec(f"open({str(directory / 'small')!r}, 'wb').write(b'x' * 1000)")
        with pytest.raises(pyisolate.FileSizeExceeded):
            sandbox.exec(f"f = open({str(directory / 'large')!r}, 'wb', buffering=0)\nwhile True: f.write(b'x' * 4096)")


def test_a_guest_within_its_limits_is_left_alone(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("control", BASE.with_limits(cpu="5s", memory="128MiB")) as sandbox:
        assert sandbox.exec("x = bytearray(8 << 20); sum(range(100000))").value == 4999950000
        assert sandbox.get_denial_events() == []
        assert sandbox.stats.memory_bytes is not None


def test_an_orphan_that_outlives_its_request_is_ended_at_the_wall_limit(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(wall="700ms")
    with supervisor.spawn("orphan", policy) as sandbox:
        sandbox.exec("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)")
        assert sandbox.stats.processes == 2
        deadline = time.monotonic() + 2.0
        while sandbox.stats.processes != 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sandbox.stats.processes == 1
        assert sandbox.eval("1 + 1") == 2
