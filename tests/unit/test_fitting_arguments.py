"""Arguments of a guest's call that are known to fit by their number alone: never ones that the signature refuses."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from pyisolate.sandbox.host_function import fits, positional_of


def plain(a: int, b: int = 0) -> None: ...
def first(a: int, /, *, c: int = 0) -> None: ...
def more(a: int, *rest: int) -> None: ...
def named(a: int, *, c: int) -> None: ...
def anything(*rest: int, **names: int) -> None: ...
def none() -> None: ...


@pytest.mark.parametrize(
    ("function", "counts"),
    [
        (plain, {1, 2}),
        (first, {1}),
        (more, {1, 2, 3}),
        (named, set()),
        (anything, {0, 1, 2, 3}),
        (none, {0}),
        (functools.partial(plain, 1), {0, 1}),
        (functools.partial(plain, a=1), {0}),
        (print, {0, 1, 2, 3}),
    ],
)
def test_they_fit_by_number_only_where_the_signature_takes_them(function: Callable[..., Any], counts: set[int]) -> None:
    signature = inspect.signature(function)
    positional = positional_of(signature)
    for count in range(4):
        args = list(range(count))
        assert fits(positional, args, {}) is (count in counts)
        assert not fits(positional, args, {"c": 1})
        if fits(positional, args, {}):
            signature.bind(*args)
