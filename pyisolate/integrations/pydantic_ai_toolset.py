"""A sandbox as a toolset of pydantic-ai (the extra `pydantic-ai`): `Agent(..., toolsets=[SandboxToolset("compute")])`.

The model runs code and keeps files in a sandbox; no tool grants anything, and a refusal is text for the model.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Self, Unpack

from pydantic_ai.messages import BinaryContent, ToolReturn
from pydantic_ai.toolsets import FunctionToolset

from ..errors import SandboxError
from ..sandbox.result import Result
from ..supervisor.options import PolicyLike, SpawnOptions
from ..supervisor.supervisor import Supervisor
from .kept_sandbox import KeptSandbox, with_files
from .model_text import file_list, file_text, images, outcome_text

_INSTRUCTIONS = (
    "Python runs in a sandbox under a policy. Variables and files last from call to call. What is refused cannot be "
    "had in another way: say what was refused and go on without it."
)


class SandboxToolset(FunctionToolset[Any]):  # type: ignore[misc]
    """Tools `run_python`, `write_file`, `read_file` and `list_files` on one sandbox under `policy`.

    The sandbox lasts as long as the toolset is entered: one run of the agent, or all within `async with toolset:` (or
    `async with agent:`). One that ended by a limit is replaced at the next call, and the answer says so.
    `exec_timeout`: seconds for one call of `run_python`. `supervisor`: default is the process's. `options` go to
    `spawn`. Runs of one toolset at a time share its sandbox; give each its own toolset to keep them apart.
    """

    def __init__(
        self,
        policy: PolicyLike | None = None,
        *,
        exec_timeout: float | None = None,
        supervisor: Supervisor | None = None,
        id: str | None = "pyisolate",
        **options: Unpack[SpawnOptions],
    ) -> None:
        self._exec_timeout = exec_timeout
        self._kept = KeptSandbox("pydantic-ai", with_files(policy), supervisor, options)
        self._lock = threading.Lock()
        self._entered = 0
        tools = [self.run_python, self.write_file, self.read_file, self.list_files]
        super().__init__(tools, sequential=True, id=id, instructions=_INSTRUCTIONS)

    async def __aenter__(self) -> Self:
        with self._lock:
            self._entered += 1
        return self

    async def __aexit__(self, *exception: Any) -> None:
        with self._lock:
            self._entered -= 1
            sandbox = None if self._entered else self._kept.take()
        if sandbox is not None:
            await sandbox.aclose()

    async def run_python(self, code: str) -> ToolReturn:
        """Run Python. Output, images and the value of a last expression come back."""
        sandbox = await asyncio.to_thread(self._kept.living)
        try:
            outcome: Result | SandboxError = await sandbox.aexec(code, timeout=self._exec_timeout, filename="<cell>")
        except SandboxError as error:
            outcome = error
        text = outcome_text(outcome, outcome.denials, ended=sandbox.closed)
        pictures = [BinaryContent(data, media_type=mime) for mime, data in images(outcome.outputs)]
        denials = [event.to_dict() for event in outcome.denials]
        return ToolReturn(text, content=pictures or None, metadata={"denials": denials})

    async def write_file(self, path: str, content: str) -> str:
        """Write a text file into the sandbox's workspace."""

        def write() -> str:
            self._kept.living().files.write(path, content)
            return f"{path}: written"

        return await _or_why_not(write)

    async def read_file(self, path: str) -> str:
        """Read a text file of the sandbox's workspace."""

        def read() -> str:
            return file_text(self._kept.living().files, path)

        return await _or_why_not(read)

    async def list_files(self, path: str = ".") -> str:
        """List the files of the sandbox's workspace."""

        def show() -> str:
            return file_list(self._kept.living().files, path)[0]

        return await _or_why_not(show)


async def _or_why_not(use: Any) -> str:
    try:
        return str(await asyncio.to_thread(use))
    except (OSError, ValueError, SandboxError) as error:
        return f"{type(error).__name__}: {error}"
