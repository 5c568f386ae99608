"""Sandboxes for models: a Model Context Protocol server over the official `mcp` package (the extra `mcp`).

Each session of the protocol has a sandbox of its own, which keeps its variables and files. No tool grants anything: a
refusal reaches the model as text, with its code, its target and the rule that an operator might add.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, ImageContent, TextContent

from ..cell.values import text_of
from ..distribution import VERSION
from ..errors import SandboxError
from ..policy import Policy
from ..sandbox.files import SandboxFiles
from ..sandbox.process import Sandbox
from ..sandbox.result import Result
from ..sandbox.rich import RichOutput
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .kept_sandbox import with_files
from .model_text import cut, file_list, file_text, for_model, images, in_words, outcome_text
from .new_events import NewEvents

_INSTRUCTIONS = (
    "Python and programs run in a sandbox under a policy that the kernel enforces. Variables and files last as long as "
    "the session. What is refused cannot be had by trying again or in another way: say what was refused and go on "
    "without it, or ask the user to change the policy."
)


class Sessions:
    """A sandbox for each session, made when it is first used. At most `limit`: the one unused longest is closed.

    Safe from any thread.
    """

    def __init__(self, supervisor: Supervisor, policy: Policy, *, limit: int = 16, idle_s: float = 1800) -> None:
        self._supervisor, self._limit, self._idle_s = supervisor, limit, idle_s
        self._policy = with_files(policy)
        self._lock = threading.Lock()
        self._sandboxes: OrderedDict[str, tuple[Sandbox, float]] = OrderedDict()

    def of(self, session: str, *, known: bool = False) -> tuple[Sandbox, bool]:
        """Return the session's sandbox, and whether it is new. Raises SandboxError for a session that must be known."""
        with self._lock:
            if (sandbox := self._living(session, known=known)) is not None:
                return sandbox, False
        made = self._supervisor.spawn(f"mcp-{session[:8]}", self._policy)  # without the lock: other sessions go on
        with self._lock:
            if (sandbox := self._living(session)) is not None:  # another call of the session was quicker
                made.close()
                return sandbox, False
            ended = self._sandboxes.get(session)
            self._sandboxes[session] = made, time.monotonic()
            self._close_unused()
        if ended is not None:  # until it is closed the supervisor holds its files
            ended[0].close()
        return made, True

    def _living(self, session: str, *, known: bool = False) -> Sandbox | None:
        found = self._sandboxes.get(session)
        if known and found is None:
            cause = "there is none of this name, or it was quiet for too long"
            raise SandboxError(operation="session", subject=session[:40], cause=cause, hint="leave it out")
        if found is None or found[0].closed:
            return None
        self._sandboxes[session] = found[0], time.monotonic()
        self._sandboxes.move_to_end(session)
        return found[0]

    def end(self, session: str) -> None:
        """Close a session's sandbox; the next use makes another."""
        with self._lock:
            found = self._sandboxes.pop(session, None)
        if found is not None:
            found[0].close()

    def _close_unused(self) -> None:
        now = time.monotonic()
        for session, (sandbox, used) in list(self._sandboxes.items()):
            if len(self._sandboxes) > self._limit or now - used > self._idle_s:
                del self._sandboxes[session]
                sandbox.close()


def make_server(sessions: Sessions) -> MCPServer[Any]:
    """Return the server with its tools, to be run over stdio or HTTP."""
    server: MCPServer[Any] = MCPServer("pyisolate", version=VERSION, instructions=_INSTRUCTIONS)
    tools = Tools(sessions)
    for tool in (tools.run_python, tools.run_command, tools.write_file, tools.read_file, tools.list_files,
                 tools.get_denials, tools.explain_denial, tools.reset):  # fmt: skip
        server.tool()(tool)
    return server


@dataclass(frozen=True)
class _Place:
    """Where a call runs. `announced`: a name that the client must send to come back, where its transport has none."""

    sandbox: Sandbox
    new: bool
    events: NewEvents
    announced: str | None

    def new_events(self) -> list[DenialEvent]:
        return list(self.events.take(self.sandbox))


