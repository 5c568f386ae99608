"""What a guest reads and is called with, and what it writes that is no text."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from tests.thread_limits import WITHOUT_UNHELD

pytestmark = pytest.mark.usefixtures("kept_supervisor")


SupervisorOf = pyisolate.Supervisor
ECHO = "import sys; sys.stdout.write(sys.stdin.read())"
BIG = "0123456789abcde\n" * (1 << 16)
COMMAND = [sys.executable, "-m", "pyisolate.cli.main", "run"]


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_input_reads_what_the_request_was_given(supervisor: SupervisorOf, isolation: Any) -> None:
    with supervisor.spawn("reader", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        result = sandbox.exec("name = input('who? ')\nprint('hello', name)\nname", stdin="ada\nrest\n")
        assert (result.stdout, result.value) == ("who? hello ada\n", "ada")
        with pytest.raises(pyisolate.GuestError) as caught:  # what was left is not the next request's
            sandbox.exec("input()")
        assert caught.value.type_name == "EOFError"
        assert sandbox.exec(ECHO, stdin=b"caf\xc3\xa9").stdout == "café"


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_stdin_can_be_a_file_of_any_kind(supervisor: SupervisorOf, isolation: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_text(BIG)
    with supervisor.spawn("reader", isolation=isolation, limits={**WITHOUT_UNHELD, "output": "16MiB"}) as sandbox:
        assert sandbox.exec(ECHO, stdin=BIG).stdout == BIG
        with open(tmp_path / "big") as text, open(tmp_path / "big", "rb") as binary:
            assert sandbox.exec(ECHO, stdin=text).stdout == BIG
            assert sandbox.exec(ECHO, stdin=binary.fileno()).stdout == BIG
        assert sandbox.exec(ECHO, stdin=io.BytesIO(BIG.encode())).stdout == BIG
        assert sandbox.exec(ECHO, stdin=io.StringIO(BIG)).stdout == BIG


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_the_constants_of_subprocess_are_understood(supervisor: SupervisorOf, isolation: Any) -> None:
    with supervisor.spawn("reader", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        assert sandbox.exec("import sys; sys.stdin.read()", stdin=subprocess.DEVNULL).value == ""
        with pytest.raises(ValueError, match="no process would write"):
            sandbox.exec("1", stdin=subprocess.PIPE)
        with pytest.raises(ValueError, match="timeout"):
            sandbox.denials(timeout=-1)
        with pytest.raises(pyisolate.GuestError, match="recv: timeout"):
            sandbox.exec("recv(-1)")


def test_stdin_streams_from_a_pipe(supervisor: SupervisorOf) -> None:
    read, write = os.pipe()
    seen: list[str] = []

    def answer(text: str) -> None:
        seen.append(text)
        if "ready" in text:
            os.write(write, b"now\n")

    try:
        with supervisor.spawn("reader") as sandbox:
            sandbox.exec("print('ready')\nprint(input())", stdin=read, on_stdout=answer)
            assert "".join(seen) == "ready\nnow\n"
            sandbox.exec("print('ready')", stdin=read)  # ends though the pipe stays open
    finally:
        os.close(read)
        os.close(write)


def test_the_guest_gets_a_pipe_and_never_the_hosts_descriptor(supervisor: SupervisorOf) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, supervisor.spawn("reader") as sandbox:
        ours.sendall(b"in")
        ours.shutdown(socket.SHUT_WR)
        assert sandbox.exec("import os, stat; os.read(0, 9), stat.S_ISFIFO(os.fstat(0).st_mode)", stdin=theirs.fileno()
                            ).value == (b"in", True)  # fmt: skip
        with pytest.raises(pyisolate.GuestError):
            sandbox.exec("os.write(0, b'out')", stdin="x")
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_wrong_input_is_refused_before_anything_runs(supervisor: SupervisorOf, isolation: Any) -> None:
    with supervisor.spawn("reader", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        for stdin, kind in ((1.5, TypeError), (True, TypeError), ("\ud83c", ValueError), (1 << 20, OSError)):
            with pytest.raises(kind):
                sandbox.exec("ran = 1", stdin=stdin)
        for argv, error in (("x", TypeError), ([1], TypeError), ([], ValueError), (["\ud83c"], ValueError)):
            with pytest.raises(error):
                sandbox.exec("ran = 1", argv=argv)
        assert sandbox.eval("'ran' in globals()") is False


def test_an_error_of_the_source_is_raised(supervisor: SupervisorOf) -> None:
    class Broken(io.StringIO):
        def read(self, size: int | None = -1, /) -> str:
            raise RuntimeError("the source broke")

    with supervisor.spawn("reader") as sandbox:
        with pytest.raises(RuntimeError, match="the source broke"):
            sandbox.exec(ECHO, stdin=Broken())
        assert sandbox.eval("1") == 1


def test_nothing_of_the_host_stays_after_guests_that_do_not_read(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("reader") as sandbox:
        sandbox.exec("1")
        before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for source in ("1", "import os; os.close(0)", "1"):
            assert sandbox.exec(source, stdin=BIG * 4).exit_code is None
        assert sandbox.exec("input()", stdin="still\n").value == "still"
        for _ in range(300):
            sandbox.exec("1", stdin="x")
        assert len(os.listdir("/proc/self/fd")) < before + 50  # the pool has more, not 300 requests
        assert threading.active_count() == threads
    with supervisor.spawn("killed") as sandbox, pytest.raises(pyisolate.SandboxDied):
        sandbox.exec("import os; os._exit(1)", stdin=BIG * 4)
    assert threading.active_count() <= threads


def test_argv_is_the_sandboxes_or_what_was_given(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("tool") as sandbox:
        assert sandbox.eval("__import__('sys').argv") == ["<tool>"]
        assert sandbox.exec("import sys; sys.argv", argv=["t", Path("in.csv")]).value == ["t", "in.csv"]
        assert sandbox.eval("sys.argv") == ["t", "in.csv"]
        assert sandbox.run_script("import sys; print(sys.argv, input())", filename="s.py", argv=("a",), stdin="in"
                                  ).stdout == "['s.py', 'a'] in\n"  # fmt: skip
    with supervisor.spawn("tool", isolation="thread", limits=WITHOUT_UNHELD) as thread:
        with pytest.raises(ValueError, match="process isolation"):
            thread.exec("1", argv=["t"])
        assert thread.eval("1") == 1


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_an_exit_is_the_requests(supervisor: SupervisorOf, isolation: Any) -> None:
    with supervisor.spawn("leaver", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        assert sandbox.exec("import sys\nprint('bye')\nsys.exit(3)").exit_code == 3
        assert sandbox.exec("1").exit_code is None
        assert [sandbox.exec(f"sys.exit({n})").exit_code for n in (300, -1, 1 << 40)] == [44, 255, 255]
        sandbox.exec("def main():\n    print('out')\n    sys.exit(4)")
        for leave in (lambda: sandbox.call("main"), lambda: sandbox.eval("main()")):
            with pytest.raises(pyisolate.GuestError) as caught:
                leave()
            assert (caught.value.exit_code, caught.value.stdout) == (4, "out\n")
        assert sandbox.eval("1") == 1


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_binary_output_arrives_byte_for_byte(supervisor: SupervisorOf, isolation: Any) -> None:
    write = "import sys\nsys.stdout.buffer.write(bytes(range(256)))\nsys.stdout.flush()\n"
    got = bytearray()
    with supervisor.spawn("binary", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        result = sandbox.exec(write)
        assert result.stdout_bytes == bytes(range(256))
        assert "\\xff" in result.stdout
        assert sandbox.exec("print('é')").stdout_bytes == "é\n".encode()
        sandbox.exec(write, on_stdout=pyisolate.BytesCallback(got.extend))
        assert got == bytes(range(256))
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec(write + "1 / 0")
        assert caught.value.stdout_bytes == bytes(range(256))


def test_tasks_of_asyncio_have_the_same(supervisor: SupervisorOf) -> None:
    async def ask() -> Any:
        async with await supervisor.aspawn("reader") as sandbox:
            return await sandbox.aexec("import sys; (input(), sys.argv)", stdin="a\n", argv=["t"])

    assert asyncio.run(ask()).value == ("a", ["t"])


@pytest.mark.parametrize("options", [[], ["--isolation", "thread"]])
def test_what_is_piped_into_run_is_read(tmp_path: Path, options: list[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\ndata = sys.stdin.buffer.read()\nsys.stdout.buffer.write(data[::-1])")
    held = [word for limit in WITHOUT_UNHELD for word in ("--limit", f"{limit}=none")] if options else []
    data = bytes(range(256)) * 1000
    done = subprocess.run([*COMMAND, *options, *held, str(script)], input=data, capture_output=True, timeout=60)
    assert done.stdout == data[::-1], done.stderr


NAMES = """
import os
given = open('/dev/stdin').read()
with open('/dev/stdout', 'w') as out, open('/dev/stderr', 'a') as err:
    out.write('out'), err.write('err')
