"""What a guest and a model learn of a function of the host: its text, and nothing else of the host."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pyisolate import HostFunction, HostFunctionError, PolicyError
from pyisolate.cell.described import Description, describe, error_of, stub, stub_text
from pyisolate.sandbox.host_function import make_offer


class Secret:
    """Its repr would tell an address of the host's memory."""


SECRET = Secret()


def search(query: str, /, *more: int, limit: int | None = 10, where: Any = SECRET, **rest: object) -> list[str]:
    """Find pages.

    Says \\n and \"\"\" as they are.
    """
    return [query]


def through_the_wire(described: Description) -> Description:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(described), type=Description)


def call(*_arguments: Any) -> None:
    raise AssertionError


def test_the_stub_has_signature_and_docstring_and_nothing_of_the_host() -> None:
    described = through_the_wire(describe("find", search, 1.0))
    made = stub(described, call)
    assert str(inspect.signature(made)) == (
        "(query: str, /, *more: int, limit: int | None = 10, where: Any = ..., **rest: object) -> list[str]"
    )
    assert (made.__name__, made.__doc__, made.__module__) == ("find", inspect.getdoc(search), "__main__")
    assert b"0x" not in msgspec.msgpack.encode(described)
    assert b"test_described" not in msgspec.msgpack.encode(described)


def test_the_stub_text_is_python_and_keeps_the_docstring() -> None:
    (function,) = ast.parse(stub_text(describe("search", search, None))).body
    assert isinstance(function, ast.FunctionDef)
    assert ast.get_docstring(function) == inspect.getdoc(search)
    assert [one.arg for one in function.args.kwonlyargs] == ["limit", "where"]
    ast.parse(stub_text(describe("smallest", min, None)))  # of C, without a signature


@pytest.mark.parametrize("name", ["", "a b", "class", "1a", "x.y"])
def test_a_name_that_code_cannot_call_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        describe(name, search, None)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda: HostFunction(search, timeout=0), "timeout"),
        (lambda: HostFunction(search, timeout=float("nan")), "timeout"),
        (lambda: HostFunction(search, concurrency=0), "concurrency"),
        (lambda: HostFunction(search, max_calls=-1), "max_calls"),
        (lambda: make_offer({"post": search}), "post"),
        (lambda: make_offer({"a" * 101: search}), "short"),
    ],
)
def test_bounds_that_nothing_can_keep_are_refused(function: Callable[[], object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        function()


@pytest.mark.parametrize("bound", [{"max_calls": "x"}, {"concurrency": None}, {"timeout": "1s"}])
def test_a_bound_that_is_no_number_is_named(bound: dict[str, Any]) -> None:
    (name,) = bound
    with pytest.raises(TypeError, match=f"functions: {name} {bound[name]!r}: must be a number, not"):
        HostFunction(search, **bound)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="callable"):
        make_offer({"search": 7})  # type: ignore[dict-item]


def test_an_exception_arrives_as_its_type_where_python_has_it() -> None:
    assert type(error_of("f", "ValueError", "m", None)) is ValueError
    missing = error_of("f", "FileNotFoundError", "No such file or directory", 2)
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, None)
    assert isinstance(error_of("f", "PolicyError", "m", None), PolicyError)
    for name in ("UnicodeDecodeError", "SystemExit", "KeyboardInterrupt", "MyError", "print", "__import__"):
        error = error_of("f", name, "m", None)
        assert isinstance(error, HostFunctionError)
        assert (error.type_name, error.message) == (name, "m")
