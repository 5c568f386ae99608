"""Sandboxes of evaluations with inspect-ai (the extra `inspect`): `Task(..., sandbox=("pyisolate", "policy.yaml"))`.

inspect-ai finds this module by the entry point `inspect_ai`. Each sample has a sandbox of its own; what was refused is
in the output of its command, and an entry in the sample's log.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from typing import Any

import anyio
from inspect_ai.log import transcript
from inspect_ai.util import (
    ExecRemoteAwaitableOptions,
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)

from ..errors import OutputExceeded, PolicyError, SandboxError, TimeoutError
from ..policy import Policy
from ..sandbox.process import Sandbox
from .guest_files import FileTooLarge, read_file, write_file
from .kept_sandbox import Attempt, KeptSandbox, with_files

#: The programs of an evaluation that names no policy: what inspect-ai's `bash` and `python` tools run, and little more.
PROGRAMS = ("/bin/sh", "/bin/bash", "/usr/bin/python3", "/bin/cat", "/bin/ls", "/bin/rm", "/bin/mkdir", "/bin/cp",
            "/bin/mv", "/bin/grep", "/bin/sed", "/usr/bin/head", "/usr/bin/tail", "/usr/bin/wc")  # fmt: skip
_NOT_FOUND = 127  # as a shell says of a program that is not there


@sandboxenv(name="pyisolate")
class InspectSandbox(SandboxEnvironment):  # type: ignore[misc]
    """A sandbox of inspect-ai. Its configuration is a policy: a file, or a preset's name.

    Without one it is preset `compute` and `PROGRAMS`, or `pyisolate.yaml` beside the task. Commands run as the guest's
    one user; another raises SandboxUserUnsupportedError. Files of the workspace are the host's to write: their modes
    bind the guest alone. A sandbox that ended by a limit is replaced at the next command, and the answer of the one
    that it ended in says so. `exec_remote` waits for its program; a handle to one that runs on raises
    NotImplementedError.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._kept = KeptSandbox("inspect", policy, None, {})

    # -- inspect-ai's ends of a task and of a sample ----------------------------------------------------------

    @classmethod
    def config_files(cls) -> list[str]:
        """The file beside a task that is its policy where it names none."""
        return ["pyisolate.yaml"]

    @classmethod
    async def task_init(cls, task_name: str, config: Any) -> None:
        """Read the policy before the first sample. Raises what `Policy.load` raises."""
        await anyio.to_thread.run_sync(_policy_of, config)

    @classmethod
    async def sample_init(cls, task_name: str, config: Any, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """Spawn the sandbox of one sample. Raises what `spawn` raises: nothing runs where nothing is enforced."""
        made = cls(await anyio.to_thread.run_sync(_policy_of, config))
        await anyio.to_thread.run_sync(made._kept.living)
        return {"default": made}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """End the sample's sandbox."""
        with anyio.CancelScope(shield=True):
            for environment in environments.values():
                await anyio.to_thread.run_sync(environment.as_type(cls).close)

    # -- what solvers and tools use -------------------------------------------------------------------------

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox that lives now."""
        return self._kept.living()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a program. Where it failed, stderr ends with what was refused.

        Raises TimeoutError, PermissionError where the program itself is refused, OutputLimitExceededError.
        """
        if user is not None:
            raise SandboxUserUnsupportedError(f"pyisolate: a guest has one user, and {user!r} is another")
        data = input.encode() if isinstance(input, str) else input
        attempt = await self._attempt(lambda one: one.run(cmd, input=data, cwd=cwd, env=env, timeout=timeout))
        if attempt.error is not None:
            return _failed(attempt, attempt.error)
        return _done(attempt, attempt.value)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file into the workspace, or where else the policy lets the guest write."""
        data = contents.encode() if isinstance(contents, str) else contents
        attempt = await self._attempt(lambda one: write_file(one, file, data))
        if attempt.error is not None:
            raise attempt.error

    async def read_file(self, file: str, text: bool = True) -> Any:
        """Return a file of the workspace, or of elsewhere as far as the policy lets the guest read."""
        most = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        attempt = await self._attempt(lambda one: read_file(one, file, max_bytes=most))
        if isinstance(attempt.error, FileTooLarge):
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None) from attempt.error
        if attempt.error is not None:
            raise attempt.error
        return attempt.value.decode() if text else attempt.value

    async def exec_remote(self, cmd: list[str], options: Any = None, *, stream: bool = True) -> ExecResult[str]:
        """Run a program and wait for it (`stream=False`), as `exec` does: no program of inspect-ai's own is needed.

        Raises NotImplementedError for a handle to a program that runs on: a sandbox runs one request at a time.
        """
        if stream:
            raise NotImplementedError("pyisolate: a sandbox runs one request at a time. Hint: stream=False, or exec")
        given = options or ExecRemoteAwaitableOptions()
        return await self.exec(cmd, given.input, given.cwd, given.env, given.user, getattr(given, "timeout", None))

    def close(self) -> None:
        """End the sandbox for good. Idempotent."""
        self._kept.close()

    async def _attempt(self, use: Callable[[Sandbox], Any]) -> Attempt:
        """Use the sandbox in a thread. A cancelled use ends the sandbox, so that its thread ends, too."""
        call = functools.partial(self._kept.attempt, use)
        try:
            attempt: Attempt = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            if (sandbox := self._kept.current) is not None:
                sandbox.kill(reason="its command was cancelled")
            raise
        if attempt.denials:
            transcript().info([event.to_dict() for event in attempt.denials], source="pyisolate")
        return attempt


def _policy_of(config: Any) -> Policy:
    """Return the policy that a configuration names. Raises PolicySyntaxError, OSError, TypeError."""
    if config is None:
        policy = Policy.preset("compute")
        for path in PROGRAMS:
            policy = policy.allow_exec(path)
        return with_files(policy)
    if not isinstance(config, str):
        raise TypeError(f"pyisolate: the configuration of a sandbox is a policy's file or name, not {config!r}")
    return with_files(config)


def _done(attempt: Attempt, done: subprocess.CompletedProcess[bytes]) -> ExecResult[str]:
    # a shell's number for what ended by a signal
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    stdout, stderr = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    most = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
    if max(len(done.stdout), len(done.stderr)) > most:
        raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, stdout[:most])
    return ExecResult(status == 0, status, stdout, stderr + (attempt.remarks if status else ""))


def _failed(attempt: Attempt, error: SandboxError | OSError) -> ExecResult[str]:
    """Return what a command came to that gave no status, or raise what inspect-ai has an error for."""
    if isinstance(error, OutputExceeded):
        raise OutputLimitExceededError("the policy (limits.output)", error.stdout) from error
    if isinstance(error, TimeoutError | PolicyError):
        raise error
    status = _NOT_FOUND if isinstance(error, FileNotFoundError) else 1
    text = f"{getattr(error, 'stderr', '')}{getattr(error, 'summary', error)}\n{attempt.remarks}"
    return ExecResult(False, status, getattr(error, "stdout", ""), text)
