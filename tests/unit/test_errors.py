"""Errors, results and events cross processes: they pickle and copy, with all that they carry."""

from __future__ import annotations

import ast
import copy
import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import pyisolate
from pyisolate import errors
from pyisolate.native.result import cause_of, check, is_shortage, without_hint
from pyisolate.supervisor.host_errors import translate_host_error
from pyisolate.telemetry.merge import merge
from tests.telemetry_events import CONTEXT, broker

EVENTS = [merge(CONTEXT, broker(), None)]

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, pyisolate.SandboxError)]


def make(kind: type[pyisolate.SandboxError]) -> pyisolate.SandboxError:
    if issubclass(kind, pyisolate.GuestError):
        error: pyisolate.SandboxError = kind("ValueError", "no such thing", "Traceback ...")
    elif issubclass(kind, pyisolate.HostFunctionError):
        error = kind("search", "IndexError", "no such thing")
    elif issubclass(kind, pyisolate.PolicyError):
        error = kind("fs.read, on /x: refused", denial_event=EVENTS[0], hint="grant it")
    elif issubclass(kind, pyisolate.LimitExceeded):
        error = kind("limit", limit="cpu", used=2, allowed=1, denial_event=EVENTS[0], hint="less")
    elif issubclass(kind, pyisolate.PolicySyntaxError):
        error = kind("bad", file="p.yaml", line=3, key="fs", hint="mend it")
    elif issubclass(kind, pyisolate.EnforcementError):
        error = kind("no", rule="r", missing="m", hint="doctor")
    elif issubclass(kind, pyisolate.SandboxDied):
        error = kind("died", exit_status=3, last_words="oh", hint="look")
    else:
        error = kind("text", hint="do")
    error.stdout, error.stderr = "out", "err"
    error.add_note("a note")
    return error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
def test_every_error_survives(kind: type[pyisolate.SandboxError], way: str) -> None:
    error = make(kind)
    again = pickle.loads(pickle.dumps(error)) if way == "pickle" else getattr(copy, way)(error)
    assert type(again) is kind
    assert (str(again), again.args) == (str(error), error.args)
    assert vars(again) == vars(error)


def test_results_and_events_survive() -> None:
    result = pyisolate.Result(stdout="a", stderr="", value={"k": [1]}, duration=0.1, denials=(EVENTS[0],))
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
    assert repr(pyisolate.Result(stdout="a", stderr="", value=1, duration=0.1)) == (
        "Result(stdout='a', stderr='', value=1, duration=0.1)"
    )


FIELDS = {"operation": "open", "subject": "/x", "cause": "refused", "hint": "grant it", "errno": errno.EACCES}
#: What another side raised: its type and message are all there is.
OF_TEXT = (pyisolate.GuestError, pyisolate.HostFunctionError)


@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_TEXT])
def test_fields_make_the_text_once_and_survive(kind: type[pyisolate.SandboxError], way: str) -> None:
    more = {"limit": "cpu"} if issubclass(kind, pyisolate.LimitExceeded) else {}
    error = kind(**FIELDS, **more)
    assert str(error) == "open, on /x: refused. Hint: grant it"
    assert error.summary == "open, on /x: refused"
    again = pickle.loads(pickle.dumps(error)) if way == "pickle" else getattr(copy, way)(error)
    assert {name: getattr(again, name) for name in FIELDS} == FIELDS
    assert (str(again), again.summary) == (str(error), error.summary)


def test_a_whole_message_leaves_the_unknown_fields_empty() -> None:
    error = pyisolate.SandboxError("spawn 'a': no", hint="do")
    assert (str(error), error.summary, error.hint) == ("spawn 'a': no. Hint: do", "spawn 'a': no", "do")
    assert (error.operation, error.subject, error.cause, error.errno) == (None, None, None, None)


