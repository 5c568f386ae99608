"""The functions of the public contract that act on the default supervisor."""

from __future__ import annotations

from typing import Any

from .default import default_supervisor
from .policy import Policy
from .telemetry.exposition import MetricsServer
from .telemetry.exposition import serve_metrics as _serve_metrics


def spawn(name: str, policy: Policy | str | None = None, **options: Any) -> Any:
    """Spawn a sandbox on the default supervisor; see `Supervisor.spawn` for the options."""
    return default_supervisor().spawn(name, policy, **options)


async def aspawn(name: str, policy: Policy | str | None = None, **options: Any) -> Any:
    """Spawn a sandbox without blocking the event loop: `async with await aspawn(...) as sandbox`."""
    return await default_supervisor().aspawn(name, policy, **options)


def list_active() -> list[Any]:
    """Return the default supervisor's sandboxes that are not closed, oldest first."""
    return default_supervisor().sandboxes


def reload_policy(name: str, policy: Policy, token: str | None = None) -> int:
    """Reload the default supervisor's sandboxes that run the policy called `name`; return how many."""
    return default_supervisor().reload_policy(name, policy, token)


def serve_metrics(port: int = 9464, addr: str = "127.0.0.1", *, token: str | None = None) -> MetricsServer:
    """Serve `/metrics` for Prometheus from a thread; returns a handle with `port` and `close()`.

    `port` 0 lets the kernel choose. Raises OSError when the address cannot be bound, PolicyAuthError where
    `set_policy_token` guards it and `token` is another.
    """
    return _serve_metrics(port, addr, token=token)
