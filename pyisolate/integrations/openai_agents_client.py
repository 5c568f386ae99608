"""Sandboxes for agents of the OpenAI Agents SDK (extra `openai-agents`): `SandboxRunConfig(client=SandboxClient(...))`.

A `SandboxAgent`'s shell, patches and files work in a sandbox: the policy says which programs and files there are.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Unpack

from agents.sandbox import Manifest
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.session import BaseSandboxClient, BaseSandboxSession, SandboxSession, SandboxSessionState
from agents.sandbox.snapshot import resolve_snapshot
from agents.sandbox.types import ExecResult
from agents.sandbox.util.tar_utils import should_skip_tar_member

from ..errors import SandboxError, TimeoutError
from ..policy import Policy
from ..sandbox.files import READ_BYTES, SandboxFiles
from ..sandbox.process import Sandbox
from ..supervisor.options import PolicyLike, SpawnOptions
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .guest_files import WORKSPACE, make_directory, read_file, write_file
from .kept_sandbox import Attempt, KeptSandbox, with_files

#: What the SDK's own tools and file operations run, in the guest.
PROGRAMS = ("/bin/sh", "/bin/ls", "/bin/mkdir", "/bin/rm", "/bin/mv", "/bin/chmod")
_UNNAMED_ROOT = "/workspace"  # a manifest's, where it names none
OnDenials = Callable[[tuple[DenialEvent, ...]], object]


class SandboxState(SandboxSessionState):  # type: ignore[misc]
    """What the SDK keeps of a session between runs."""

    type: Literal["pyisolate"] = "pyisolate"


class SandboxClient(BaseSandboxClient):  # type: ignore[misc]
    """A client of the SDK whose sessions are sandboxes under `policy`.

    The policy must grant the shell and `PROGRAMS`: `grant_programs` adds them. `timeout`: seconds for a command that
    names none. `on_denials` is called from a thread with the events of each command or file operation that was refused
    something. `supervisor`: default is the process's. `options` go to `spawn`. A session's files are at
    `/sandbox/workspace`; one that is resumed begins with those of its snapshot. Users and groups of a manifest raise
    ValueError: a guest is one user.
    """

    backend_id = "pyisolate"
    supports_default_options = True

    def __init__(
        self,
        policy: PolicyLike | None = None,
        *,
        timeout: float | None = None,
        on_denials: OnDenials | None = None,
        supervisor: Supervisor | None = None,
        **options: Unpack[SpawnOptions],
    ) -> None:
        self._policy, self._timeout, self._on_denials = with_files(policy), timeout, on_denials
        self._supervisor, self._options = supervisor, options

    async def create(self, *, snapshot: Any = None, manifest: Any = None, options: Any = None) -> SandboxSession:
        """Make a session; its sandbox is spawned when it starts."""
        manifest = Manifest() if manifest is None else manifest
        if manifest.root == _UNNAMED_ROOT:
            manifest = manifest.model_copy(update={"root": str(WORKSPACE)}, deep=True)
        self._validate_manifest_for_create(manifest)
        number = uuid.uuid4()
        kept = resolve_snapshot(snapshot, str(number))
        return await self.resume(SandboxState(session_id=number, manifest=manifest, snapshot=kept))

    async def resume(self, state: Any) -> SandboxSession:
        """Make a session that begins with the files of the state's snapshot."""
        if state.manifest.root != str(WORKSPACE):
            raise ValueError(f"manifest: root {state.manifest.root!r}: a sandbox's files are at {WORKSPACE}")
        if state.manifest.users or state.manifest.groups:
            raise ValueError("manifest: users, groups: a guest is one user")
        kept = KeptSandbox("openai-agents", self._policy, self._supervisor, self._options)
        return self._wrap_session(Session(state, kept, self._timeout, self._on_denials))

    async def delete(self, session: SandboxSession) -> SandboxSession:
        """End the session's sandbox, and its files with it."""
        await session.shutdown()
        return session

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        """Read a state that `serialize_session_state` wrote."""
        return self._deserialize_session_state_payload(payload, SandboxState)


