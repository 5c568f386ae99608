"""What the keywords of `subprocess` mean for a program as guest: its text, where its output goes, its time-out."""

from __future__ import annotations

import codecs
import contextlib
import subprocess
from typing import Any

import msgspec

from .. import errors as public
from .received import OutputSink, Sink, sink_of
from .result import BytesCallback, OutputCallback


class TimeoutError(public.TimeoutError, subprocess.TimeoutExpired):  # type: ignore[misc] # text where that has bytes
    """The time of a program that `Sandbox.run` ran is up. `cmd`, `timeout` and `output` (bytes) are `subprocess`'s.

    `stdout` and `stderr` are text, as every error of this library has them. It has the name of the one that it is,
    which descriptions of errors show.
    """

    def __init__(self, error: public.TimeoutError, cmd: list[str], timeout: float | None, output: bytes | None) -> None:
        super().__init__(error.summary, limit=error.limit)
        self.__dict__.update(error.__dict__)
        self.args = error.args
        self.cmd, self.output = cmd, output
        self.timeout = (error.allowed or 0.0) if timeout is None else timeout


class ProgramText(msgspec.Struct, frozen=True):
    """How text of a program is made of bytes. What is no UTF-8 reads `\\xff`, where its user names nothing else."""

    encoding: str = "utf-8"
    errors: str = "backslashreplace"
    #: for what is written to it
    input_errors: str = "strict"

    def decoded(self, data: bytes) -> str:
        """Return output as text, with the ends of lines that text files have."""
        return data.decode(self.encoding, self.errors).replace("\r\n", "\n").replace("\r", "\n")

    def encoded(self, given: Any) -> Any:
        """Return input: of text its bytes, all else as it is."""
        return given.encode(self.encoding, self.input_errors) if isinstance(given, str) else given


def check_program_text(
    what: str, text: bool | None, universal_newlines: bool | None, encoding: str | None, errors: str | None
) -> ProgramText | None:
    """Return how output becomes text, None where it stays bytes.

    Raises LookupError for what has no codec, and SubprocessError for `text` and `universal_newlines` that differ.
    """
    if None not in (text, universal_newlines) and bool(text) != bool(universal_newlines):
        raise subprocess.SubprocessError(f"{what}: text, universal_newlines: one means the other. Hint: leave one out")
    for name, given in (("encoding", encoding), ("errors", errors)):
        if given is not None and not isinstance(given, str):
            raise TypeError(f"{what}: {name}: must be str, not {type(given).__name__}")
    if encoding is not None:
        codecs.lookup(encoding)
    if errors is not None:
        codecs.lookup_error(errors)
    if not (text or universal_newlines or encoding or errors):
        return None
    if errors or encoding:
        return ProgramText(encoding or "utf-8", errors or "strict", errors or "strict")
    return ProgramText()


def check_no_shell(what: str, shell: object) -> None:
    """Raise ValueError for `shell=True`."""
    if shell:
        raise ValueError(
            f"{what}: shell: a shell is a program that the policy grants. Hint: run ['/bin/sh', '-c', text] instead"
        )


def check_outputs(what: str, stdout: object) -> None:
    """Raise ValueError where stdout is to go to itself."""
    if type(stdout) is int and stdout == subprocess.STDOUT:
        raise ValueError(f"{what}: stdout: STDOUT is for stderr alone. Hint: stderr=subprocess.STDOUT joins the two")


class CapturedOutput(msgspec.Struct, frozen=True):
    """Where one stream of a program that `Sandbox.run` runs goes: into the answer, or to a sink instead."""

    callback: OutputCallback | None
    sink: Sink | None = None
    discarded: bool = False

    def of(self, data: bytes, text: ProgramText | None) -> Any:
        """Return what the answer holds of it."""
        if self.sink is not None:
            return None
        return data if text is None else text.decoded(data)

    def ending(self, stack: contextlib.ExitStack) -> None:
        """Have the sink end with a block."""
        if self.sink is not None:
            stack.callback(self.sink.end)


def captured_output(name: str, target: OutputSink | None, callback: OutputCallback | None) -> CapturedOutput:
    """Return where a stream goes: None is PIPE, because no program writes to what this process has open."""
    if target is None or (isinstance(target, int) and target == subprocess.PIPE):
        return CapturedOutput(callback)
    if callback is not None:
        raise ValueError(f"run: {name}: goes elsewhere, so on_{name} would see nothing. Hint: give one of the two")
    sink = sink_of(target, "run")
    discarded = isinstance(target, int) and target == subprocess.DEVNULL
    return CapturedOutput(BytesCallback(sink.feed), sink, discarded)
