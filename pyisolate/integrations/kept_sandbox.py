"""A sandbox that an agent keeps from call to call: spawned when it is first needed, and again once it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import api
from ..errors import SandboxClosed, SandboxError
from ..policy import Policy
from ..sandbox.process import Sandbox
from ..supervisor.options import PolicyLike, SpawnOptions, check_options, choose_policy
from ..supervisor.supervisor import Supervisor
from ..telemetry.event import DenialEvent
from .model_text import for_model, in_words
from .new_events import NewEvents

#: What a policy that names no workspace gets for an agent's files.
WORKSPACE = "64MiB"


def with_files(policy: PolicyLike | None) -> Policy:
    """Return a policy with a workspace, its own or one of `WORKSPACE`."""
    chosen: Policy = choose_policy(policy, None, None, None)
    return chosen if chosen.workspace is not None else chosen.with_workspace(WORKSPACE)


class Attempt(NamedTuple):
    """What came of a use of a sandbox: a value or an error, what was refused, and whether the sandbox has ended."""

    value: Any
    error: SandboxError | OSError | None
    denials: tuple[DenialEvent, ...]
    ended: bool

    @property
    def remarks(self) -> str:
        """What a model is to know of a failed command beside the program's own output, a line each."""
        lines = [in_words(event) for event in for_model(self.denials)]
        if self.ended:
            lines.append("the sandbox has ended: its files are gone, the next command starts a new one")
        return "".join(f"{line}\n" for line in lines)


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
        check_options(name, options)
        self._name, self._policy, self._supervisor, self._options = name, policy, supervisor, options
        self._begin = begin
        self._lock, self._use = threading.Lock(), threading.Lock()
        self._events = NewEvents()
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
                    self._events.forget()
                supervisor = self._supervisor or api.default_supervisor()
                sandbox = supervisor.spawn(self._name, self._policy, **self._options)
                try:
                    self._begin(sandbox)
                except BaseException:
                    sandbox.close()
                    raise
                self._sandbox = sandbox
            return self._sandbox

    def attempt(self, use: Callable[[Sandbox], Any]) -> Attempt:
        """Use the sandbox, one use after the other: its new events are that use's. Raises what `living` does."""
        with self._use:
            sandbox = self.living()
            value, failed = None, None
            try:
                value = use(sandbox)
            except (SandboxError, OSError) as error:
                failed = error
            return Attempt(value, failed, self._events.take(sandbox), sandbox.closed)

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
