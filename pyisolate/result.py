"""What a request gives back, what a sandbox reads as, and the text it wrote."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

import msgspec

from .telemetry.event import DenialEvent

OutputCallback = Callable[[str], None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one request gave: captured text, the value, seconds it took, and the denials it met.

    `value` is plain data; `value_is_repr` is set when the last expression's value was not, and its repr stands in.
    """

    stdout: str
    stderr: str
    value: Any
    duration: float
    denials: tuple[DenialEvent, ...] = ()
    value_is_repr: bool = False
    exit_code: int | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Readings of a sandbox: seconds, bytes and counts; None where the machine gives no such reading."""

    state: str
    uptime_s: float
    cpu_s: float | None
    memory_bytes: int | None
    memory_peak_bytes: int | None
    processes: int | None
    requests: int
    output_bytes: int
    messages: int
    denials: int
    events_lost: int


class Output:
    """Collects one stream as text, or passes it on."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._parts: list[str] = []
        self.callback: OutputCallback | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they came; a character cut in two waits for its rest."""
        text = self._decoder.decode(data)
        if not text:
            return
        if self.callback is not None:
            self.callback(text)
        self._parts.append(text)

    def take(self) -> str:
        """Return the text so far and start anew."""
        text, self._parts = "".join(self._parts), []
        return text
