"""Sandboxes that are prepared before they are asked for: `Template(policy, setup=source).spawn()`."""

from __future__ import annotations

import collections
import contextvars
import itertools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, Unpack

from .. import api
from ..actor import current_actor
from ..errors import SandboxClosed, SandboxError
from ..native.threads import Workers
from ..sandbox.process import Sandbox
from ..supervisor.options import PolicyLike, SpawnOptions, as_policy, check_options
from ..supervisor.supervisor import Supervisor


class Template:
    """Sandboxes under `policy` in which `setup` has run; `ready` of them wait for `spawn`. A context manager.

    `setup`: source for `Sandbox.exec`, or a function for `Sandbox.call`, run once in each sandbox, by a thread of the
    template's, under the sandbox's own policy and limits: what it used of the processor counts. Nothing is copied
    from one sandbox to another. `timeout`: seconds for it. `supervisor`: default is the process's. `options` go to
    `spawn`. Those that wait were made for the actor of the context that made the template; for another actor `spawn`
    prepares one of its own. Thread-safe; a forked child makes its own template.
    """

    def __init__(
        self,
        policy: PolicyLike | None = None,
        setup: str | Callable[[], Any] = "",
        *,
        ready: int = 1,
        timeout: float | None = None,
        name: str = "template",
        supervisor: Supervisor | None = None,
        **options: Unpack[SpawnOptions],
    ) -> None:
        if ready < 0:
            raise ValueError("ready must not be negative")
        if not isinstance(setup, str) and not callable(setup):
            raise TypeError("setup must be source or a callable")
        self._policy = None if policy is None else as_policy("Template: policy", policy)
        self._setup, self._ready, self._timeout = setup, ready, timeout
        check_options("Template", options)
        self._name, self._numbers, self._options = name, itertools.count(1), options
        self._supervisor, self._actor = supervisor, current_actor()
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._waiting: collections.deque[Sandbox] = collections.deque()
        self._filling = self._closed = False
        self._thread = Workers(1, f"pyisolate-{name}")
        self._fill()

    def spawn(self) -> Sandbox:
        """Return a prepared sandbox, which the caller closes: one that waits, or a new one, prepared now.

        Raises what `spawn` raises, what `setup` raises (GuestError, PolicyError, LimitExceeded ...), and SandboxClosed
        after `close`.
        """
        sandbox = None
        with self._lock:
            self._check_open()
            if current_actor() == self._actor:
                sandbox = self._take()
        if sandbox is None:
            sandbox = self._prepare()
        self._fill()  # not where setup fails: it would fail there, too
        return sandbox

    @property
    def waiting(self) -> int:
        """How many are prepared and wait."""
        with self._lock:
            return len(self._waiting)

    def close(self) -> None:
        """End the sandboxes that wait; those that were handed out stay. Idempotent."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=True)
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for sandbox in waiting:
            sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxClosed(operation="spawn", subject=self._name, cause="the template was closed")

    def _take(self) -> Sandbox | None:
        """Return one that waits and lives; one that a limit or a kill ended is closed."""
        while self._waiting:
            sandbox = self._waiting.popleft()
            if not sandbox.closed:
                return sandbox
            sandbox.close()
        return None

    def _prepare(self) -> Sandbox:
        supervisor = self._supervisor or api.default_supervisor()
        sandbox = supervisor.spawn(f"{self._name}-{next(self._numbers)}", self._policy, **self._options)
        try:
            if isinstance(self._setup, str):
                sandbox.exec(self._setup, timeout=self._timeout, filename="<setup>")
            else:
                sandbox.call(self._setup, timeout=self._timeout)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def _fill(self) -> None:
        """Have the thread prepare what is missing, unless it does so already."""
        with self._lock:
            if self._filling or self._closed or len(self._waiting) >= self._ready:
                return
            self._filling = True
            self._thread.submit(self._context.run, self._fill_here)

    def _fill_here(self) -> None:
        try:
            while self._wanting():
                sandbox = self._prepare()
                with self._lock:
                    keep = not self._closed
                    if keep:
                        self._waiting.append(sandbox)
                if not keep:
                    sandbox.close()
        except (SandboxError, OSError):
            pass  # the next `spawn` prepares one itself, and raises it
        finally:
            with self._lock:
                self._filling = False

    def _wanting(self) -> bool:
        with self._lock:
            return not self._closed and len(self._waiting) < self._ready
