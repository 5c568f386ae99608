"""Programs that run beside requests: `popen`, its streams, signals and end."""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

import pyisolate
from tests.programs import compute_with

pytestmark = pytest.mark.usefixtures("kept_supervisor")


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor) -> Iterator[pyisolate.Sandbox]:
    with supervisor.spawn("commands", compute_with("bash", "cat", "sleep", "git")) as made:
        yield made


def test_a_program_is_talked_to_while_it_runs(sandbox: pyisolate.Sandbox) -> None:
    with sandbox.popen(["cat"], stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("one\n")
        assert process.stdout.readline() == "one\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert sandbox.eval("1 + 1") == 2  # beside it
        process.stdin.write("two")
        process.stdin.close()
        assert process.stdout.read() == "two"
    assert process.returncode == process.poll() == process.wait() == 0
    assert sandbox.eval("1 + 1") == 2


def test_communicate_gives_all_that_was_written(sandbox: pyisolate.Sandbox) -> None:
    data = bytes(range(256)) * 1024  # more than a pipe holds
    assert sandbox.popen(["cat"], stdin=subprocess.PIPE).communicate(data) == (data, b"")
    both = sandbox.popen(["bash", "-c", "echo a; echo b >&2"], stderr=subprocess.STDOUT, text=True)
    assert both.communicate() == ("a\nb\n", None)
    assert sandbox.popen(["cat"], stdin="in", stdout=subprocess.DEVNULL).communicate() == (None, b"")
    written = io.StringIO()
    assert sandbox.popen(["cat"], stdin=b"to a file", stdout=written).wait() == 0
    assert written.getvalue() == "to a file"


def test_signals_reach_the_program_alone(sandbox: pyisolate.Sandbox) -> None:
    loop = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    process = sandbox.popen(["bash", "-c", loop], text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert (process.wait(10), process.stdout.read()) == (7, "got\n")
    process.terminate()  # it has ended: nothing is sent
    process = sandbox.popen(["sleep", "60"])
    process.kill()
    assert process.wait(10) == -9
    process = sandbox.popen(["sleep", "60"])
    process.send_signal(signal.SIGINT)
    process.send_signal(0)
    assert process.wait(10) == -2
    process.send_signal(999)
    assert not sandbox.closed


@pytest.mark.once
def test_a_timeout_of_communicate_has_what_came(sandbox: pyisolate.Sandbox) -> None:
    with sandbox.popen(["bash", "-c", "echo ready; exec sleep 60"]) as process:
        with pytest.raises(OSError, match="no signal"):
            process.send_signal(999)
        came = None
        while came is None:  # the program may not have begun to write
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                process.communicate(timeout=0.05)
            came = caught.value.output
        assert (came, caught.value.stderr) == (b"ready\n", None)
        process.kill()
        assert process.communicate() == (b"ready\n", b"")


def test_what_cannot_start_is_an_error_of_popen(sandbox: pyisolate.Sandbox) -> None:
    with pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.popen(["/usr/bin/env"])
    assert caught.value.denial_event is not None
    assert caught.value.denial_event.target == "/usr/bin/env"
    with pytest.raises(NotADirectoryError):
        sandbox.popen(["cat"], cwd="/dev/null")
    for wrong in ({"stdout": None}, {"stdin": 3.5}, {"stderr": "text"}):
        with pytest.raises(TypeError):
            sandbox.popen(["cat"], **wrong)
    assert sandbox.run(["cat"]).returncode == 0


def test_a_host_without_descriptors_is_told_of_them(
    sandbox: pyisolate.Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, real = threading.get_ident(), os.pipe2
    for enough in itertools.count():
        left = [enough]

        def pipe2(flags: int, left: list[int] = left) -> tuple[int, int]:
            left[0] -= threading.get_ident() == own
            if left[0] < 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real(flags)

        with monkeypatch.context() as patched:
            patched.setattr(os, "pipe2", pipe2)
            try:
                process = sandbox.popen(["cat"], stdin=subprocess.PIPE, text=True)
            except pyisolate.SandboxError as error:
                assert "make its pipes: Too many open files. Hint: raise" in str(error)  # noqa: PT017
            else:
                break
    assert enough == 5
    with process:
        assert process.communicate("x") == ("x", "")


def test_refusals_of_a_running_program_are_its_denials(sandbox: pyisolate.Sandbox) -> None:
    process = sandbox.popen(["bash", "-c", "cat /etc/shadow /dev/null; exit 3"])
    assert process.wait(10) == 3
    assert ("fs.read", "/etc/shadow") in {(str(one.capability), one.target) for one in process.denials}


def test_programs_run_at_once_and_beside_requests(sandbox: pyisolate.Sandbox) -> None:
    trap = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    loud = sandbox.popen(["bash", "-c", trap], text=True)
    cats = [sandbox.popen(["cat"], stdin=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({one.pid for one in (loud, *cats)}) == 4
    for number, cat in enumerate(cats):
        assert cat.stdin is not None
        assert cat.stdout is not None
        cat.stdin.write(f"{number}\n")
        assert cat.stdout.readline() == f"{number}\n"
    assert loud.stdout is not None
    assert loud.stdout.readline() == "ready\n"
    busy = threading.Thread(target=sandbox.exec, args=("post('at work'); recv()",))
    busy.start()
    assert sandbox.recv(timeout=20) == "at work"
    loud.terminate()
    assert (loud.wait(20), loud.stdout.read(), busy.is_alive()) == (7, "got\n", True)
    assert [cat.communicate("end") for cat in cats] == [("end", "")] * 3
    sandbox.post("enough")
    busy.join()
    assert sandbox.exec("import threading; print(threading.active_count())").stdout == "1\n"
    assert sandbox.run(["cat"], input=b"x").stdout == b"x"


def test_output_of_what_a_program_leaves_running_is_read_to_its_end(sandbox: pyisolate.Sandbox) -> None:
    script = "echo first; (while [ ! -e go ]; do sleep 0.02; done; echo last) & exit 3"
    process = sandbox.popen(["bash", "-c", script], text=True)
    assert process.wait(20) == 3
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.01)
    sandbox.files.write("go", b"")
    assert process.communicate(timeout=20) == ("first\nlast\n", "")


class _Full(io.StringIO):
    """A file that takes one line, and raises at the second one, or where half a character is left at the end."""

    def write(self, text: str) -> int:
        if self.getvalue():
            raise OSError(errno.ENOSPC, "no space")
        return super().write(text)


@pytest.mark.parametrize("rest", ["echo b", "printf '\\303'"])
def test_what_a_file_for_output_raises_after_the_end_is_kept(sandbox: pyisolate.Sandbox, rest: str) -> None:
    script = f"echo a; (while [ ! -e go ]; do sleep 0.02; done; {rest}) & exit 0"
    process = sandbox.popen(["bash", "-c", script], stdout=_Full(), text=True)
    assert process.wait(20) == 0
    sandbox.files.write("go", b"")
    for wait in (lambda: process.communicate(timeout=20), process.wait):
        with pytest.raises(OSError, match="no space"):
            wait()
    assert process.returncode == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""  # its end came


def test_a_program_whose_time_is_up_is_killed_alone(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").allow_exec(shutil.which("sleep") or "").with_limits(wall="500ms")
    with supervisor.spawn("late", policy) as sandbox:
        process = sandbox.popen(["sleep", "60"])
        with pytest.raises(pyisolate.TimeoutError, match="'sleep' was killed after"):
            process.wait(10)
        assert process.returncode == -9
        assert [event.capability.value for event in process.denials if event.code == "LIMIT_EXCEEDED"] == ["limit.wall"]
        assert sandbox.popen(["sleep", "0"]).wait() == 0


def test_wait_says_why_the_sandbox_ended_before_the_program(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").allow_exec(shutil.which("bash") or "").with_limits(output="64KiB")
    with supervisor.spawn("loud", policy) as sandbox:
        process = sandbox.popen(["bash", "-c", "while :; do echo loud; done"])
        with pytest.raises(pyisolate.OutputExceeded):
            process.wait(20)
        assert process.returncode == -9
    with supervisor.spawn("closed", policy) as sandbox:
        process = sandbox.popen(["bash", "-c", "read forever"], stdin=subprocess.PIPE)
    with pytest.raises(pyisolate.SandboxClosed):
        process.wait(10)


def test_tasks_of_asyncio_talk_to_a_program_while_it_runs(sandbox: pyisolate.Sandbox) -> None:
    async def talk() -> None:
        script = "while read line; do echo got $line; done; echo end >&2; exit 3"
        async with await sandbox.apopen(["bash", "-c", script], stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for word in (b"one", b"two"):
                process.stdin.write(word + b"\n")
                assert await asyncio.wait_for(process.stdout.readline(), 20) == b"got " + word + b"\n"
            assert process.returncode is None
            assert await process.communicate(b"three\n" * 12_000) == (b"got three\n" * 12_000, b"end\n")
            assert (await process.wait(), process.returncode) == (3, 3)
        process = await sandbox.apopen(["sleep", "60"], stdout=subprocess.DEVNULL)
        assert (process.stdin, process.stdout) == (None, None)
        with pytest.raises(asyncio.TimeoutError):  # who waits no more leaves it running
            await asyncio.wait_for(process.wait(), 0.05)
        await process.terminate()
        assert await process.wait() == -15
        with pytest.raises(pyisolate.PolicyError):
            await sandbox.apopen(["/usr/bin/nonesuch"])
        script = "(while [ ! -e go ]; do sleep 0.02; done; echo late) & exit 0"
        written, full = io.BytesIO(), _Full("already")
        process = await sandbox.apopen(["bash", "-c", script], stdout=written)
        other = await sandbox.apopen(["bash", "-c", script], stdout=full)
        assert await process.wait() == 0
        sandbox.files.write("go", b"")
        assert (await process.communicate(), written.getvalue()) == ((None, b""), b"late\n")
        with pytest.raises(OSError, match="no space"):
            await other.communicate()
        async with await sandbox.apopen(["sleep", "60"]) as process:
            sandbox.kill()
            with pytest.raises(pyisolate.SandboxClosed):
                await process.communicate()
            raise pyisolate.SandboxClosed("seen")

    with pytest.raises(pyisolate.SandboxClosed, match="seen"):
        asyncio.run(talk())
