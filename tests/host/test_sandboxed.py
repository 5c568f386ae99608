"""Functions that run in a sandbox of their own at each call, and what they call there."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

import pyisolate


@pyisolate.sandboxed("compute")
def factorial(number: int) -> int:
    return 1 if number < 2 else number * factorial(number - 1)


@pyisolate.sandboxed("compute")
async def doubled(number: int) -> int:
    return 2 * factorial(number)


def test_a_sandboxed_function_calls_itself_and_others_in_its_own_sandbox(supervisor: pyisolate.Supervisor) -> None:
    assert factorial(4) == 24
    assert asyncio.run(doubled(3)) == 12
    with supervisor.spawn("given") as sandbox:
        assert sandbox.call(factorial, 5) == 120


@pyisolate.sandboxed("compute", limits={"memory": "200MiB"}, workspace="4MiB")
def countdown(number: int) -> int:
    return number and countdown(number - 1)


def test_what_its_options_make_of_a_policy_is_its_own_too() -> None:
    assert countdown(2) == 0


@pyisolate.sandboxed("none")
def narrow() -> str:
    return "ran"


@pyisolate.sandboxed("compute")
def wide() -> str:
    return narrow()


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def count() -> Any:
        return [function()]

    return count


def test_a_narrower_policy_of_its_own_is_not_lost_in_silence(supervisor: pyisolate.Supervisor) -> None:
    assert narrow() == "ran"
    with pytest.raises(TypeError, match=r"narrow is sandboxed by a policy of its own, 'none', .* under 'compute'"):
        wide()
    with supervisor.spawn("given", "data") as sandbox, pytest.raises(TypeError, match="which grants more"):
        sandbox.call(max, [1], key=narrow)


def test_a_decorator_around_it_stays(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("decorated", "none") as sandbox:
        assert sandbox.call(counted(narrow)) == ["ran"]
