"""Arguments of the wrong kind are refused before anything is sent: the sandbox and its state live on."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate.sandbox.request import check_argv
from tests.thread_limits import WITHOUT_UNHELD

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("kept_supervisor")]


SURROGATE = "x = '\ud83c'"


ANNOTATED = "def f(x: int): pass"


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_guests_annotations_are_evaluated_unless_it_asks_for_texts(
    supervisor: pyisolate.Supervisor, isolation: Any
) -> None:
    with supervisor.spawn("guest", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec(ANNOTATED)
        assert sandbox.eval("f.__annotations__ == {'x': int}")
        sandbox.exec(f"from __future__ import annotations\n{ANNOTATED}")
        assert sandbox.eval("f.__annotations__ == {'x': 'int'}")
        if isinstance(sandbox, pyisolate.Sandbox):
            sandbox.run_script(f"{ANNOTATED}\nkept = f.__annotations__", filename="main.py")
            assert sandbox.eval("kept == {'x': int}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: pyisolate.Supervisor(cell_uids=5), r"cell_uids: 5: must be range\(first, end\), not int"),  # type: ignore[arg-type]
        (lambda made: pyisolate.serve_metrics(port="x"), "serve_metrics: port 'x': must be int, not str"),  # type: ignore[arg-type]
        (lambda made: pyisolate.Deny(5), "Deny: reason 5: must be str, not int"),  # type: ignore[arg-type]
        (lambda made: made.spawn("guest", workspace="/srv/out"), r"workspace: '/srv/out': .* Path\('/srv/out'\)"),
    ],
)
def test_an_argument_of_another_kind_says_what_is_taken(
    supervisor: pyisolate.Supervisor, call: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        call(supervisor)


def test_an_argument_that_is_no_text_is_named() -> None:
    assert check_argv("exec: argv", [Path("a"), "b"]) == ("a", "b")  # the control
    for wrong in (1, b"x", None):
        with pytest.raises(TypeError, match=f"exec: argv: must be str, not {type(wrong).__name__}"):
            check_argv("exec: argv", ["a", wrong])


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_wrong_arguments_leave_the_sandbox_as_it_was(supervisor: pyisolate.Supervisor, isolation: Any) -> None:
    with supervisor.spawn("guest", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec("state = 7")
        for call, kind in (
            (lambda: sandbox.exec(b"1"), TypeError),  # type: ignore[arg-type]
            (lambda: sandbox.exec(None), TypeError),  # type: ignore[arg-type]
            (lambda: sandbox.exec("1", timeout="5"), TypeError),  # type: ignore[arg-type]
            (lambda: sandbox.exec("1", timeout=-1), ValueError),
            (lambda: sandbox.eval("1", timeout=-0.1), ValueError),
            (lambda: sandbox.call("len", "", timeout=float("nan")), ValueError),
            (lambda: sandbox.recv(timeout=-1), ValueError),
            (lambda: sandbox.eval(1), TypeError),  # type: ignore[arg-type]
            (lambda: sandbox.call(1), TypeError),  # type: ignore[arg-type]
            (lambda: sandbox.exec("1", on_stdout="print"), TypeError),  # type: ignore[arg-type]
            (lambda: sandbox.exec(SURROGATE), ValueError),
            (lambda: sandbox.eval("'\ud83c'"), ValueError),
        ):
            with pytest.raises(kind):
                call()
        assert sandbox.eval("state") == 7


def test_what_cannot_be_pickled_leaves_the_sandbox_as_it_was(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("guest") as sandbox:
        with pytest.raises(TypeError):
            sandbox.call(len, threading.Lock())
        assert sandbox.call(len, [1, 2]) == 2


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"env": {"A": 1}}, TypeError),
        ({"env": {1: "A"}}, TypeError),
        ({"env": {"A=B": "1"}}, ValueError),
        ({"env": {"A": "\0"}}, ValueError),
        ({"env": {"A": "\ud83c"}}, ValueError),
        ({"cwd": 1}, TypeError),
        ({"policy": 1}, TypeError),
        ({"isolation": "cell"}, ValueError),
        ({"env": ["A=1"]}, TypeError),
        ({"limits": "64MiB"}, TypeError),
        ({"files": ["in.csv"]}, TypeError),
        ({"functions": [len]}, TypeError),
        ({"actor": "bob"}, TypeError),
        ({"allowed_imports": "json"}, TypeError),  # not the modules j, s, o and n
        ({"policy": {"version": 1}}, TypeError),
        ({"on_stdout": "print"}, TypeError),
    ],
)
def test_spawn_refuses_what_no_sandbox_can_have(
    supervisor: pyisolate.Supervisor, options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=next(iter(options))):  # the error names the argument
        supervisor.spawn("guest", **options)
    assert supervisor.diagnostics().sandboxes == 0


def test_a_supervisor_refuses_what_no_pool_can_have() -> None:
    options: dict[str, Any]
    for options, kind in (
        ({"pool_size": -1}, ValueError),
        ({"pool_size": "2"}, TypeError),
        ({"preload": "json"}, TypeError),
    ):
        with pytest.raises(kind, match=next(iter(options))):
            pyisolate.Supervisor(**options)


def test_a_reload_takes_what_spawn_takes(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("guest", "readonly") as sandbox:
        for wrong, kind in ((5, TypeError), ("comput", pyisolate.PolicySyntaxError)):
            with pytest.raises(kind):
                sandbox.reload_policy(wrong)  # type: ignore[arg-type]
        sandbox.reload_policy("none")
        assert sandbox.policy.name == "none"


def test_what_a_sandbox_says_of_itself_has_its_name(supervisor: pyisolate.Supervisor) -> None:
    """Also where it stood by before it was spawned, under a name of the supervisor's."""
    for _ in range(3):
        with supervisor.spawn("guest") as sandbox:
            for handle in (sandbox, supervisor):
                with pytest.raises(TypeError, match="pickle"):
                    pickle.dumps(handle)
            assert sandbox.call("dict", self=1, function=2, args=3) == {"self": 1, "function": 2, "args": 3}
        for use in (sandbox.files.list, lambda one=sandbox: one.reload_policy("none")):
            with pytest.raises(pyisolate.SandboxClosed, match="'guest'"):
                use()


def test_a_policy_can_be_a_file_and_a_directory_a_path(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    (tmp_path / "granted.txt").write_text("hello")
    file = tmp_path / "mine.yaml"
    file.write_text(f"version: 1\nname: mine\nextends: compute\nfs:\n  - {{path: {tmp_path}, allow: [read]}}\n")
    tmp_path.chmod(0o755)
    for policy in (file, str(file)):
        with supervisor.spawn("guest", policy, cwd=Path("/")) as sandbox:
            assert sandbox.policy.name == "mine"
            assert sandbox.eval("__import__('os').getcwd()") == "/"
    (tmp_path / "below").mkdir()
    with supervisor.spawn("guest", file, cwd=tmp_path / "below") as sandbox:
        assert sandbox.eval("__import__('os').getcwd()") == str(tmp_path / "below")
    for directory in (tmp_path / "nowhere", "/srv/not-granted"):
        with pytest.raises(pyisolate.SandboxError, match=f"cwd {directory}: No such file or directory"):
            supervisor.spawn("guest", file, cwd=directory)
    assert supervisor.diagnostics().sandboxes == 0
    with pytest.raises(OSError, match="nowhere"):
        supervisor.spawn("guest", "nowhere.yaml")
    with pytest.raises(pyisolate.PolicySyntaxError):
        supervisor.spawn("guest", "nowhere")