reader, writer = os.pipe()
os.write(writer, b'piped')
os.close(writer)
piped = open(f'/dev/fd/{reader}', 'rb').read()
fresh = os.open(f'/dev/fd/{reader}', os.O_RDONLY)
kept = os.get_inheritable(fresh)
errors = []
new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
for name, flags in ((f'/dev/fd/{reader}', os.O_WRONLY), ('/dev/fd/999', 0), ('/dev/stdout', new)):
    try:
        errors.append(os.open(name, flags))
    except OSError as error:
        errors.append(type(error).__name__)
[given, piped, kept, fresh != reader, errors]
"""


def test_a_name_of_a_descriptor_gives_no_right_that_is_not_granted(supervisor: SupervisorOf) -> None:
    again = "import os; os.close(os.open(f'/dev/fd/{os.open(os.__file__, os.O_RDONLY)}', os.%s))"
    with supervisor.spawn("narrow") as sandbox:
        sandbox.exec(again % "O_RDONLY")  # the control
        assert sandbox.get_denial_events() == []
        with pytest.raises(pyisolate.GuestError, match="PermissionError"):
            sandbox.exec(again % "O_WRONLY")
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.kernel_decision) == ("fs.write", "deny")


def test_names_of_descriptors_open_them(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("names") as sandbox:
        result = sandbox.exec(NAMES, stdin="given")
        assert result.value == [
            "given",
            b"piped",
            False,
            True,
            ["PermissionError", "FileNotFoundError", "FileExistsError"],
        ]
        assert (result.stdout, result.stderr) == ("out", "err")
        assert sandbox.get_denial_events() == []
        for name in ("/dev/fd", "/dev/fd/0x", "/dev/fd/0/../../../etc/passwd", "/dev/stdin/x", "/dev/tty"):
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec(f"open({name!r})")
    with supervisor.spawn("native", pyisolate.Policy.preset("compute").allow_native("ctypes")) as sandbox:
        source = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nopened = libc.open(b'/dev/stdin', 0)\n"
        source += "[os.read(opened, 9), libc.open(None, 0), ctypes.get_errno()]"
        assert sandbox.exec(source, stdin="native").value == [b"native", -1, 14]
