"""What an uncaught error of the guest stands for: the refusal that made it, and no other one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate

pytestmark = pytest.mark.usefixtures("kept_supervisor")


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A directory that the guest may read, and one beside it that it may not see."""
    here = Path(tempfile.mkdtemp(prefix="pyisolate-errors-", dir="/var/tmp"))
    here.chmod(0o755)
    (here / "readable").mkdir()
    (here / "hidden").mkdir()
    for name in ("readable/file", "hidden/file"):
        (here / name).write_text("<a/>")
    yield here
    shutil.rmtree(here)


@pytest.fixture(scope="module", autouse=True)
def warmed(kept_supervisor: pyisolate.Supervisor, ground: Path) -> None:
    """The cells of the host's network have a zygote of their own, which stays."""
    with kept_supervisor.spawn("errors", policy(ground)):
        pass


def policy(ground: Path) -> pyisolate.Policy:
    granted = pyisolate.Policy.preset("compute").allow_read(ground / "readable")
    return granted.allow_connect("127.0.0.1:9").allow_import("_posixsubprocess")


#: guest code -> capability and target of the one refusal that its error stands for
STAND_FOR = {
    "a library's error in place of a refused bind": (
        "import socket; socket.create_server(('127.0.0.1', 1027))", "net.bind", "127.0.0.1:1027"),
    "the same, of asyncio": (
        "import asyncio\nasync def main(): await asyncio.start_server(print, '127.0.0.1', 1027)\nasyncio.run(main())",
        "net.bind", "127.0.0.1:1027"),
    "urllib's URLError": (
        "import urllib.request; urllib.request.urlopen('http://10.1.2.3/')", "net.connect", "10.1.2.3:80"),
    "a read-only mount, by a directory's descriptor": (
        "import os; os.mkdir('new', dir_fd=os.open('{ground}/readable', 0))", "fs.create", "{ground}/readable/new"),
    "one mount and another, by their descriptors": (
        "import os; here, there = os.open('{ground}/readable', 0), os.open('/sandbox/workspace', 0)\n"
        "os.rename('file', 'moved', src_dir_fd=here, dst_dir_fd=there)",
        "fs.delete", "{ground}/readable/file"),
    "a host name that a datagram is sent to": (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('host.example', 53))",
        "net.connect", "host.example:53"),
    "the name of a port": ("import socket; socket.getservbyname('http')", "fs.read", "/etc/services"),
    "a temporary file elsewhere": (
        "import tempfile; tempfile.NamedTemporaryFile(dir='{ground}/readable')", "fs.create", "{ground}/readable/tmp*"),
    "a priority, by the C library's other errno": ("import os; os.nice(-1)", "kernel.capability", "setpriority(0)"),
    "an option, of a socket that was let through": (
        "import socket; made = socket.socket()\nmade.setsockopt(1, 25, b'lo')",
        "net.socket", "setsockopt(level 1, option 25)"),
    "a priority, after a signal that was let through": (
        "import os; os.kill(os.getpid(), 0)\nos.nice(-5)", "kernel.capability", "setpriority(0)"),
    "a database": (
        "import sqlite3; sqlite3.connect('{ground}/readable/new.db')", "fs.create", "{ground}/readable/new.db"),
    "a bit that no policy grants, in the workspace": (
        "import os; open('new', 'w').close(); os.symlink('new', 'link'); os.chmod('link', 0o4755)",
        "fs.metadata", "/sandbox/workspace/new"),
    "a mode, by an open file": (
        "import os\nwith open('{ground}/readable/file') as file: os.fchmod(file.fileno(), 0o600)",
        "fs.metadata", "{ground}/readable/file"),
    "a mode, by a file that was opened long ago": (
        "import os\nfirst = open('{ground}/readable/file')\nfor _ in range(100): open('/dev/null').close()\n"
        "os.fchmod(first.fileno(), 0o600)",
        "fs.metadata", "{ground}/readable/file"),
    "an attribute, by an open file": (
        "import os\nwith open('{ground}/readable/file') as file: os.setxattr(file.fileno(), 'user.x', b'y')",
        "fs.metadata", "{ground}/readable/file"),
    "a pipe's size": (
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 1 << 20)",
        "limit.memory", "fcntl(command 1031)"),
    "a program": ("import subprocess; subprocess.run(['/usr/bin/id'])", "process.exec", "/usr/bin/id"),
}  # fmt: skip