@pytest.mark.parametrize(
    ("look", "seen"),
    [
        (str, "fs.read, on /x: no rule. Hint: grant it"),
        (repr, "{}('fs.read, on /x: no rule. Hint: grant it')"),
        (lambda error: error.args, ("fs.read, on /x: no rule. Hint: grant it",)),
        (lambda error: error.denial_event, EVENTS[0]),
        (lambda error: pickle.loads(pickle.dumps(error)).hint, "grant it"),
        (lambda error: copy.copy(error).summary, "fs.read, on /x: no rule"),
        (lambda error: (error.errno, error.strerror), (errno.EACCES, "Permission denied")),
        (lambda error: hasattr(error, "no_such_name"), False),
    ],
    ids=["str", "repr", "args", "event", "pickle", "copy", "errno", "absent"],
)
@pytest.mark.parametrize("kind", [errors.PolicyError, errors.RefusedProgram, errors.RefusedImport])
def test_a_refusal_is_described_when_it_is_looked_at(
    kind: type[errors.PolicyError], look: Callable[[BaseException], object], seen: object
) -> None:
    asked: list[int] = []

    def describe() -> errors.RefusalFields:
        asked.append(1)
        return {"operation": "fs.read", "subject": "/x", "cause": "no rule", "hint": "grant it",
                "denial_event": EVENTS[0], "errno": errno.EACCES}  # fmt: skip

    error = errors.undescribed(kind, describe, errno.EACCES, os.strerror(errno.EACCES))
    assert (error.errno, asked) == (errno.EACCES, [])
    assert look(error) == (seen.format(kind.__name__) if isinstance(seen, str) else seen)
    assert len(asked) <= 1
    assert str(error) == "fs.read, on /x: no rule. Hint: grant it"
    assert len(asked) == 1


def test_a_native_error_has_the_fields_and_keeps_one_hint_on_its_way_up() -> None:
    with pytest.raises(PermissionError) as caught:
        check(-errno.EPERM, "mount", "/x", hint="run as root")
    assert caught.value.strerror == f"mount /x: {os.strerror(errno.EPERM)}. Hint: run as root"
    assert cause_of(caught.value) == f"mount /x: {os.strerror(errno.EPERM)}"
    assert without_hint(caught.value) == f"[Errno 1] {cause_of(caught.value)}"
    assert without_hint(pyisolate.SandboxError("spawn: no", hint="do")) == "spawn: no"
    assert without_hint(ValueError("no")) == "no"
    better = translate_host_error("spawn 'a'", caught.value)
    assert str(better) == f"spawn 'a': {caught.value.strerror}"
    assert isinstance(better, pyisolate.SandboxError)
    assert (better.operation, better.hint, better.errno) == ("spawn 'a'", "run as root", errno.EPERM)
    assert [is_shortage(number) for number in (errno.EMFILE, errno.EPERM, None)] == [True, False, False]


#: Errors of Python and of parsers that have no field for what is looked for.
FOREIGN = {("policy/parse.py", "_line_of"), ("native/result.py", "cause_in_host")}
SEARCHES = {"startswith", "endswith", "removesuffix", "removeprefix", "partition", "rpartition", "split", "find",
            "index", "search", "match", "fullmatch", "replace"}  # fmt: skip


def is_error_text(node: ast.AST) -> bool:
    """Say whether an expression is the text of an error: `strerror`, `str(error)`, or the word that starts a hint."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and "Hint:" in part.value:
            return True
        if isinstance(part, ast.Attribute) and part.attr == "strerror":
            return True
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "str" and part.args:
            named = part.args[0]
            if isinstance(named, ast.Name) and named.id in ("error", "exc", "exception", "trouble", "e"):
                return True
    return False


def searches(source: str) -> list[tuple[str, int]]:
    """Return the function and the line of every place that looks for something in an error's text."""
    found: list[tuple[str, int]] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        looked: list[ast.AST] = []
        if isinstance(node, ast.Compare) and any(
            isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq) for op in node.ops
        ):
            looked = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SEARCHES:
            looked = [node.func.value, *node.args]
        if any(is_error_text(part) for part in looked):
            found.append((function, getattr(node, "lineno", 0)))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source), "")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "'Hint:' in text",
        "os.strerror(number) in text",
        "error.strerror == 'No such file'",
        "str(error).removesuffix(f'. Hint: {error.hint}')",
        "re.search('line', str(error))",
        "text.partition('. Hint: ')",
    ],
)
def test_the_search_for_searches_finds_them(line: str) -> None:
    assert searches(f"def function():\n    {line}\n") == [("function", 2)]


def test_no_code_searches_the_text_of_errors() -> None:
    root = Path(pyisolate.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 100
    found = {
        (path.relative_to(root).as_posix(), function): line
        for path in files
        for function, line in searches(path.read_text())
    }
    assert set(found) == FOREIGN, {place: line for place, line in found.items() if place not in FOREIGN}


def test_a_guests_error_moves_no_cursor_and_forges_no_line_of_a_log() -> None:
    error = pyisolate.GuestError("Q\x1b[31m\nFORGED", "a\x1b[2J\tb\nc\u202e", "t")
    assert str(error) == "guest raised Q\\x1b[31m\\x0aFORGED: a\\x1b[2J\tb\nc\\u202e"
    assert (error.type_name, error.message) == ("Q\\x1b[31m\\x0aFORGED", "a\x1b[2J\tb\nc\u202e")
    again = pickle.loads(pickle.dumps(error))
    assert (again.type_name, str(again)) == (error.type_name, str(error))
