"""A sandbox that an agent keeps from call to call: spawned when it is first needed, and again once it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .. import api
from ..errors import SandboxClosed
from ..policy import Policy
from ..sandbox.process import Sandbox
from ..supervisor.options import PolicyLike, SpawnOptions, choose_policy
from ..supervisor.supervisor import Supervisor

#: What a policy that names no workspace gets for an agent's files.
WORKSPACE = "64MiB"


def with_files(policy: PolicyLike | None) -> Policy:
    """Return a policy with a workspace, its own or one of `WORKSPACE`."""
    chosen: Policy = choose_policy(policy, None, None, None)
    return chosen if chosen.workspace is not None else chosen.with_workspace(WORKSPACE)


class KeptSandbox:
    """One sandbox named `name` at a time. `begin` makes a new one ready. Thread-safe.

    `supervisor`: None is the process's. `options` go to `spawn`.
    """

    def __init__(
        self,
        name: str,
        policy: PolicyLike | None,
        supervisor: Supervisor | None,
        options: SpawnOptions,
        begin: Callable[[Sandbox], None] = lambda _sandbox: None,
    ) -> None:
        self._name, self._policy, self._supervisor, self._options = name, policy, supervisor, options
        self._begin = begin
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._closed = False

    @property
    def current(self) -> Sandbox | None:
        """The sandbox that was spawned last, None before the first use and after the end."""
        return self._sandbox

    def living(self) -> Sandbox:
        """Return the sandbox; another one where it has ended. Raises what `spawn` raises, SandboxClosed."""
        with self._lock:
            if self._closed:
                raise SandboxClosed(operation="use sandbox", subject=self._name, cause="it was closed for good")
            if self._sandbox is None or self._sandbox.closed:
                if self._sandbox is not None:
                    self._sandbox.close()  # it ended by itself, and its supervisor still holds what it left
                supervisor = self._supervisor or api.default_supervisor()
                sandbox = supervisor.spawn(self._name, self._policy, **self._options)
                try:
                    self._begin(sandbox)
                except BaseException:
                    sandbox.close()
                    raise
                self._sandbox = sandbox
            return self._sandbox

    def take(self) -> Sandbox | None:
        """Forget the sandbox and return it: the caller closes it. The next use makes another."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        return sandbox

    def end(self) -> None:
        """End the sandbox; the next use makes another."""
        if (sandbox := self.take()) is not None:
            sandbox.close()

    def close(self) -> None:
        """End the sandbox for good. Idempotent."""
        with self._lock:
            self._closed = True
        self.end()
