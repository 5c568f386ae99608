"""What an ordinary program does and is not refused leaves no event."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import pytest

import pyisolate
from pyisolate.telemetry.alerts import default_rules
from pyisolate.testing import assert_allowed, assert_denied
from tests.foreign_functions import with_ctypes

pytestmark = pytest.mark.usefixtures("kept_supervisor")


ORDINARY = [
    "open('/dev/null').close()",
    "open('/dev/null', 'w').write('x')",
    "import sys; (sys.stdout.isatty(), sys.stdin.isatty())",
    "import threading; t = threading.Thread(target=print); t.start(); t.join()",
    "try:\n    raise ValueError(1)\nexcept ValueError:\n    import traceback; traceback.format_exc()",
    "import json, csv, re, datetime, decimal; json.dumps({'a': 1})",
    "import multiprocessing.connection",  # it looks for _winapi, a module of the library that is not there
    "import os; (os.getpid(), os.getcwd(), os.path.exists('/dev/null'))",
    "import os; assert os.cpu_count() >= 1",
    "import platform; (platform.platform(), platform.uname(), platform.processor(), platform.architecture())",
    "import uuid; assert uuid.uuid1().node == uuid.getnode() and uuid.getnode() >> 40 & 1",  # a random one
    "import zoneinfo; (zoneinfo.ZoneInfo('Europe/Berlin'), zoneinfo.available_timezones())",
    "import locale, time, calendar; (locale.setlocale(locale.LC_ALL, ''), time.localtime(), calendar.month(2024, 1))",
    "import tempfile; tempfile.TemporaryFile().write(b'x'); tempfile.mkdtemp()",
    "import getpass, pathlib; (getpass.getuser(), pathlib.Path.home())",
    "import logging, warnings; logging.warning('x'); warnings.warn('x')",
    "import concurrent.futures as f\nwith f.ThreadPoolExecutor() as pool: assert list(pool.map(abs, [-1])) == [1]",
    "import asyncio; assert asyncio.run(asyncio.to_thread(abs, -1)) == 1",
    "import sqlite3; sqlite3.connect(':memory:').execute('create table a(b)')",
    "import hashlib, random, secrets, decimal; [hashlib.new(name) for name in hashlib.algorithms_guaranteed]",
    "import doctest, unittest, code, cmd, pdb, pydoc; pydoc.render_doc(abs)",
    "import mimetypes; mimetypes.guess_type('a.txt')",
    "import traceback\ntry: int('x')\nexcept ValueError: traceback.print_exc()",
    "import shutil; shutil.which('no-such-program')",
    "import socket; assert not socket.has_ipv6 and not socket.has_dualstack_ipv6()",
    "import builtins; vars(builtins)",
    "import ssl; ssl.create_default_context(); ssl.get_default_verify_paths()",
    "import inspect, json; inspect.getsource(json)",
    "import ctypes.util as u; u.find_library('c'); u.find_library('nothing')",
    "import os\ntry: os.getlogin()\nexcept OSError: pass",
    "import platform\ntry: platform.freedesktop_os_release()\nexcept OSError: pass",
    "import shutil, tempfile; a = tempfile.mkdtemp(); open(a + '/x', 'w'); shutil.make_archive(a + 'b', 'gztar', a)",
    "import socket; socket.getnameinfo(('10.1.2.3', 80), 0)",
    "import importlib.metadata as m\ntry: m.version('nothing')\nexcept m.PackageNotFoundError: pass",
]


def test_the_line_of_a_syntax_error_is_looked_for_by_the_interpreter_alone(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    file = str(place / "data")
    with supervisor.spawn("line", with_ctypes()) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="SyntaxError"):
            sandbox.exec(f"compile('(', {file!r}, 'exec')")
        assert sandbox.get_denial_events() == []
        sandbox.exec(f"import ctypes; assert not ctypes.CDLL(None).fopen({file.encode()!r}, b'rb')")  # the control
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target) == ("fs.read", file)


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize("raises", ["(", "1/0", "def f(): 1/0\nf()"])
def test_the_line_of_an_uncaught_error_is_looked_for_in_no_file_that_is_not_granted(
    supervisor: pyisolate.Supervisor, place: Path, mode: pyisolate.Mode, raises: str
) -> None:
    file = place / "data"
    file.write_text("the line\n" * 3)
    file.chmod(0o644)
    with supervisor.spawn("line", with_ctypes(), mode=mode) as sandbox:
        with pytest.raises(pyisolate.GuestError, match=r"SyntaxError|ZeroDivisionError") as caught:
            sandbox.exec(f"exec(compile({raises!r}, {str(file)!r}, 'exec'))")
        assert "the line" not in str(caught.value.traceback)
        assert sandbox.get_denial_events() == []
        sandbox.exec(f"import linecache; linecache.getline({str(file)!r}, 1)")  # the control: the guest's own look
        assert {event.target for event in sandbox.get_denial_events()} == {str(file)}
    with supervisor.spawn("line", with_ctypes().allow_read(place), mode=mode) as sandbox:
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec(f"exec(compile({raises!r}, {str(file)!r}, 'exec'))")
        assert "the line" in str(caught.value.traceback) or raises == "(", "of what is granted it is shown"
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("source", ORDINARY)
def test_an_ordinary_operation_leaves_no_event(supervisor: pyisolate.Supervisor, source: str) -> None:
    with supervisor.spawn("ordinary", with_ctypes()) as sandbox:
        sandbox.exec(source)
        assert sandbox.get_denial_events() == []
        assert sandbox.stats.denials == 0
        # the control: the same sandbox does record a refusal
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")
        assert sandbox.stats.denials == 1


@pytest.mark.parametrize(
    "source",
    [
        "import curses\ntry: curses.setupterm('xterm')\nexcept curses.error: pass",
        "import readline",
        "import ssl; ssl.create_default_context()",
    ],
)
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_what_libraries_only_try_leaves_no_event_in_either_mode(
    supervisor: pyisolate.Supervisor, source: str, mode: Literal["enforce", "monitor"]
) -> None:
    with supervisor.spawn("tries", pyisolate.Policy.preset("compute"), mode=mode) as sandbox:
        sandbox.exec(source)
        assert sandbox.get_denial_events() == []
        with contextlib.suppress(pyisolate.PolicyError):  # the control
            sandbox.exec("open('/etc/passwd').close()")
        assert [event.target for event in sandbox.get_denial_events()] == ["/etc/passwd"]


def test_no_name_that_pty_only_tries_leaves_an_event(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("terminal", pyisolate.Policy.preset("compute").allow_import("pty", "tty")) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="out of pty devices"):
            sandbox.exec("import pty; pty.openpty()")
        assert [event.target for event in sandbox.get_denial_events()] == ["/dev/ptmx"]  # what openpty(3) was refused
        with pytest.raises(pyisolate.PolicyError):  # the control
            sandbox.exec("open('/dev/ptyp0')")


@pytest.mark.parametrize(
    ("source", "file"), [("pwd.getpwuid(os.getuid())", "/etc/passwd"), ("grp.getgrnam('root')", "/etc/group")]
)
def test_a_look_up_of_a_user_is_one_event_and_finds_nobody(
    supervisor: pyisolate.Supervisor, source: str, file: str
) -> None:
    guest = f"import os, pwd, grp\ntry:\n    found = {source}\nexcept KeyError:\n    found = None\nfound"
    with supervisor.spawn("ordinary") as sandbox:
        assert sandbox.exec(guest).value is None
        assert [(e.capability, e.target, e.count) for e in sandbox.get_denial_events()] == [("fs.read", file, 1)]
    granted = pyisolate.Policy.preset("compute").allow_read(file).allow_read("/etc/nsswitch.conf")
    with supervisor.spawn("ordinary", granted) as sandbox:  # the control
        assert "root" in sandbox.exec("import os, pwd, grp\n" + source.replace("os.getuid()", "0") + "[0]").value


def test_ipv6_is_there_where_it_can_be_bound(supervisor: pyisolate.Supervisor) -> None:
    source = "import socket, _socket; (socket.has_ipv6, _socket.has_ipv6)"
    for granted, expected in (("127.0.0.1:0", False), ("[::1]:0", True)):
        policy = pyisolate.Policy.preset("compute").allow_bind(granted).allow_import("_socket")
        with supervisor.spawn("ordinary", policy) as sandbox:
            assert sandbox.exec(source).value == (expected, expected)


def test_platform_runs_a_program_where_that_is_granted(supervisor: pyisolate.Supervisor) -> None:
    granted = pyisolate.Policy.preset("compute").allow_exec("/usr/bin/uname").allow_fork()
    with supervisor.spawn("ordinary", granted) as sandbox:
        sandbox.exec("import platform, os; os.environ['PATH'] = '/usr/bin'; platform.processor()")
        assert sandbox.get_denial_events() == []
        ran = "import subprocess; subprocess.check_output(['/usr/bin/uname', '-p'], text=True).strip()"
        assert sandbox.exec("platform.processor()").value == sandbox.exec(ran).value.replace("unknown", "")


def test_a_granted_package_without_bytecode_is_imported_without_an_event(supervisor: pyisolate.Supervisor) -> None:
    """Python would write `__pycache__` beside its source, which may only be read."""
    folder = Path(tempfile.mkdtemp(prefix="pyisolate-packages-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "pkg").mkdir()
        (folder / "pkg" / "__init__.py").write_text("from . import one\n")
        (folder / "pkg" / "one.py").write_text("x = 1\n")
        policy = pyisolate.Policy.preset("compute").allow_read(folder).allow_import("pkg")
        with supervisor.spawn("ordinary", policy) as sandbox:
            sandbox.exec(f"import sys; sys.path.insert(0, {str(folder)!r})\nimport pkg")
            assert sandbox.get_denial_events() == []
        assert not (folder / "pkg" / "__pycache__").exists()
    finally:
        shutil.rmtree(folder)


LOOKS = "import os; (os.path.exists('/etc/passwd'), os.access('/etc/passwd', os.R_OK), os.path.isdir('/nowhere'))"


def test_a_look_up_is_an_event_where_there_is_something_and_the_report_says_so(
    supervisor: pyisolate.Supervisor,
) -> None:
    with supervisor.spawn("ordinary") as sandbox:
        (line,) = (one for one in sandbox.enforcement.capabilities if one.capability == "fs.lookup")
        if "root view" not in line.enforcers:
            pytest.skip("BPF-LSM sees look-ups, and records them")
        assert sandbox.exec(LOOKS).value == (False, False, False)
        (event,) = sandbox.get_denial_events()  # none of /nowhere: there is nothing
        assert (event.capability, event.target, event.count) == ("fs.lookup", "/etc/passwd", 2)
        assert (event.kernel_enforcer, event.broker_decision) == ("root view", "not_consulted")
        assert event.suggestion == {"fs": [{"path": "/etc/passwd", "allow": ["read"]}]}
    granted = pyisolate.Policy.preset("compute").allow_read("/etc/passwd")
    with supervisor.spawn("ordinary", granted) as sandbox:  # the control
        assert sandbox.exec(LOOKS).value == (True, True, False)
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize(
    "source",
    [
        "os.stat('/etc/passwd')",
        "os.chdir('/etc/ssl')",
        "if not os.path.exists('/etc/passwd'): raise FileNotFoundError('no users here')",
    ],
)
def test_a_missing_file_that_is_only_not_granted_is_explained(supervisor: pyisolate.Supervisor, source: str) -> None:
    with supervisor.spawn("ordinary") as sandbox:
        with pytest.raises(pyisolate.GuestError) as raised:
            sandbox.exec("import os\n" + source)
        (event,) = raised.value.denials
        assert event.capability == "fs.lookup"
        assert f"{event.target} exists, and the policy does not grant it" in str(raised.value)
        # the control: what is not there is not explained away
        with pytest.raises(pyisolate.GuestError) as raised:
            sandbox.exec("os.stat('/nowhere')")
        assert raised.value.denials == ()
        assert "exists" not in str(raised.value)


def test_look_ups_are_no_denials_to_tests_and_alerts(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("ordinary") as sandbox:
        assert_allowed(sandbox, LOOKS)
        event = assert_denied(sandbox, LOOKS, capability="fs.lookup")
        with pytest.raises(AssertionError):
            assert_denied(sandbox, LOOKS)
    for rule in default_rules():
        watched = rule.match.get("capability")
        assert rule.signal == "lost" or "disagree" in rule.match or (watched and event.capability not in watched)


def test_a_flood_of_look_ups_holds_nobody_up_and_loses_no_refusal(supervisor: pyisolate.Supervisor) -> None:
    flood = "import os\nfor i in range(3000): os.path.exists('/etc/passwd'); os.path.exists(f'/nowhere/{i}')"
    with supervisor.spawn("ordinary") as sandbox:
        sandbox.exec(flood)
        assert {event.target for event in sandbox.get_denial_events()} == {"/etc/passwd"}
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")
        counts = {event.target: event.count for event in sandbox.get_denial_events()}
        assert counts.keys() == {"/etc/passwd", "/etc/shadow"}
        assert counts["/etc/shadow"] == 1
        # look-ups that find no place are in a count: any of them could have been an event
        assert counts["/etc/passwd"] + sandbox.stats.events_lost >= 3000


def test_a_source_file_that_is_granted_alone_is_loaded_without_an_event(supervisor: pyisolate.Supervisor) -> None:
    with tempfile.NamedTemporaryFile(suffix=".py", dir="/var/tmp") as file:
        file.write(b"x = 1")
        file.flush()
        Path(file.name).chmod(0o644)
        load = f"import importlib.machinery as m; m.SourceFileLoader('mod', {file.name!r}).load_module().x"
        with supervisor.spawn("ordinary", pyisolate.Policy.preset("compute").allow_read(file.name)) as sandbox:
            assert sandbox.exec(load).value == 1
            assert sandbox.get_denial_events() == []
        with supervisor.spawn("ordinary") as sandbox, pytest.raises(pyisolate.PolicyError):  # the control
            sandbox.exec(load)


PROBED = ("/proc/self/maps", "/proc/self/mounts", "/proc/meminfo")


def test_what_native_code_reads_of_its_task_is_refused_and_left_out_unless_all_is_wanted() -> None:
    native = "import ctypes; [ctypes.CDLL(None).open(path.encode(), 0) for path in " + repr(PROBED) + "]"
    policy = pyisolate.Policy.preset("compute").allow_native("ctypes", "_ctypes")
    for telemetry, seen in (("default", set()), ("full", set(PROBED))):
        with pyisolate.Supervisor(pool_size=1, telemetry=telemetry) as made, made.spawn("ordinary", policy) as sandbox:
            assert sandbox.exec(native).value == [-1] * len(PROBED)
            assert {event.target for event in sandbox.get_denial_events()} == seen
            with pytest.raises(pyisolate.PolicyError):  # the control: by Python it is an event
                sandbox.exec(f"open({PROBED[0]!r})")


def test_a_shell_and_what_it_runs_leave_no_event(supervisor: pyisolate.Supervisor) -> None:
    script = "id; ls; cp -p /dev/null x; df . > y; sort y | xargs echo"
    ran = f"import subprocess; subprocess.run(['bash', '-lc', {script!r}], check=True)"
    with supervisor.spawn("ordinary", pyisolate.Policy.preset("shell")) as sandbox:
        sandbox.exec(ran)
        assert sandbox.get_denial_events() == []
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")


def test_a_callback_without_executable_memory_is_no_limit_of_memory(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").allow_native("ctypes", "_ctypes")
    with supervisor.spawn("ordinary", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as raised:
        sandbox.exec("import ctypes; ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)")
    assert raised.value.denial_event is not None
    assert raised.value.denial_event.capability == "memory.exec"
