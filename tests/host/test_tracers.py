"""What a guest's tracers, profilers and debuggers see: its own code and the library's, as without a sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate import Policy

pytestmark = pytest.mark.usefixtures("kept_supervisor")

#: All that stands in for a function of the library, or is put before one.
WORK = """
def work():
    import colorsys, importlib, importlib.util, json, os, random, shutil, signal, socket, tempfile
    importlib.import_module("wave")
    importlib.util.find_spec("chunk_of_nothing")
    importlib.reload(json)
    __import__("keyword")
    open("x", "w").close()
    os.close(os.open("x", os.O_RDONLY))
    os.chmod("x", 0o600, follow_symlinks=True)
    os.mkfifo("fifo")
    os.urandom(3)
    random.Random(1).seed()
    shutil.which("nonesuch")
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    with socket.socketpair()[0] as one, socket.socketpair()[0]:
        pass
    for refused in (
        lambda: open("/etc/shadow"),
        lambda: __import__("ctypes"),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: socket.socket().connect(("127.0.0.1", 9)),
        lambda: socket.getaddrinfo("localhost", 9),
    ):
        try:
            refused()
        except (OSError, ImportError, RuntimeError):
            pass
    print("text")
"""
TRACE = """
import sys, threading
seen = set()
def trace(frame, event, argument):
    seen.add((frame.f_code.co_filename, frame.f_code.co_name))
    return trace
"""


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor) -> Iterator[pyisolate.Sandbox]:
    with supervisor.spawn("traced", Policy.preset("compute").allow_import("importlib")) as made:
        made.exec(WORK + TRACE)
        yield made


def _seen(sandbox: pyisolate.Sandbox) -> set[str]:
    """Return the names of the functions that were seen, none of this package's."""
    package = os.path.dirname(os.path.abspath(pyisolate.__file__))
    seen = sandbox.eval("list(seen)")
    assert [(name, function) for name, function in seen if package in name] == []
    return {function for _, function in seen}


@pytest.mark.parametrize("setting", ["settrace", "setprofile"])
def test_a_tracer_sees_no_frame_of_this_package(sandbox: pyisolate.Sandbox, setting: str) -> None:
    sandbox.exec(f"sys.{setting}(trace)\nwork()\nsys.{setting}(None)")
    assert {"work", "_find_and_load", "import_module"} <= _seen(sandbox)  # the control
    refused = {(event.capability, event.target) for event in sandbox.get_denial_events()}
    assert {("fs.read", "/etc/shadow"), ("import.module", "ctypes"), ("net.connect", "127.0.0.1:9")} <= refused


def test_one_that_is_left_set_sees_no_request_of_the_runtime(sandbox: pyisolate.Sandbox) -> None:
    sandbox.exec("sys.settrace(trace)")
    assert sandbox.call("str.upper", "a") == "A"
    with pytest.raises(pyisolate.GuestError):
        sandbox.exec("1 / 0")
    sandbox.exec("def later(): pass\nlater()")
    sandbox.exec("threading.excepthook(threading.ExceptHookArgs((ValueError, ValueError(), None, None)))")
    sandbox.exec("sys.settrace(None)")
    assert "later" in _seen(sandbox)


def test_what_displays_a_value_of_the_guests_is_not_seen_and_the_guests_code_is(sandbox: pyisolate.Sandbox) -> None:
    sandbox.exec(
        "class Shown:\n    def _repr_html_(self):\n        return '<b>x</b>'\n"
        "sys.settrace(trace)\npost(1)\ndisplay(Shown())\nsys.settrace(None)"
    )
    assert "_repr_html_" in _seen(sandbox)


def test_a_script_is_covered_and_nothing_else(supervisor: pyisolate.Supervisor) -> None:
    policy = Policy.preset("compute").allow_native("coverage")
    script = (
        "import coverage\ncovered = coverage.Coverage(data_file=None)\ncovered.start()\n"
        f"{WORK}\nwork()\ncovered.stop()\nprint(covered.get_data().measured_files())"
    )
    with supervisor.spawn("covered", policy, files={"job.py": script}) as sandbox:
        assert sandbox.exec("import job").stdout.splitlines() == ["text", "{'/sandbox/workspace/job.py'}"]


def test_a_debugger_steps_over_what_stands_in(supervisor: pyisolate.Supervisor) -> None:
    script = (
        "import io, pdb\n"
        "def f():\n    import colorsys as c, os\n    os.close(os.open('x', os.O_CREAT))\n    print('text')\n"
        "said = io.StringIO()\n"
        "debugger = pdb.Pdb(stdin=io.StringIO('n\\n' + 's\\n' * 3 + 'w\\nc\\n'), stdout=said)\n"
        "debugger.runcall(f)\nprint(said.getvalue())"
    )
    with supervisor.spawn("debugged", Policy.preset("compute")) as sandbox:
        said = sandbox.exec(script).stdout
        assert "pyisolate" not in said
        assert "-> os.close(" in said
        assert "-> print('text')" in said


def test_a_profile_names_what_stands_in_as_the_library_does(supervisor: pyisolate.Supervisor) -> None:
    script = 'import cProfile, os, sys\ncProfile.run(\'os.close(os.open("x", 64)); sys.stdout.write("a")\')'
    with supervisor.spawn("profiled", Policy.preset("compute")) as sandbox:
        said = sandbox.exec(script).stdout
        assert "pyisolate" not in said
        assert "{built-in method posix.open}" in said


def test_what_stands_in_looks_like_what_it_stands_for(sandbox: pyisolate.Sandbox) -> None:
    script = """
import copy, importlib, inspect, os, pickle, shutil
found = []
for one in (__import__, importlib.import_module, importlib.reload, os.open, os.mkfifo, os.chmod, shutil.which):
    found.append((one.__name__, str(inspect.signature(one)), one.__doc__ is not None,
                  pickle.loads(pickle.dumps(one)) is one, copy.copy(one) is one))
found"""
    for name, signature, documented, pickled, copied in sandbox.exec(script).value:
        assert (documented, pickled, copied) == (True, True, True), name
        assert signature.startswith("("), name
    with pytest.raises(pyisolate.GuestError, match=r"import_module\(\) missing 1 required positional argument: 'name'"):
        sandbox.exec("importlib.import_module()")
