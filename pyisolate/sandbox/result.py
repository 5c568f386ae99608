"""What a request gives back, what a sandbox reads as, and the text it wrote."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from ..cell.values import text_of
from ..errors import Written
from ..telemetry.event import DenialEvent
from .rich import RichOutput


@dataclass(frozen=True)
class BytesCallback:
    """As `on_stdout` or `on_stderr`: a function that is called with bytes as they come, not with text."""

    take: Callable[[bytes], None]

    def __post_init__(self) -> None:
        if not callable(self.take):
            raise TypeError(f"BytesCallback: must be given a function, not {type(self.take).__name__}")


OutputCallback = Callable[[str], None] | BytesCallback


def check_callbacks(on_stdout: object, on_stderr: object) -> None:
    """Raise TypeError for what output cannot be passed on to."""
    for what, given in (("on_stdout", on_stdout), ("on_stderr", on_stderr)):
        if given is not None and not callable(given) and not isinstance(given, BytesCallback):
            raise TypeError(f"{what}: must be a function, or BytesCallback(function), not {type(given).__name__}")


class Result(Written, msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What one request gave: captured text, the value, seconds it took, and the denials it met.

    `value` is the last expression's; `value_is_repr` is set where it, or a part of it, has no form (docs/values.md)
    and its repr stands in. In `stdout` and `stderr` bytes that are no UTF-8 read `\\xff`; `stdout_bytes` and
    `stderr_bytes` are what was written. `exit_code` is what was given to `sys.exit`, None where nothing was.
    """

    stdout: str
    stderr: str
    value: Any
    duration: float
    denials: tuple[DenialEvent, ...] = ()
    value_is_repr: bool = False
    exit_code: int | None = None
    #: what the guest displayed: `display`, rich values of the last expression, open figures of pyplot
    outputs: tuple[RichOutput, ...] = ()
    #: of a stream whose text is not all of it
    raw: dict[str, bytes] = {}

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except Exception:  # a value of the guest's that has none
            return msgspec.structs.replace(self, value=text_of(self.value)).__repr__()


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Readings of a sandbox: seconds, bytes and counts; None where the machine gives no such reading.

    `host_cpu_s` is processor time of this process for what the guest sent and asked, `host_held_s` how long that was
    left waiting because it was past the budget that each sandbox has of the host's time (docs/limits.md).
    """

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
    host_cpu_s: float | None = None
    host_held_s: float | None = None


class Output:
    """Collects one stream, and passes it on."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        #: what was written and not taken yet
        self.data = bytearray()
        self.callback: OutputCallback | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they came. A callback for text gets a character cut in two with its rest."""
        self.data += data
        if isinstance(self.callback, BytesCallback):
            self.callback.take(data)
        elif self.callback is not None and (text := self._decoder.decode(data)):
            self.callback(text)

    def take(self) -> tuple[str, bytes | None]:
        """Return the text so far, and the bytes where text does not say them all; start anew."""
        if not self.data:
            return "", None
        data = bytes(self.data)
        self.data.clear()
        rest = self._decoder.decode(b"", final=True)
        if rest and self.callback is not None and not isinstance(self.callback, BytesCallback):
            self.callback(rest)
        try:
            return data.decode(), None
        except UnicodeDecodeError:
            return data.decode("utf-8", "backslashreplace"), data


def take_all(outputs: dict[str, Output]) -> dict[str, Any]:
    """Take both streams, as the fields of a `Result`."""
    if not outputs["stdout"].data and not outputs["stderr"].data:
        return {"stdout": "", "stderr": "", "raw": {}}
    raw: dict[str, bytes] = {}
    fields: dict[str, Any] = {"raw": raw}
    for stream, output in outputs.items():
        fields[stream], data = output.take()
        if data is not None:
            raw[stream] = data
    return fields
