"""Code as people write it, and that nothing of it is lost."""

from __future__ import annotations

import ast
import errno
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from tests.thread_limits import WITHOUT_UNHELD

pytestmark = pytest.mark.usefixtures("kept_supervisor")


SupervisorOf = pyisolate.Supervisor


def test_code_of_a_notebook_runs(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("nb") as sandbox:
        assert sandbox.exec("import asyncio\nasync def f(): return 7\nawait f()").value == 7
        assert sandbox.exec("async with asyncio.timeout(5):\n    x = await f()\nx").value == 7
        assert sandbox.exec("_ + 1").value == 8
        assert sandbox.eval("await f()") == 7
        assert sandbox.eval("__import__('sys').argv") == ["<nb>"]
        assert sandbox.eval("__import__('getpass').getuser()")
        sandbox.exec("def first():\n    return 1 / 0")
        sandbox.exec("def second():\n    return first()")
        assert "1 / 0" in sandbox.eval("__import__('inspect').getsource(first)")
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec("second()")
        for line in ("return 1 / 0", "return first()", "second()"):
            assert line in caught.value.traceback


def test_calls_and_expressions_are_taken_as_plain_python_takes_them(supervisor: SupervisorOf) -> None:
    async def twice(number: int) -> int:
        return 2 * number

    with supervisor.spawn("calls") as sandbox:
        sandbox.exec("async def own(n): return n + 1")
        assert (sandbox.call("own", 1), sandbox.call(twice, 2), sandbox.eval("  1 + 1 ")) == (2, 4, 2)
        assert (sandbox.call("str.upper", "a"), sandbox.call("math.sqrt", 4)) == ("A", 2)
        for source, kind in (("nowhere", "NameError"), ("nowhere.f", "ModuleNotFoundError")):
            with pytest.raises(pyisolate.GuestError) as caught:
                sandbox.call(source)
            assert caught.value.type_name == kind
        with pytest.raises(pyisolate.GuestError, match="unexpected indent"):
            sandbox.exec("  1 + 1")


def test_standard_streams_are_named_as_the_interpreter_names_them(supervisor: SupervisorOf) -> None:
    named = "import sys\n[(one.name, one.mode, one.fileno()) for one in (sys.stdin, sys.stdout, sys.stderr)]"
    expected = [("<stdin>", "r", 0), ("<stdout>", "w", 1), ("<stderr>", "w", 2)]
    with supervisor.spawn("streams") as sandbox:
        for given in (None, "text"):
            assert sandbox.exec(named, stdin=given).value == expected


def test_tasks_go_on_in_the_next_cell_that_awaits(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("nb") as sandbox:
        sandbox.exec("import asyncio\nasync def f(n):\n    await asyncio.sleep(0.001)\n    return n")
        sandbox.exec("task = asyncio.create_task(f(1))")
        assert sandbox.exec("await task").value == 1
        assert sandbox.exec("many = [asyncio.ensure_future(f(n)) for n in range(3)]\nawait asyncio.gather(*many)"
                            ).value == [0, 1, 2]  # fmt: skip
        assert sandbox.exec("asyncio.run(f(3))").value == 3
        own = "loop = asyncio.new_event_loop()\ntask = loop.create_task(f(4))\nloop.run_until_complete(task)"
        assert sandbox.exec(own).value == 4
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec("await f(1 / 0)")
        assert ".py" not in caught.value.traceback


def test_a_syntax_error_shows_the_guests_lines_only(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("cell") as sandbox:
        for run in (sandbox.exec, sandbox.eval):
            with pytest.raises(pyisolate.GuestError) as caught:
                run("x = 1\ndef g(:\n    pass")
            assert caught.value.traceback.count("SyntaxError") == 1
            assert ".py" not in caught.value.traceback
            assert 'File "<cell' in caught.value.traceback


def test_a_syntax_error_reads_a_line_of_a_file_only_where_there_is_one(supervisor: SupervisorOf) -> None:
    """CPython looks for the line in a file of that name: not in sight, that is no refusal; a denied name is one."""
    show = "try: compile('x y', {!r}, 'exec')\nexcept SyntaxError: pass"
    policy = pyisolate.Policy.preset("compute").allow_read("/etc").deny_read("/etc/passwd")
    with supervisor.spawn("typo", policy) as sandbox:
        with pytest.raises(pyisolate.GuestError):
            sandbox.exec("def g(:\n    pass")
        for name in ("<unknown>", "/nowhere/module.py"):
            sandbox.exec(show.format(name))
        assert sandbox.get_denial_events() == []
        sandbox.exec(show.format("/etc/passwd"))
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target) == ("fs.read", "/etc/passwd")


@pytest.mark.parametrize("end", ["while True: pass", "import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_what_was_written_is_on_the_error(supervisor: SupervisorOf, end: str) -> None:
    with supervisor.spawn("kept") as sandbox, pytest.raises(pyisolate.SandboxError) as caught:
        sandbox.exec(f"print('kept')\nprint('piece', end='')\n{end}", timeout=1)
    assert caught.value.stdout.startswith("kept\n")
    assert caught.value.stdout == "kept\npiece" or "os._exit" not in end


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_an_error_of_a_callback_is_raised_and_ends_the_sandbox(supervisor: SupervisorOf, isolation: Any) -> None:
    def gone(text: str) -> None:
        raise ConnectionError(f"nobody takes {text!r}")

    with supervisor.spawn("reader", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        assert sandbox.exec("print('a')", on_stdout=lambda text: None).stdout == "a\n"  # the control
        with pytest.raises(ConnectionError, match="nobody takes"):
            sandbox.exec("print('a')", on_stdout=gone)
        assert sandbox.closed


def test_files_left_open_are_written_out(supervisor: SupervisorOf, tmp_path: Path) -> None:
    shared_path = tmp_path / "shared"
    shared_path.mkdir()
    for path in (shared_path, *list(tmp_path.parents)[:2], tmp_path):
        path.chmod(0o777 if path == shared_path else 0o755)
    policy = pyisolate.Policy.preset("compute").allow_read(str(shared_path)).allow_write(str(shared_path))
    with supervisor.spawn("files", policy) as sandbox:
        sandbox.exec(f"f = open({str(shared_path / 'a')!r}, 'w'); f.write('text')")
    assert (shared_path / "a").read_text() == "text"
    with supervisor.spawn("script", policy) as sandbox:
        sandbox.run_script(
            "import atexit, threading, time\n"
            f"f = open({str(shared_path / 'b')!r}, 'w')\n"
            "threading.Thread(target=lambda: (time.sleep(0.2), f.write('thread '))).start()\n"
            "atexit.register(lambda: f.write('atexit'))\n",
            filename="s.py",
        )
    assert (shared_path / "b").read_text() == "thread atexit"


def test_a_request_that_opened_nothing_does_not_look_for_open_files(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("looks") as sandbox:
        sandbox.exec(
            "import gc\nlooks, get = [], gc.get_objects\ngc.get_objects = lambda *args: looks.append(1) or get(*args)"
        )
        assert sandbox.eval("len(looks)") == 0
        sandbox.exec("import os\nkept = os.pipe()")  # the control
        assert sandbox.eval("len(looks)") > 0


def test_values_arrive_as_they_are_by_every_way(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("values") as sandbox:
        sandbox.exec("def same(value): return value")
        for value in (2**70, (1, {2}), b"x", "\ud83c"):
            assert sandbox.call("same", value) == value
            sandbox.post(value)
            assert sandbox.exec("got = recv(5)\npost(got)\ngot").value == value
            found = sandbox.recv(5)
            assert (found, type(found)) == (value, type(value))
        with pytest.raises(TypeError):
            sandbox.post(object())
        assert sandbox.eval("1") == 1


def test_a_refusal_is_an_oserror_as_programs_expect(supervisor: SupervisorOf) -> None:
    source = "try:\n    open('/etc/shadow')\nexcept OSError as e:\n    seen = e.errno, e.strerror, e.filename\n"
    with supervisor.spawn("errno") as sandbox:
        assert sandbox.exec(source + "seen").value == (13, "Permission denied", "/etc/shadow")
        with pytest.raises(pyisolate.PolicyError, match=r"^fs\.read, on /etc/shadow"):
            sandbox.exec("open('/etc/shadow')")


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_refused_import_is_an_import_error(supervisor: SupervisorOf, isolation: Any) -> None:
    source = "try:\n    import {0}\nexcept ImportError as e:\n    seen = type(e).__name__, e.name, e.errno\nseen"
    with supervisor.spawn("imports", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        assert sandbox.exec(source.format("yaml")).value == ("RefusedImport", "yaml", 13)
        assert sandbox.exec("try: import yaml\nexcept ModuleNotFoundError as e: seen = e.name\nseen").value == "yaml"
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec("import yaml")
        assert (caught.value.denial_event.capability, caught.value.denial_event.target) == ("import.module", "yaml")
        assert {event.target for event in sandbox.get_denial_events()} == {"yaml"}
        assert sandbox.stats.denials == 3


def test_a_program_that_is_refused_and_out_of_sight_is_absent(supervisor: SupervisorOf) -> None:
    tried = "import subprocess\ntry: subprocess.run(['git'])\nexcept FileNotFoundError as e: print(e.denial_event.code)"
    with supervisor.spawn("without", pyisolate.Policy.preset("compute")) as sandbox:
        result = sandbox.exec(tried)
        assert (result.stdout, len(result.denials)) == ("NOT_GRANTED\n", 1)
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("subprocess.run(['git'])")


def test_input_and_pdb_are_as_in_the_interpreter(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("pdb", pyisolate.Policy.preset("compute")) as sandbox:
        assert sandbox.exec("repr(input())", stdin="a\r\n").value == "'a\\r'"
        assert sandbox.exec("exit(3)").exit_code == 3  # closes sys.stdin
        with pytest.raises(pyisolate.GuestError, match="EOFError"):
            sandbox.exec("input()")
        source = "value = 3\nbreakpoint()\nprint(value)\n"
        written = sandbox.run_script(source, filename="main.py", stdin="c\n").stdout
        assert "-> print(value)\n" in written
        assert written.endswith("3\n")


def test_who_traces_sees_no_hook_of_opening(supervisor: SupervisorOf) -> None:
    """As CPython has it around hooks of `sys.addaudithook`: a debugger does not step into them, a profile has none.
    Neither is `print` more than a function of C."""
    source = """
import sys, os
seen = []
def trace(frame, event, argument):
    seen.append((frame.f_code.co_filename, frame.f_code.co_name))
def after(): pass
def work():
    os.listdir('.')
    print('written')
    open('made', 'w').close()
    try: open('/etc/shadow')
    except PermissionError: pass
    after()
sys.settrace(trace)
work()
sys.settrace(None)
seen
"""
    with supervisor.spawn("traced") as sandbox:
        seen = sandbox.exec(source).value
        assert [name for _, name in seen if name in ("work", "after")] == ["work", "after"]
        assert [(file, name) for file, name in seen if "/pyisolate/" in file] == []


def test_functions_that_hooks_have_replaced_are_pickled(supervisor: SupervisorOf) -> None:
    """By name, as those of the interpreter are: `executor.map(importlib.import_module, names)`."""
    source = """
import builtins, importlib.util, os, pickle, sys, threading
replaced = (os._exit, importlib.import_module, importlib.__import__, importlib.util.find_spec, builtins.__import__,
            threading.excepthook, sys.unraisablehook)
[pickle.loads(pickle.dumps(one)) is one for one in replaced]
"""
    with supervisor.spawn("pickled") as sandbox:
        assert sandbox.exec(source).value == [True] * 7


def test_a_program_may_ask_to_be_who_it_is(supervisor: SupervisorOf) -> None:
    """GNU make does before it starts a command (posix_spawn, POSIX_SPAWN_RESETIDS). The control: to be another."""
    source = """
import os
os.seteuid(os.geteuid()); os.setegid(os.getegid()); os.setuid(os.getuid()); os.setgid(os.getgid())
os.setresuid(-1, -1, -1); os.setresgid(-1, os.getgid(), -1); os.setreuid(os.getuid(), -1); os.setregid(-1, -1)
"""
    with supervisor.spawn("itself") as sandbox:
        sandbox.exec(source)
        assert sandbox.get_denial_events() == []
        for other in ("os.setuid(1)", "os.setresgid(-1, 1, -1)"):
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(f"import os; {other}")
            assert caught.value.denial_event.capability == "kernel.capability"


def test_a_module_that_the_guest_makes_can_be_imported(supervisor: SupervisorOf) -> None:
    make = "import sys, types\nmade = types.ModuleType('made')\nmade.value = 5\nsys.modules['made'] = made\n"
    with supervisor.spawn("made") as sandbox:
        assert sandbox.exec(make + "from made import value\nimport made as again\nvalue + again.value").value == 10
        assert sandbox.get_denial_events() == []


def test_a_file_that_is_only_read_costs_no_search_for_what_is_in_buffers(supervisor: SupervisorOf) -> None:
    watch = "import gc, os\nsought, real = [], gc.get_objects\ngc.get_objects = lambda: sought.append(1) or real()\n"
    with supervisor.spawn("kept") as sandbox:
        sandbox.exec(watch + "kept = open(os.__file__)")
        assert sandbox.exec("len(sought)").value == 0
        sandbox.exec("written = open('written', 'w')\nwritten.write('a'); None")  # the control
        assert sandbox.exec("len(sought)").value > 0
        assert sandbox.exec("open('written').read()").value == "a"


def test_the_source_of_a_class_of_an_earlier_cell_is_found(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("classes") as sandbox:
        sandbox.exec("class First:\n    x = 1")
        sandbox.exec("class Second:\n    def method(self):\n        return 2")
        sandbox.exec("class First:\n    x = 3")
        assert sandbox.exec("import inspect\ninspect.getsource(First)").value == "class First:\n    x = 3\n"
        assert "return 2" in sandbox.eval("inspect.getsource(Second.method)")
        assert sandbox.eval("inspect.getsource(Second)").startswith("class Second:")


def test_modules_of_the_workspace_need_no_rule(
    supervisor: SupervisorOf, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    outside.chmod(0o755)
    (outside / "foreign.py").write_text("X = 1")
    policy = pyisolate.Policy.preset("compute").allow_read(outside).deny_import("forbidden")
    files = {"helper.py": b"from pack import part\nX = part.Y", "pack/__init__.py": b"", "pack/part.py": b"Y = 5",
             "forbidden.py": b""}  # fmt: skip
    with supervisor.spawn("project", policy, files=files) as sandbox:
        assert sandbox.run_script("import helper, pack.part\nprint(helper.X)", filename="main.py").stdout == "5\n"
        assert sandbox.get_denial_events() == []
        sandbox.exec(f"import sys, os\nsys.path[:0] = [{str(outside)!r}]\nos.symlink({str(outside)!r}, 'link')")
        for name in ("foreign", "link.foreign", "forbidden", "yaml", "no_such_module"):
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(f"import {name}")
            assert caught.value.denial_event is not None
            assert caught.value.denial_event.target == name
    with supervisor.spawn("granted", policy.allow_import("foreign")) as sandbox:  # the control
        assert sandbox.exec(f"import sys\nsys.path[:0] = [{str(outside)!r}]\nimport foreign\nforeign.X").value == 1


def test_errors_of_threads_show_the_guests_lines_and_leave_no_denial(supervisor: SupervisorOf) -> None:
    code = "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start(); thread.join()\n"
    code += "class Odd:\n    def __del__(self): raise KeyError('odd')\nOdd()\n"
    code += (
        "def never():\n    try: yield\n    finally: raise ValueError('at its end')\nit = never()\nnext(it)\ndel it\n"
    )
    with supervisor.spawn("threads") as sandbox:
        result = sandbox.run_script(code, filename="prog.py")
        for words in (
            "Exception in thread Thread-1",
            "target=lambda: 1 / 0",
            "Exception ignored in",
            "KeyError: 'odd'",
            "ValueError: at its end",
        ):
            assert words in result.stderr
        assert "GeneratorExit" not in result.stderr  # the interpreter tells nothing of what was behind it
        assert sandbox.get_denial_events() == []


def test_a_scripts_excepthook_is_called(supervisor: SupervisorOf) -> None:
    hook = (
        "import sys\nsys.excepthook = lambda kind, error, trace: print(kind.__name__, trace.tb_frame.f_code.co_name)\n"
    )
    with supervisor.spawn("hook") as sandbox, pytest.raises(pyisolate.GuestError) as caught:
        sandbox.run_script(f"{hook}1 / 0", filename="prog.py")
    assert caught.value.stdout == "ZeroDivisionError <module>\n"


@pytest.mark.parametrize("attempt", ["open('/etc/passwd')", "import no_such_module", "import os; os.fork()"])
def test_a_guest_that_prints_a_caught_refusal_is_refused_nothing_more(supervisor: SupervisorOf, attempt: str) -> None:
    code = f"import logging, traceback\ntry: {attempt}\nexcept Exception:\n    traceback.print_exc()\n"
    code += "    logging.exception('again')"
    with supervisor.spawn("prints") as sandbox:
        assert sandbox.exec(code).stderr.count(attempt) >= 2
        assert len(sandbox.get_denial_events()) == 1


def test_each_use_of_what_has_ended_raises_an_error_of_its_own(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("ended") as sandbox, pytest.raises(pyisolate.SandboxDied):
        sandbox.exec("import os; os._exit(3)")
    lengths = set()
    for use in (lambda: sandbox.exec("1"), lambda: sandbox.recv(timeout=1)) * 3:
        with pytest.raises(pyisolate.SandboxDied, match="exit status 3") as caught:
            use()
        lengths.add(len(caught.traceback))
    assert len(lengths) <= 2  # one for each way to use it


def test_a_cell_holds_none_of_what_only_its_host_needs(supervisor: SupervisorOf) -> None:
    hosts = ("asyncio", "click", "prometheus_client", "psutil", "tomllib", "yaml", "pyisolate.policy.model")
    with supervisor.spawn("lean") as sandbox:
        loaded = sandbox.eval("list(__import__('sys').modules)")
        assert [name for name in hosts if name in loaded] == []
        assert "pyisolate.policy.suggest" in loaded  # the control


def test_cells_go_on_as_at_a_prompt(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("prompt") as sandbox:
        sandbox.exec("from __future__ import annotations\nclass First: x: unknown")
        assert sandbox.exec("class Second: y: unknown\nSecond.__annotations__").value == {"y": "unknown"}
        with pytest.raises(pyisolate.GuestError):
            sandbox.exec("def fails():\n    kept = 7\n    1 / 0\nfails()")
        sandbox.exec("import pdb, sys")
        assert sandbox.exec("(sys.last_type.__name__, str(sys.last_value))").value == (
            "ZeroDivisionError",
            "division by zero",
        )
        assert "7" in sandbox.exec("pdb.pm()", stdin="p kept\nq\n").stdout
        printed = sandbox.exec("import traceback; traceback.print_exception(sys.last_value)").stderr
        assert [line for line in printed.splitlines() if "File" in line] == [
            '  File "<prompt:3>", line 4, in <module>',
            '  File "<prompt:3>", line 3, in fails',
        ]
        sandbox.exec("sys.displayhook = lambda value: print('shown', value)")
        shown = sandbox.exec("5")
        assert (shown.stdout, shown.value) == ("shown 5\n", 5)
    with supervisor.spawn("control") as sandbox, pytest.raises(pyisolate.GuestError, match="unknown"):
        sandbox.exec("class Second: y: unknown")


def test_a_refused_word_to_the_systems_log_is_an_event(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("logs") as sandbox:
        assert sandbox.exec("import syslog; syslog.syslog('ready'); print('on')").stdout == "on\n"
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target) == ("net.connect", "unix:/dev/log")
        with pytest.raises(pyisolate.PolicyError):  # what can fail in the interpreter does
            sandbox.exec("import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect('/dev/log')")


#: What a guest of any kind does is looked at under each of these replaced: they broke the cell, each in another way.
_REPLACED = ("len", "type", "isinstance", "set", "bytes", "list", "super", "print", "next", "str", "vars", "getattr")


def test_builtins_may_be_replaced_for_good(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("replaced") as sandbox:
        sandbox.exec("import builtins, sys\nclass Own: pass")
        for name in (*_REPLACED, "BaseException", "BaseExceptionGroup", "StopIteration", "OSError", "compile"):
            sandbox.exec(f"kept = builtins.{name}\nbuiltins.{name} = lambda *given, **named: 0")
            assert sandbox.eval(f"{name}(1)") == 0, name
            assert sandbox.exec("[1, {'a': (2.5, b'x')}]").value == [1, {"a": (2.5, b"x")}]
            assert sandbox.exec("Own").value == "<class '__main__.Own'>"
            assert sandbox.exec("sys.exit(3)").exit_code == 3
            with pytest.raises(pyisolate.GuestError, match="division by zero") as caught:
                sandbox.exec("1 / 0")
            assert "1 / 0" in caught.value.traceback
            with pytest.raises(pyisolate.PolicyError, match="on /etc/shadow"):
                sandbox.exec("open('/etc/shadow')")
            with pytest.raises(pyisolate.PolicyError, match="on absent_of_all"):
                sandbox.exec("import absent_of_all")
            sandbox.exec(f"builtins.{name} = kept")
        sandbox.exec("del builtins.sorted")
        with pytest.raises(pyisolate.GuestError, match="name 'sorted' is not defined"):
            sandbox.exec("sorted([])")


def test_the_encoding_of_output_can_be_changed(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("encoding") as sandbox:
        change = "import sys\n"
        change += "print('\xe9')\nsys.stdout.reconfigure(encoding='latin-1')\nprint('\xe9', sys.stdout.seekable())"
        assert sandbox.exec(change).stdout_bytes == b"\xc3\xa9\n\xe9 False\n"


def test_call_finds_names_of_the_guest_builtins_and_modules(supervisor: pyisolate.Supervisor) -> None:
    for kind in ("process", "thread"):
        with supervisor.spawn("called", isolation=kind, enforcement="best_effort") as sandbox:
            sandbox.exec("class Own:\n    @staticmethod\n    def twice(x): return 2 * x\n")
            assert [sandbox.call(name, 4) for name in ("Own.twice", "str", "math.sqrt")] == [8, "4", 2.0]
            with pytest.raises(pyisolate.GuestError, match="name 'nothing' is not defined"):
                sandbox.call("nothing")


@pytest.mark.parametrize("name", ["os.getpid", "linecache.getlines", "traceback.TracebackException"])
def test_functions_of_the_library_may_be_replaced_for_good(supervisor: SupervisorOf, name: str) -> None:
    with supervisor.spawn("patched") as sandbox:
        sandbox.exec(f"import {name.partition('.')[0]}\n{name} = lambda *given, **named: 0")
        assert sandbox.eval(f"{name}(1)") == 0
        with pytest.raises(pyisolate.GuestError, match="division by zero") as caught:
            sandbox.exec("def fails():\n    1 / 0\nfails()")
        assert "line 2, in fails" in caught.value.traceback
        assert caught.value.traceback.endswith("ZeroDivisionError: division by zero\n")


def test_an_option_that_spawn_does_not_have_is_refused_where_it_is_given() -> None:
    for make in (pyisolate.SandboxExecutor, pyisolate.Template, pyisolate.sandboxed):
        with pytest.raises(TypeError, match=r"no option 'workspce'.*did you mean 'workspace'"):
            make("compute", workspce="1MiB")  # type: ignore[call-arg]


def test_a_refusal_in_the_host_is_an_oserror_as_in_the_guest(supervisor: pyisolate.Supervisor) -> None:
    show = "\nexcept OSError as error: print((error.errno, error.strerror, error.filename))"
    with supervisor.spawn("refused") as sandbox:
        guest = ast.literal_eval(sandbox.exec("try: open('/etc/shadow')" + show).stdout)
        with pytest.raises(PermissionError) as caught:
            sandbox.exec("open('/etc/shadow')")
    assert (caught.value.errno, caught.value.strerror, caught.value.filename) == guest
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (
        (copied.errno, copied.strerror, copied.filename) == guest == (errno.EACCES, "Permission denied", "/etc/shadow")
    )


def test_a_guests_error_says_in_the_hosts_log_where_it_was_raised(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("where") as sandbox, pytest.raises(pyisolate.GuestError) as caught:
        sandbox.exec("def divide():\n    1 / 0\ndivide()")
    assert '"<where>", line 2, in divide' in "".join(traceback.format_exception(caught.value))


def test_what_a_guest_broke_is_said(supervisor: SupervisorOf) -> None:
    with supervisor.spawn("broken") as sandbox:
        with pytest.raises(pyisolate.SandboxDied, match=r"or broke its interpreter \(sys.modules\)") as caught:
            sandbox.exec("import sys; sys.modules = 0")
        assert "AttributeError: 'int' object" in caught.value.last_words


def test_what_is_written_after_the_channel_was_closed_is_on_the_error(supervisor: SupervisorOf) -> None:
    for _ in range(5):  # the host sees the end of the channel, and the guest goes on
        with supervisor.spawn("late") as sandbox:
            with pytest.raises(pyisolate.SandboxDied) as caught:
                sandbox.exec("import os, time\nos.closerange(3, 100)\ntime.sleep(0.01)\nprint('late')")
            assert caught.value.stdout == "late\n"
