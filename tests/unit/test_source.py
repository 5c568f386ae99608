"""How a guest's source is compiled: where its last statement begins, and as if nothing stood around it."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from pyisolate.cell.source import compile_cell

ENDS_IN_EXPRESSION = [
    "1",
    "x = 2\nx",
    "x = 2\nx\n\n# the end\n",
    "def f(x):\n    return x\nf(3)",
    "def f(x):\n    return x\n\nf(\n    4,\n)\n",
    "x = 2; x + 1",
    "x = 2\nx; x + 1",
    "x = 5\n(x\n+ 1)",
    "x = 5\nx \\\n+ 1",
    "'''\nx = 1 # '''",
    "str('''\nx''')",
    "str(\n'''\n1''')",
    "(\n1\n)",
    "if True:\n    x = 7\nx",
    "x = 1\r\nx",
    "from __future__ import annotations\ndef f(x: int): pass\nf.__annotations__",
    "def f(x: int): pass\nf.__annotations__",
]
ENDS_IN_STATEMENT = [
    "",
    "# nothing",
    "x = 1",
    "x = \\\n1",
    "x = 1 \\\n+ 2",
    "x = 1\\\n+2",
    "x = '''\n1'''",
    "x = (\n1\n)",
    "x = [\n1]",
    "if True:\n    x = 1",
    "try:\n    x = 1\nfinally:\n    x",
    "x: int = 3",
]


def by_tree(source: str) -> tuple[bool, Any, dict[str, Any]]:
    """Run a source as the interpreter itself would, split by its syntax tree."""
    tree = ast.parse(source)
    names: dict[str, Any] = {}
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec", dont_inherit=True), names)
    if not isinstance(last, ast.Expr):
        return False, None, names
    return True, eval(compile(ast.Expression(last.value), "<cell>", "eval", dont_inherit=True), names), names


@pytest.mark.parametrize("source", ENDS_IN_EXPRESSION + ENDS_IN_STATEMENT)
def test_a_source_means_what_its_syntax_tree_says(source: str) -> None:
    has_value, expected, theirs = by_tree(source)
    assert has_value is (source in ENDS_IN_EXPRESSION)
    code, last = compile_cell(source, "<cell>")
    names: dict[str, Any] = {}
    if code is not None:
        exec(code, names)
    assert (last is not None) is has_value
    if last is not None:
        assert eval(last, names) == expected
    different = {"f", "__builtins__"}
    assert {name: names[name] for name in names.keys() - different} == {
        name: theirs[name] for name in theirs.keys() - different
    }


@pytest.mark.parametrize("source", ["x =", "def f(:\n  pass\nf()", "x = 1\nx +", " 1", "x = '''\n1", "x = (\n1"])
def test_what_is_no_source_is_refused_as_ever(source: str) -> None:
    with pytest.raises(SyntaxError) as expected:
        ast.parse(source, "<cell>")
    with pytest.raises(SyntaxError) as raised:
        compile_cell(source, "<cell>")
    assert (raised.value.msg, raised.value.lineno) == (expected.value.msg, expected.value.lineno)


def test_a_line_of_an_error_is_the_sources_own() -> None:
    code, last = compile_cell("x = 1\n\n\nx / 0\n", "<cell>")
    assert code is not None
    assert last is not None
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(ZeroDivisionError) as raised:
        eval(last, names)
    assert raised.traceback[-1].lineno == 3  # counted from 0
