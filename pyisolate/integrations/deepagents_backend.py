"""A sandbox as the backend of deep agents of LangChain (extra `deepagents`): `create_deep_agent(backend=...)`.

The agent's shell and its file tools work in a sandbox: the policy says which programs and files there are.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Self, Unpack

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox

from ..errors import SandboxError, TimeoutError
from ..policy import Policy
from ..sandbox.files import READ_BYTES
from ..supervisor.options import PolicyLike, SpawnOptions, choose_policy
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .guest_files import read_file, write_file
from .kept_sandbox import KeptSandbox, with_files

#: What the framework's own file tools run, in the guest.
PROGRAMS = ("/bin/sh", "/usr/bin/python3", "/usr/bin/grep")
_TIMED_OUT = 124  # as timeout(1)
_ERRORS: dict[type[BaseException], str] = {
    FileNotFoundError: "file_not_found",
    IsADirectoryError: "is_directory",
    ValueError: "invalid_path",
}


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
        # one stream, in the order of writing
        shell = ["/bin/sh", "-c", f"exec 2>&1\n{command}"]
        try:
            attempt = self._kept.attempt(lambda sandbox: sandbox.run(shell, timeout=timeout or self._timeout))
        except (SandboxError, OSError) as error:
            return ExecuteResponse(output=str(error), exit_code=None)
        if attempt.error is None:
            output, status = attempt.value.stdout.decode("utf-8", "backslashreplace"), attempt.value.returncode
        else:
            output = f"{getattr(attempt.error, 'stdout', '')}{getattr(attempt.error, 'summary', attempt.error)}\n"
            status = _TIMED_OUT if isinstance(attempt.error, TimeoutError) else 1
        return ExecuteResponse(output=output + (attempt.remarks if status else ""), exit_code=status)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files: into the workspace, or where else the policy lets the guest write."""

        answers = []
        for path, data in files:
            _, error = _tried(self._write, path, data)
            answers.append(FileUploadResponse(path=path, error=error))
        return answers

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files: of the workspace, or where else the policy lets the guest read."""
        answers = []
        for path in paths:
            content, error = _tried(self._read, path)
            answers.append(FileDownloadResponse(path=path, content=content, error=error))
        return answers

    def _write(self, path: str, data: bytes) -> None:
        write_file(self._kept.living(), path, data, timeout=self._timeout)

    def _read(self, path: str) -> bytes:
        return read_file(self._kept.living(), path, max_bytes=READ_BYTES, timeout=self._timeout)

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


def _tried(use: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """Return what a file operation gave, and what the framework calls its error, None for none."""
    try:
        return use(*arguments), None
    except PermissionError:
        return None, "permission_denied"
    except (SandboxError, OSError, ValueError) as error:
        return None, _ERRORS.get(type(error), str(error))
