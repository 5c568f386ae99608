"""A guest's source text: how it is compiled, kept for tracebacks and `inspect`, and named in what it raises."""

from __future__ import annotations
import __future__

import ast
import builtins
import functools
import inspect
import io
import linecache
import os
import re
import sys
import types
from collections.abc import Coroutine
from typing import Any

from ..hooks import frames
from ..native.frames import call_apart

#: where the lines of this package are
PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
#: The flags of features that are not in the language anyway; others have the numbers of flags that any code may have.
_FUTURES = __future__.annotations.compiler_flag | __future__.barry_as_FLUFL.compiler_flag
#: No statement begins so: an indentation, a comment, what closes a bracket, the end of a line.
_NO_START = frozenset(" \t#)]}\n")

Code = types.CodeType


class Cells:
    """Sources that ran, each under a name of its own, so that a traceback shows the lines of the right one."""

    def __init__(self) -> None:
        self._sources: dict[str, str] = {}
        self._flags = 0

    def compile(self, source: str, filename: str) -> tuple[Code | None, Code | None]:
        """Return what `compile_cell` does; `__future__` statements hold in later cells, as at a prompt."""
        code, last = compile_cell(source, filename, self._flags)
        if code is not None and (found := futures_of(code)) != self._flags:
            self._flags = found
        return code, last

    def compile_expression(self, source: str, filename: str) -> Code:
        """Return the code of one expression, under the `__future__` statements of earlier cells."""
        return compile_expression(source, filename, self._flags)

    def remember(self, source: str, filename: str) -> str:
        """Keep a source for tracebacks and `inspect.getsource`; return the name it is compiled under.

        The first source of a name keeps it; another one is `<name:2>`, and so on. A file's name stays as it is.
        """
        name, number = filename, 1
        if filename.startswith("<") and filename.endswith(">"):
            while self._sources.get(name, source) != source:
                number += 1
                name = f"{filename[:-1]}:{number}>"
        self._sources[name] = source
        kept = (len(source), None, _lines(source), name)
        linecache.cache[name] = kept
        if not name.startswith("<"):
            linecache.cache.setdefault(os.path.abspath(name), kept)  # where `pdb` looks
        return name

    def name_of_class(self, kind: type) -> str | None:
        """Return the name of the newest source that defines a class of this name."""
        statement = re.compile(rf"^\s*class\s+{re.escape(kind.__name__)}\b", re.MULTILINE)
        return next((name for name, source in reversed(self._sources.items()) if statement.search(source)), None)

    def find_classes(self) -> None:
        """Let `inspect` find the source of classes of the guest's own: it looks for their module's file."""
        getfile = inspect.getfile

        @functools.wraps(getfile)
        def find(value: Any) -> str:
            own = isinstance(value, type) and value.__module__ == "__main__"
            return (self.name_of_class(value) if own else None) or getfile(value)

        inspect.getfile = find  # type: ignore[assignment] # typed as one that names its argument


def _lines(source: str) -> list[str]:
    """Return the lines as `linecache` has those of a file: 3.11 counts the end of the last one where it underlines."""
    lines = io.StringIO(source, newline=None).readlines()
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines


def compile_guest(source: str | ast.Module | ast.Expression, filename: str, mode: str, flags: int = 0) -> Any:
    """Compile a guest's source as if nothing stood around it: else it would have this module's `annotations`."""
    return compile(source, filename, mode, flags, dont_inherit=True)


def show_no_own_lines() -> None:
    """Let no traceback look for source lines of this package: a guest may not read them, and would be reported for it.

    What a guest prints of a refusal that it caught (`logging.exception`) has frames of the hooks in it.
    """
    for name in [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]:
        if name.startswith(PACKAGE):
            for shown in (name, f"{name}: importlib._bootstrap"):  # the second is `hooks.importing`'s
                linecache.cache[shown] = (0, None, [], shown)


def compile_cell(source: str, filename: str, flags: int = 0) -> tuple[Code | None, Code | None]:
    """Return the code of a source's statements, and that of its last one where it is an expression.

    `await` may stand outside of functions, as in Jupyter. `flags`: of earlier cells (`futures_of`). Raises SyntaxError.
    """
    if (split := _split(source, filename, flags)) is not None:
        return split
    flags |= _AWAIT
    tree = compile_guest(source, filename, "exec", ast.PyCF_ONLY_AST | flags)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    code = compile_guest(tree, filename, "exec", flags) if tree.body else None
    if code is not None:
        flags |= futures_of(code)
    return code, None if last is None else compile_guest(ast.Expression(last.value), filename, "eval", flags)


def compile_expression(source: str, filename: str, flags: int = 0) -> Code:
    """Return the code of one expression, which spaces may precede, as `eval` has it. Raises SyntaxError."""
    code: Code = compile_guest(source.lstrip(" \t"), filename, "eval", _AWAIT | flags)
    return code


def futures_of(code: Code) -> int:
    """Return the flags of the `__future__` statements that code was compiled under: they hold for later cells, too."""
    return code.co_flags & _FUTURES


