"""What a script is shown of its errors and its stack: what the interpreter shows, and nothing of this package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

import pyisolate
from pyisolate.cli.project import chosen_script

pytestmark = pytest.mark.usefixtures("kept_supervisor")

_NAMES = """\
import collections, faulthandler, inspect, sys, traceback, warnings
height = 1
class Box:
    width = 2
def walk():
    traceback.print_stack()
    print([one.function for one in inspect.stack()], sys._getframe(1).f_back)
    warnings.warn('far', stacklevel=9)
    faulthandler.dump_traceback(all_threads=False)
walk()
text = 'a line separator \u2028 is no end of a line'
def chain():
    try: Box().widht
    except AttributeError as error: raise LookupError('box') from error
try: chain()
except LookupError: collections.OrderdDict"""
_ENDS = [
    _NAMES,
    "def f():\n    local_value = 1\n    return lokal_value\nf()",
    "import json\njson.dumps({1, 2})",
    "raise ExceptionGroup('several', [ValueError(1), KeyError('k')])",
    "import sys\nsys.excepthook = lambda kind, error, trace: print('hook', kind.__name__, trace.tb_lineno)\n1 / 0",
    "import sys\ndef hook(*args): raise KeyError('of the hook')\nsys.excepthook = hook\n1 / 0",
]


def _plain(path: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", str(path)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1
    return done.stdout, done.stderr


@pytest.mark.once
@pytest.mark.parametrize("source", _ENDS)
def test_a_script_ends_as_the_interpreter_ends_it(
    supervisor: pyisolate.Supervisor, tmp_path: Path, source: str
) -> None:
    path = tmp_path / "prog.py"
    path.write_text(source, encoding="utf-8")
    stdout, stderr = _plain(path)
    with supervisor.spawn("prog") as sandbox, pytest.raises(pyisolate.GuestError) as caught:
        sandbox.run_script(source, filename=str(path))
    error = caught.value
    assert error.stdout == stdout
    written = error.stderr if error.shown else error.stderr + error.traceback
    assert re.sub("0x[0-9a-f]+", "0x", written) == re.sub("0x[0-9a-f]+", "0x", stderr)
    assert error.shown == ("excepthook" in source)


def test_every_request_is_the_outermost_of_its_frames(supervisor: pyisolate.Supervisor) -> None:
    depth = "import sys\ndef depth():\n    at, count = sys._getframe(), 0\n"
    depth += "    while at: at, count = at.f_back, count + 1\n    return count"
    with supervisor.spawn("frames") as sandbox:
        sandbox.exec(depth)
        assert (sandbox.call("depth"), sandbox.eval("depth()"), sandbox.exec("depth()").value) == (1, 2, 2)
        assert sandbox.exec("import asyncio\nasync def main(): return depth()\nawait main()").value > 2
        sandbox.exec("def deepest(n=1):\n    try: return deepest(n + 1)\n    except RecursionError: return n")
        for limit in (1000, 300, 2000):  # every call counts as one, and the builtin that runs an exec's code
            sandbox.exec(f"sys.setrecursionlimit({limit})")
            assert limit - 3 <= sandbox.exec("deepest()").value <= sandbox.call("deepest") <= limit
        assert sandbox.call("depth") == 1
        for limit in (12, 5):  # below what the runtime has under it
            sandbox.exec(f"sys.setrecursionlimit({limit})")
            assert sandbox.call("deepest") <= limit
            assert sandbox.eval("sys.getrecursionlimit()") == limit
        sandbox.exec("sys.setrecursionlimit(1000)")
        assert sandbox.exec("deepest()").value >= 997


def test_what_looks_at_its_caller_may_be_called_by_name(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("callers") as sandbox:
        sandbox.call("exec", "height = 1\ndef walk(): import sys; return sys._getframe().f_back")
        assert sandbox.call("eval", "height + 1") == 2
        assert sandbox.call("walk") is None
        assert "height" in sandbox.call("globals")
        assert isinstance(sandbox.call("dir"), list)
        assert sandbox.call("collections.namedtuple", "Box", "width") is not None
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.call("int", "x")
        assert "File" not in caught.value.traceback


def test_a_module_that_cannot_be_run_is_named_in_a_line(supervisor: pyisolate.Supervisor) -> None:
    """`-m` says what the interpreter says; one that is not granted is a refusal, as `import` of it is."""

    def module(name: str) -> pyisolate.Result:
        script = chosen_script((), None, name)
        return sandbox.run_script(script.source, filename=script.filename)

    with supervisor.spawn("module") as sandbox:
        result = module("json")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert result.stderr.endswith(
            ": No module named json.__main__; 'json' is a package and cannot be directly executed\n"
        )
        with pytest.raises(pyisolate.PolicyError) as caught:
            module("no_such_module")
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.target == "no_such_module"
        assert sandbox.stats.denials == 1


_LIARS = """
class Named(Exception):
    __class__ = OSError
class Failing(OSError):
    errno = property(lambda self: 1 / 0)
class Number(int):
    __index__ = __int__ = __abs__ = lambda self: 1 / 0
"""


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_an_exception_that_is_not_what_it_says_is_an_error_of_its_request_alone(
    supervisor: pyisolate.Supervisor, isolation: Literal["process", "thread"]
) -> None:
    with supervisor.spawn("liars", isolation=isolation, enforcement="best_effort") as sandbox:
        sandbox.exec(_LIARS)
        for made in (
            "Named('x')",
            "Failing(3, 'x')",
            "OSError(Number(5), 'x')",
            "OSError(1 << 99, 'x')",
            "OSError('a', 'b')",
        ):
            with pytest.raises(pyisolate.GuestError) as caught:
                sandbox.exec(f"raise {made}")
            assert caught.value.type_name == made.partition("(")[0]
        assert sandbox.eval("1 + 1") == 2
