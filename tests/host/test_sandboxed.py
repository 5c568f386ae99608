"""Functions that run in a sandbox of their own at each call, and what they call there."""

from __future__ import annotations

import asyncio

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