def _split(source: str, filename: str, flags: int) -> tuple[Code | None, Code] | None:
    """Compile without a syntax tree where the last statement is an expression that begins the last unindented line.

    To have a tree as objects takes longer than to compile, and its node types alone are 40 pages. What compiles before
    that line is whole, so no bracket and no string is open there: the line begins a statement, which is the last one.
    """
    start = _last_line(source)
    if start < 0 or source.endswith("\\\n", 0, start):
        return None
    try:
        last = compile_expression("\n" * source.count("\n", 0, start) + source[start:], filename, flags)
        if not start:
            return None, last
        code: Code = compile_guest(source[:start], filename, "exec", _AWAIT | flags)
        if (found := futures_of(code)) != flags:
            return _split(source, filename, found)
        return code, last
    except SyntaxError:
        return None


def _last_line(source: str) -> int:
    """Return where the last line begins that is neither indented nor empty nor a comment, -1 where a tree is needed."""
    if "\r" in source or "\f" in source:
        return -1  # other ends of lines, and what sets back an indentation
    end = len(source)
    while end > 0:
        start = source.rfind("\n", 0, end) + 1
        first = source[start : start + 1]
        if start < end and first not in _NO_START:
            return start
        end = start - 1
    return -1


#: What needs a running event loop, and what needs that there is none.
_STARTS_TASKS = frozenset({"create_task", "ensure_future", "get_running_loop"})
_RUNS_LOOPS = frozenset({"run", "run_until_complete", "run_forever", "Runner"})
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


def _uses(code: Code, names: frozenset[str]) -> bool:
    """Say whether code uses one of the names outside of functions; in a comprehension too."""
    if not names.isdisjoint(code.co_names):
        return True
    for constant in code.co_consts:  # a loop: each request comes by here, and a generator takes as long as all else
        if type(constant) is Code and constant.co_name in _COMPREHENSIONS and _uses(constant, names):
            return True
    return False


async def _on_loop(code: Code, namespace: dict[str, Any]) -> Any:
    return eval(code, namespace)


class Awaiting:
    """Runs code that awaits outside of functions, all of it on one event loop: tasks of a cell outlive it."""

    def __init__(self) -> None:
        self._runner: Any = None

    def evaluate(self, code: Code, namespace: dict[str, Any], *, awaits: bool = False) -> Any:
        """Return what `eval` of the code gives, awaited where the code itself awaits.

        With `awaits` (other code of the cell does), or where it starts a task, it runs on the loop too: what it starts
        goes on in the next code that awaits.
        """
        if code.co_flags & inspect.CO_COROUTINE:
            return self._run(eval(code, namespace))  # makes the coroutine, and runs nothing of it
        if (awaits or _uses(code, _STARTS_TASKS)) and not _uses(code, _RUNS_LOOPS):
            return self._run(_on_loop(code, namespace))
        return call_apart(eval, (code, namespace))

    def result(self, value: Any) -> Any:
        """Return what a call gave; of an async function, what its coroutine gives."""
        return self._run(value) if isinstance(value, types.CoroutineType) else value

    def _run(self, awaited: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            import asyncio  # 60 modules that most guests do without

            self._runner = asyncio.Runner()
        return call_apart(self._runner.run, (awaited,))


class Caller:
    """Calls, for the host, what a request names; it sees what it would see if the guest called it.

    A function of the guest's own is the outermost frame. All else is called by one neutral line of the guest's: many
    functions of the interpreter and its library look at their caller (`exec`, `globals`, `import_module`).
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        code = compile("lambda f, a, k: f(*a, **k)", frames.CALLED, "eval").co_consts[0]
        self._line, self._namespace = types.FunctionType(code, namespace), namespace

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return `function(*args, **kwargs)`."""
        code = getattr(function, "__code__", None)
        if isinstance(code, Code) and not code.co_filename.startswith(frames.LIBRARY):
            return call_apart(function, args, kwargs)
        if (function is exec or function is eval) and len(args) == 1:
            args = (*args, self._namespace)  # and not the line's own variables
        return call_apart(self._line, (function, args, kwargs))


def resolve(dotted: str, namespace: dict[str, Any]) -> Any:
    """Find "module.function", or a name that earlier `exec` calls defined in `namespace`."""
    head, _, rest = dotted.partition(".")
    found = namespace.get("__builtins__", builtins)
    names = found if isinstance(found, dict) else vars(found)
    if head in namespace or head in names:
        found = namespace[head] if head in namespace else names[head]
        for part in rest.split(".") if rest else ():
            found = getattr(found, part)
        return found
    if not rest:
        raise NameError(f"name {head!r} is not defined")
    module_name, _, attribute = dotted.rpartition(".")
    return getattr(names["__import__"](module_name, namespace, None, [attribute]), attribute)


def forget_last_value() -> None:
    """After a rehearsal: `_` is not defined before a request had a value."""
    builtins.__dict__.pop("_", None)
