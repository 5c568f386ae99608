"""What a kernel asks inside the sandbox: completion, inspection, whether code is complete. Sent there by value.

Objects of the guest are looked at where they live: their attributes are code of the guest's.
"""

from __future__ import annotations

from typing import Any

from ..hooks.frames import CALLED

#: Names that one completion gives back.
MOST_MATCHES = 500


def complete(code: str, cursor: int) -> dict[str, Any]:
    """Return names that fit what stands before the cursor, and where that begins (characters)."""
    import builtins
    import keyword

    import __main__

    start = cursor
    while start and (code[start - 1].isidentifier() or code[start - 1].isdigit() or code[start - 1] == "."):
        start -= 1
    *owners, prefix = code[start:cursor].split(".")
    if owners:
        found, owner = look_up(owners)
        names = set(dir(owner)) if found else set()
    else:
        names = {*__main__.__dict__, *dir(builtins), *keyword.kwlist}
    fitting = sorted(
        (name for name in names if name.startswith(prefix) and (prefix.startswith("_") or not name.startswith("_"))),
        key=lambda name: (name.startswith("_"), name),
    )
    return {"matches": fitting[:MOST_MATCHES], "start": cursor - len(prefix), "end": cursor}


def describe(code: str, cursor: int, detail: int) -> str | None:
    """Return signature and docstring (or the source) of the name around the cursor; None for no such name."""
    import inspect

    start = end = cursor
    while start and (code[start - 1].isidentifier() or code[start - 1].isdigit() or code[start - 1] == "."):
        start -= 1
    while end < len(code) and (code[end].isidentifier() or code[end].isdigit()):
        end += 1
    if start == end and cursor and code[cursor - 1] == "(":  # the function whose call begins here
        return describe(code, cursor - 1, detail)
    name = code[start:end]
    found, thing = look_up(name.split("."))
    if not found:
        return None
    lines = [f"{name}: {type(thing).__name__}"]
    try:
        lines[0] = f"{name}{inspect.signature(thing)}"
    except (TypeError, ValueError):
        lines.append(repr(thing)[:2000])
    text = inspect.getdoc(thing)
    if detail:
        try:
            text = inspect.getsource(thing)
        except (OSError, TypeError):
            pass
    return "\n".join([*lines, "", (text or "no docstring")[:20_000]])


def look_up(parts: list[str]) -> tuple[bool, Any]:
    """Return whether a dotted name leads to an object, and which."""
    import builtins

    import __main__

    missing = object()
    first, *rest = parts
    thing = __main__.__dict__.get(first, getattr(builtins, first, missing) if first else missing)
    for part in rest:
        thing = getattr(thing, part, missing)
    return thing is not missing, thing


def is_complete(code: str) -> dict[str, str]:
    """Tell whether an editor should run the code or give another line, and how far that is indented."""
    import ast
    import codeop

    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        compiled = compiler(code, "<cell>", "exec")
    except (SyntaxError, OverflowError, ValueError, MemoryError, RecursionError):
        return {"status": "invalid"}
    lines = code.splitlines() or [""]
    last = lines[-1]
    indent = last[: len(last) - len(last.lstrip())]
    if compiled is None:
        return {"status": "incomplete", "indent": indent + "    " if last.rstrip().endswith(":") else indent}
    if indent and not code.endswith("\n"):  # a block ends at an empty line
        return {"status": "incomplete", "indent": indent}
    return {"status": "complete"}


def ask_for_input() -> None:
    """Let `input` ask the front end."""
    import builtins

    import __main__

    ask = __main__.__dict__.pop("_pyisolate_input")

    def input(prompt: object = "", /) -> str:
        """Read a line from the notebook."""
        answer = ask(str(prompt))
        if answer is None:
            raise EOFError("the front end gives no input")
        return str(answer)

    # as the interpreter's own, it is no line of a traceback
    input.__code__ = input.__code__.replace(co_filename=CALLED)
    builtins.input = input