@pytest.mark.parametrize("case", STAND_FOR)
def test_an_error_stands_for_the_one_refusal_that_made_it(
    supervisor: pyisolate.Supervisor, ground: Path, case: str
) -> None:
    source, capability, target = STAND_FOR[case]
    with supervisor.spawn("errors", policy(ground)) as sandbox:
        with pytest.raises(pyisolate.PolicyError) as raised:
            sandbox.exec(source.format(ground=ground))
        events = [event for event in sandbox.get_denial_events() if event.capability != "fs.lookup"]
        (event,) = events
        assert (event.capability, event.count) == (capability, 1)
        assert Path(event.target).match(target.format(ground=ground))
        assert raised.value.denial_event is not None
        assert raised.value.denial_event.event_id == event.event_id


#: What another call met after a refusal that the guest caught.
ANOTHER = {
    "a file that is absent": ("os.stat('{ground}/readable/none')", "FileNotFoundError"),
    "a name that is taken": ("os.mkdir('/sandbox/workspace')", "FileExistsError"),
    "an error without a name": ("os.close(999)", "OSError"),
    "an error of the guest's own": ("raise PermissionError(13, 'mine', '{ground}/hidden/file')", "PermissionError"),
}


@pytest.mark.parametrize("case", ANOTHER)
def test_a_refusal_that_was_caught_is_not_blamed_for_another_error(
    supervisor: pyisolate.Supervisor, ground: Path, case: str
) -> None:
    then, kind = ANOTHER[case]
    caught = "import os\ntry: open('{ground}/hidden/file')\nexcept OSError: pass\n" + then
    with supervisor.spawn("errors", policy(ground)) as sandbox:
        with pytest.raises(pyisolate.GuestError) as raised:
            sandbox.exec(caught.format(ground=ground))
        assert raised.value.type_name == kind
        (event,) = raised.value.denials
        assert event.event_id == sandbox.get_denial_events()[0].event_id


def test_a_signal_to_a_number_that_is_nobodys_is_no_drift(supervisor: pyisolate.Supervisor, ground: Path) -> None:
    with supervisor.spawn("errors", policy(ground)) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="No such process"):
            sandbox.exec("import os; os.kill(4242, 9)")
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.code, event.count) == ("process.signal", "ALWAYS_DENIED", 1)
        assert (event.broker_decision, event.kernel_decision) == ("unavailable", "deny")
        sandbox.exec("import os; os.kill(os.getpid(), 0)")  # the control: one that is the sandbox's own
        assert sandbox.stats.denials == 1


def test_repeats_bear_the_id_that_the_store_has(supervisor: pyisolate.Supervisor, ground: Path) -> None:
    read = "sqlite3.connect('file:/etc/shadow?mode=ro', uri=True).execute('x')"
    twice = f"import sqlite3\nfor i in range(2):\n    try: {read}\n"
    with supervisor.spawn("errors", policy(ground)) as sandbox:
        result = sandbox.exec(twice + "    except sqlite3.OperationalError: pass")
        stored = {event.event_id: event.count for event in sandbox.get_denial_events()}
        assert {event.event_id: event.count for event in result.denials} == stored
        assert 2 in stored.values()
        # and an error of the library's own says what it was refused
        with pytest.raises(pyisolate.GuestError, match=r"it was refused fs\.read on /etc/shadow"):
            sandbox.exec(read)
