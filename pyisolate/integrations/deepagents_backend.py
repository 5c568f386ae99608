"""A sandbox as the backend of deep agents of LangChain (extra `deepagents`): `create_deep_agent(backend=...)`.

The agent's shell and its file tools work in a sandbox: the policy says which programs and files there are.
"""

from __future__ import annotations

import secrets
from pathlib import PurePosixPath
from typing import Any, Self, Unpack

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox

from ..errors import SandboxError, TimeoutError
from ..policy import Policy
from ..supervisor.options import PolicyLike, SpawnOptions, choose_policy
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .kept_sandbox import KeptSandbox, with_files
from .model_text import in_words

#: Where files of the agent's are, unless it names another place that the policy grants.
WORKSPACE = PurePosixPath("/sandbox/workspace")
#: What the framework's own file tools run, in the guest.
PROGRAMS = ("/bin/sh", "/usr/bin/python3", "/usr/bin/grep")
_TIMED_OUT = 124  # as timeout(1)


class SandboxBackend(BaseSandbox):  # type: ignore[misc]
    """A `SandboxBackendProtocol` whose commands run in a sandbox under `policy`; close it, or use it in a `with`.

    The policy must grant the shell, and what the file tools run: `grant_programs` adds those. `timeout`: seconds for a
    command that names none. `supervisor`: default is the process's. `options` go to `spawn`. A sandbox that
    ended by a limit is replaced at the next command, and the answer of the one that it ended in says so.
    """

    def __init__(
        self,
        policy: PolicyLike | None = None,
        *,
        timeout: float | None = None,
        supervisor: Supervisor | None = None,
        **options: Unpack[SpawnOptions],
    ) -> None:
        self._timeout = timeout
        self._kept = KeptSandbox("deepagents", with_files(policy), supervisor, options)
        self._id = f"pyisolate-{secrets.token_hex(8)}"

    @property
    def id(self) -> str:
        """The backend's name; it stays when a sandbox is replaced."""
        return self._id

    @property
    def denials(self) -> list[DenialEvent]:
        """The stored refusals of the sandbox that lives now, oldest first."""
        sandbox = self._kept.current
        return [] if sandbox is None else sandbox.get_denial_events()

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell's command. Output of one that failed ends with what was refused and rules that would allow it."""
        try:
            sandbox = self._kept.living()
            seen = {event.event_id for event in sandbox.get_denial_events()}
        except (SandboxError, OSError) as error:
            return ExecuteResponse(output=str(error), exit_code=None)
        try:
            # one stream, in the order of writing
            done = sandbox.run(["/bin/sh", "-c", f"exec 2>&1\n{command}"], timeout=timeout or self._timeout)
            output, status = done.stdout.decode("utf-8", "backslashreplace"), done.returncode
        except (SandboxError, OSError) as error:
            output = f"{getattr(error, 'stdout', '')}{getattr(error, 'summary', error)}\n"
            status = _TIMED_OUT if isinstance(error, TimeoutError) else 1
        if status:
            refused = [event for event in sandbox.get_denial_events() if event.event_id not in seen]
            output += "".join(f"{in_words(event)}\n" for event in refused)
        if sandbox.closed:
            output += "the sandbox has ended: its files are gone, the next command starts a new one\n"
        return ExecuteResponse(output=output, exit_code=status)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files: into the workspace, or where else the policy lets the guest write."""

        def write(path: str, data: bytes) -> None:
            if (inside := _in_workspace(path)) is not None:
                self._kept.living().files.write(inside, data)
            else:
                self._kept.living().call(_write, path, data, timeout=self._timeout)

        return [FileUploadResponse(path=path, error=_error_of(write, path, data)) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files: of the workspace, or where else the policy lets the guest read."""
        answers = []
        for path in paths:
            found: list[bytes] = []

            def read(path: str, found: list[bytes] = found) -> None:
                inside = _in_workspace(path)
                sandbox = self._kept.living()
                found.append(
                    bytes(
                        sandbox.files.read(inside)
                        if inside is not None
                        else sandbox.call(_read, path, timeout=self._timeout)
                    )
                )

            error = _error_of(read, path)
            answers.append(FileDownloadResponse(path=path, content=None if error else found[0], error=error))
        return answers

    def close(self) -> None:
        """End the sandbox; nothing runs here any more. Safe to call twice."""
        self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: Any) -> None:
        self.close()


def grant_programs(policy: PolicyLike, *more: str) -> Policy:
    """Return a policy that also grants `PROGRAMS` and `more`, by path."""
    granted = choose_policy(policy, None, None, None)
    for path in (*PROGRAMS, *more):
        granted = granted.allow_exec(path)
    return granted


def _in_workspace(path: str) -> str | None:
    """Return a path as the workspace's files know it, None for one elsewhere."""
    whole = WORKSPACE / path
    return str(whole.relative_to(WORKSPACE)) if whole.is_relative_to(WORKSPACE) and ".." not in whole.parts else None


def _error_of(use: Any, *arguments: Any) -> str | None:
    """Return what the framework calls the error of a file operation, None for none."""
    try:
        use(*arguments)
    except (SandboxError, OSError, ValueError) as error:
        name = getattr(error, "type_name", type(error).__name__)
        if isinstance(error, PermissionError):
            return "permission_denied"
        known = {
            "FileNotFoundError": "file_not_found",
            "IsADirectoryError": "is_directory",
            "ValueError": "invalid_path",
        }
        return known.get(name, str(error))
    return None


def _write(path: str, data: bytes) -> None:
    """Run in the guest; sent there by value."""
    with open(path, "wb") as file:
        file.write(data)


def _read(path: str) -> bytes:
    """Run in the guest; sent there by value."""
    with open(path, "rb") as file:
        return file.read()