class Session(BaseSandboxSession):  # type: ignore[misc]
    """A session of the SDK, on one sandbox at a time; made by `SandboxClient`."""

    def __init__(
        self, state: SandboxSessionState, kept: KeptSandbox, timeout: float | None, on_denials: OnDenials | None
    ) -> None:
        self.state = state
        self._kept, self._timeout, self._on_denials = kept, timeout, on_denials

    async def running(self) -> bool:
        """Whether the sandbox lives."""
        sandbox = self._kept.current
        return sandbox is not None and not sandbox.closed

    async def read(self, path: Path, *, user: Any = None) -> io.IOBase:
        """Return a file of the workspace, or of elsewhere as far as manifest and policy let the guest read."""
        self._one_user(user)
        where = str(self.normalize_path(path))
        attempt = await self._attempt(
            lambda sandbox: read_file(sandbox, where, max_bytes=READ_BYTES, timeout=self._timeout)
        )
        if isinstance(attempt.error, FileNotFoundError):
            raise WorkspaceReadNotFoundError(path=path, cause=attempt.error)
        if attempt.error is not None:
            raise WorkspaceArchiveReadError(path=path, cause=attempt.error, context={"reason": str(attempt.error)})
        return io.BytesIO(attempt.value)

    async def write(self, path: Path, data: io.IOBase, *, user: Any = None) -> None:
        """Write a file whole, into the workspace, or where else manifest and policy let the guest write."""
        self._one_user(user)
        where, content = str(self.normalize_path(path, for_write=True)), data.read()
        if isinstance(content, str):
            content = content.encode()
        attempt = await self._attempt(lambda sandbox: write_file(sandbox, where, content, timeout=self._timeout))
        if attempt.error is not None:
            raise WorkspaceArchiveWriteError(path=path, cause=attempt.error, context={"reason": str(attempt.error)})

    async def mkdir(self, path: Any, *, parents: bool = False, user: Any = None) -> None:
        """Make a directory, with `parents` also those above it, where the guest may."""
        self._one_user(user)
        where = str(self.normalize_path(path, for_write=True))
        attempt = await self._attempt(lambda sandbox: make_directory(sandbox, where, parents, timeout=self._timeout))
        if attempt.error is not None:
            raise WorkspaceArchiveWriteError(path=path, cause=attempt.error, context={"reason": str(attempt.error)})

    async def persist_workspace(self) -> io.IOBase:
        """Return regular files and directories of the workspace as a tar; links are left out."""
        skipped = self._persist_workspace_skip_relpaths()
        attempt = await self._attempt(lambda sandbox: _packed(sandbox.files, skipped))
        if attempt.error is not None:
            raise WorkspaceArchiveReadError(path=Path(WORKSPACE), cause=attempt.error)
        return io.BytesIO(attempt.value)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        """Write the regular files of a tar into the workspace, which none of its names leads out of."""
        attempt = await self._attempt(lambda sandbox: _unpack(sandbox.files, data))
        if attempt.error is not None:
            raise WorkspaceArchiveWriteError(path=Path(WORKSPACE), cause=attempt.error)

    def _prepare_exec_command(self, *command: Any, shell: bool | list[str], user: Any) -> list[str]:
        self._one_user(user)
        # no login shell: what it reads of the host's /etc is not granted
        return list(super()._prepare_exec_command(*command, shell=["sh", "-c"] if shell is True else shell, user=None))

    async def _exec_internal(self, *command: Any, timeout: float | None = None) -> ExecResult:
        words, seconds = [str(word) for word in command], self._timeout if timeout is None else timeout
        environment = await self.state.manifest.environment.resolve()
        attempt = await self._attempt(lambda sandbox: sandbox.run(words, env=environment or None, timeout=seconds))
        error = attempt.error
        if error is None:
            done = attempt.value
            # a shell's number for what ended by a signal
            status = done.returncode if done.returncode >= 0 else 128 - done.returncode
            remarks = attempt.remarks if status else ""
            return ExecResult(stdout=done.stdout, stderr=done.stderr + remarks.encode(), exit_code=status)
        if isinstance(error, TimeoutError):
            raise ExecTimeoutError(command=command, timeout_s=seconds, cause=error)
        said = f"{getattr(error, 'stderr', '')}{getattr(error, 'summary', error)}\n{attempt.remarks}"
        return ExecResult(stdout=getattr(error, "stdout", "").encode(), stderr=said.encode(), exit_code=1)

    async def _ensure_backend_started(self) -> None:
        await asyncio.to_thread(self._kept.living)

    async def _shutdown_backend(self) -> None:
        await asyncio.to_thread(self._kept.end)

    def _should_compute_snapshot_fingerprint_on_persist(self) -> bool:
        return False  # by programs that the policy need not grant; a resumed session takes the snapshot's files

    async def _attempt(self, use: Callable[[Sandbox], Any]) -> Attempt:
        """Use the sandbox in a thread. A cancelled use ends the sandbox, so that its thread ends, too."""
        try:
            attempt = await asyncio.to_thread(self._kept.attempt, use)
        except asyncio.CancelledError:
            if (sandbox := self._kept.current) is not None:
                sandbox.kill(reason="its command was cancelled")
            raise
        except SandboxError as error:  # no sandbox was made
            raise ExecTransportError(command=(), cause=error, message=str(error), retryable=False) from error
        if attempt.denials and self._on_denials is not None:
            await asyncio.to_thread(self._on_denials, attempt.denials)
        return attempt

    @staticmethod
    def _one_user(user: Any) -> None:
        if user is not None:
            raise ValueError(f"user {getattr(user, 'name', user)!r}: a guest is one user")


def grant_programs(policy: PolicyLike, *more: str) -> Policy:
    """Return a policy that also grants `PROGRAMS` and `more`, by path."""
    granted = with_files(policy)
    for path in (*PROGRAMS, *more):
        granted = granted.allow_exec(path)
    return granted


def _packed(files: SandboxFiles, skipped: set[Path]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for entry in files.list(recursive=True):
            if should_skip_tar_member(entry.path, skip_rel_paths=skipped, root_name=None):
                continue
            member = tarfile.TarInfo(entry.path)
            if entry.kind == "directory":
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif entry.kind == "file":
                data = files.read(entry.path)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _unpack(files: SandboxFiles, data: io.IOBase) -> None:
    with tarfile.open(fileobj=data, mode="r:*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                files.write(member.name, content.read())