class Tools:
    """What a model may call. The docstrings are what it reads.

    Over stdio there is one session; HTTP has a header for it up to protocol 2025-11-25, and none since: there a call
    without `session` gets a new one, whose name comes back and cannot be guessed.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def run_python(
        self, ctx: Context, code: str, timeout: float | None = None, session: str | None = None
    ) -> CallToolResult:
        """Run Python. Output, images and the value of a last expression come back. `timeout` is in seconds."""

        async def use(place: _Place) -> CallToolResult:
            try:
                outcome: Result | SandboxError = await place.sandbox.aexec(code, timeout=timeout, filename="<cell>")
            except SandboxError as error:
                outcome = error
            return await asyncio.to_thread(_answer, outcome, place)

        return await self._in_sandbox(ctx, session, use)

    async def run_command(
        self, ctx: Context, command: list[str], timeout: float | None = None, session: str | None = None
    ) -> CallToolResult:
        """Run a program, without a shell: its name or path, then its arguments. The policy must grant it."""

        async def use(place: _Place) -> CallToolResult:
            try:
                done = await place.sandbox.acall(_run_in_guest, command, timeout=timeout)
            except SandboxError as error:
                return await asyncio.to_thread(_answer, error, place)
            return await asyncio.to_thread(_of_command, done, place)

        return await self._in_sandbox(ctx, session, use)

    async def write_file(self, ctx: Context, path: str, content: str, session: str | None = None) -> CallToolResult:
        """Write a text file into the session's workspace."""
        return await self._with(ctx, session, lambda place: _wrote(place.sandbox.files, path, content))

    async def read_file(self, ctx: Context, path: str, session: str | None = None) -> CallToolResult:
        """Read a text file of the session's workspace."""
        return await self._with(ctx, session, lambda place: _read(place.sandbox.files, path))

    async def list_files(self, ctx: Context, path: str = ".", session: str | None = None) -> CallToolResult:
        """List the files of the session's workspace."""
        return await self._with(ctx, session, lambda place: _listed(place.sandbox.files, path))

    async def get_denials(self, ctx: Context, session: str | None = None) -> CallToolResult:
        """List what was refused in this session."""
        return await self._with(ctx, session, lambda place: _denied(for_model(place.sandbox.get_denial_events())))

    async def explain_denial(self, ctx: Context, event_id: str, session: str | None = None) -> CallToolResult:
        """Say who refused something, and which rule would allow it."""
        return await self._with(
            ctx, session, lambda place: _explained(for_model(place.sandbox.get_denial_events()), event_id)
        )

    async def reset(self, ctx: Context, session: str | None = None) -> CallToolResult:
        """End the sandbox, with its variables and files."""
        await asyncio.to_thread(self._sessions.end, session or _of_transport(ctx) or "")
        return _result("variables and files are gone; the next call starts a new sandbox")

    async def _in_sandbox(
        self, ctx: Context, session: str | None, use: Callable[[_Place], Awaitable[CallToolResult]]
    ) -> CallToolResult:
        try:
            place = await asyncio.to_thread(self._place, ctx, session)
            result = await use(place)
        except (OSError, ValueError, SandboxError) as error:
            return _result(f"{type(error).__name__}: {error}", failed=True)
        return result if place.announced is None else _announce(result, place.announced)

    async def _with(self, ctx: Context, session: str | None, use: Callable[[_Place], CallToolResult]) -> CallToolResult:
        async def in_thread(place: _Place) -> CallToolResult:
            return await asyncio.to_thread(use, place)

        return await self._in_sandbox(ctx, session, in_thread)

    def _place(self, ctx: Context, session: str | None) -> _Place:
        of_transport = _of_transport(ctx)
        name = session or of_transport or secrets.token_urlsafe(18)
        sandbox, new = self._sessions.of(name, known=session is not None)
        events = NewEvents()
        events.take(sandbox)
        return _Place(sandbox, new, events, None if of_transport else name)


