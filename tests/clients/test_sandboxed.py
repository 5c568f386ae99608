"""`sandboxed` runs functions of the host in real sandboxes, sync and async alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import pyisolate
from pyisolate.actor import acting_as
from pyisolate.guards import sandboxed

pytestmark = pytest.mark.leaks("the default supervisor and its threads outlive a test")

FACTOR = 3


@sandboxed("compute", timeout=10)
def triple(number: int) -> int:
    return number * FACTOR


@sandboxed("compute", timeout=10)
async def triple_async(number: int) -> int:
    import asyncio

    await asyncio.sleep(0.001)
    return number * FACTOR


@sandboxed("compute", timeout=10)
def read(path: str) -> str:
    with open(path) as file:
        return file.read()


@sandboxed("compute", timeout=10)
async def read_async(path: str) -> str:
    with open(path) as file:
        return file.read()


@sandboxed("compute", timeout=0.5)
def spin() -> None:
    while True:
        pass


def sync_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: asyncio.run(function(*args))


@pytest.mark.parametrize("function", [triple, sync_of(triple_async)])
def test_a_result_comes_back(function: Callable[[int], int]) -> None:
    assert [function(number) for number in (1, 5)] == [3, 15]


@pytest.mark.parametrize("function", [read, sync_of(read_async)])
def test_what_the_policy_does_not_grant_is_refused_in_the_actors_name(function: Callable[[str], str]) -> None:
    assert open("/etc/passwd").read()  # noqa: SIM115 - the control: the host itself may
    with acting_as("agent", "7"), pytest.raises(pyisolate.PolicyError) as caught:
        function("/etc/passwd")
    event = caught.value.denial_event
    assert event is not None
    assert (event.capability, event.target, event.code) == ("fs.read", "/etc/passwd", "NOT_GRANTED")
    assert event.actor is not None
    assert (event.actor.kind, event.actor.id) == ("agent", "7")


def test_the_timeout_ends_it() -> None:
    with pytest.raises(pyisolate.TimeoutError):
        spin()


def test_several_run_at_once_under_asyncio() -> None:
    async def run() -> list[int]:
        return await asyncio.gather(*(triple_async(number) for number in range(5)))

    assert asyncio.run(run()) == [0, 3, 6, 9, 12]


def test_each_call_has_a_sandbox_of_its_own() -> None:
    @sandboxed("compute", timeout=10)
    def remember() -> int:
        import builtins

        builtins.seen = getattr(builtins, "seen", 0) + 1  # type: ignore[attr-defined]
        return int(builtins.seen)

    assert [remember(), remember()] == [1, 1]