def _announce(result: CallToolResult, session: str) -> CallToolResult:
    line = TextContent(type="text", text=f"session: {session} (send it as `session` to find variables and files again)")
    structured = {**(result.structured_content or {}), "session": session}
    return result.model_copy(update={"content": [*result.content, line], "structured_content": structured})


def _of_transport(context: Context) -> str | None:
    """Return the session that the transport knows: the only one of stdio, or what HTTP's header names."""
    headers = context.headers
    return "stdio" if headers is None else headers.get("mcp-session-id")


def _wrote(files: SandboxFiles, path: str, content: str) -> CallToolResult:
    files.write(path, content)
    return _result(f"{path}: written", {"path": path})


def _read(files: SandboxFiles, path: str) -> CallToolResult:
    text = file_text(files, path)
    return _result(text, {"path": path, "content": text})


def _listed(files: SandboxFiles, path: str) -> CallToolResult:
    text, entries = file_list(files, path)
    return _result(text, {"files": [{"path": one.path, "kind": one.kind, "size": one.size} for one in entries]})


def _denied(events: list[DenialEvent]) -> CallToolResult:
    text = "\n".join(f"{event.event_id}  {in_words(event)}" for event in events)
    return _result(cut(text or "nothing was refused"), {"denials": [_plain(event) for event in events]})


def _explained(events: list[DenialEvent], event_id: str) -> CallToolResult:
    for event in events:
        if event.event_id == event_id:
            return _result(explain(event), event.to_dict())
    return _result(f"{event_id}: no such event in this session", failed=True)


def _run_in_guest(command: list[str]) -> dict[str, Any]:
    """Run in the guest; sent there by value."""
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    return {"exit_code": done.returncode} | {name: data.decode("utf-8", "replace") for name, data in texts.items()}


# -- answers ------------------------------------------------------------------------------------------------------


def explain(event: DenialEvent) -> str:
    """Return all that is known of a refusal, as text."""
    return "\n".join(
        (
            in_words(event),
            f"broker: {event.broker_decision.value}, {event.broker_reason}",
            f"kernel: {event.kernel_decision.value}, {event.kernel_reason} ({event.kernel_enforcer or 'no enforcer'})",
            f"policy: {event.policy}, rule {event.policy_rule or 'none'}; at {event.origin or 'an unknown place'}",
        )
    )


def _answer(outcome: Result | SandboxError, place: _Place) -> CallToolResult:
    """Make the tool's result of a Result or of the error that took its place."""
    error = outcome if isinstance(outcome, SandboxError) else None
    denials = for_model(place.new_events())
    value = None if isinstance(outcome, SandboxError) or outcome.value is None else cut(text_of(outcome.value))
    structured = {
        "stdout": cut(outcome.stdout),
        "stderr": cut(outcome.stderr),
        "value": value,
        "error": None if error is None else error.summary,
        "new_sandbox": place.new,
        "denials": [_plain(event) for event in denials],
    }
    text = outcome_text(outcome, denials, ended=place.sandbox.closed)
    return _result(text, structured, failed=error is not None, outputs=outcome.outputs)


def _of_command(done: dict[str, Any], place: _Place) -> CallToolResult:
    denials = for_model(place.new_events())
    lines = [cut(str(done["stdout"])), cut(str(done["stderr"])), f"exit status {done['exit_code']}"]
    lines += [in_words(event) for event in denials]
    structured = {name: cut(part) if isinstance(part, str) else part for name, part in done.items()}
    structured["denials"] = [_plain(event) for event in denials]
    return _result("\n".join(line.rstrip("\n") for line in lines if line), structured, failed=done["exit_code"] != 0)


def _plain(event: DenialEvent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "capability": event.capability.value,
        "target": event.target,
        "code": event.code.value,
        "count": event.count,
        "suggestion": event.suggestion,
    }


def _result(
    text: str, structured: dict[str, Any] | None = None, *, failed: bool = False, outputs: tuple[RichOutput, ...] = ()
) -> CallToolResult:
    content: list[Any] = [TextContent(type="text", text=text)]
    for mime, data in images(outputs):
        content.append(ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=mime))
    return CallToolResult(content=content, structured_content=structured, is_error=failed)
