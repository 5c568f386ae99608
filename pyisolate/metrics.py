"""The public face of the metrics: `pyisolate.metrics.registry`, and three ways to have them scraped.

`serve_metrics` asks for the control token, where `set_policy_token` set one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .supervisor.control_token import check_token
from .telemetry.exposition import MetricsAddressError, MetricsServer, asgi_app, start_server, wsgi_app
from .telemetry.metrics import METRICS

if TYPE_CHECKING:
    from prometheus_client.core import CollectorRegistry

__all__ = ["METRICS", "MetricsAddressError", "MetricsServer", "asgi_app", "registry", "serve_metrics", "wsgi_app"]

registry = METRICS.registry


def serve_metrics(
    port: int = 9464,
    addr: str = "127.0.0.1",
    *,
    token: str | None = None,
    registry: CollectorRegistry | None = None,
) -> MetricsServer:
    """Serve `/metrics` for Prometheus from a thread; return a handle with `port` and `close()`.

    `port` 0 lets the kernel choose a free one; `registry` is pyisolate's own by default. Raises MetricsAddressError
    (an OSError) when the address cannot be bound, PolicyAuthError where `set_policy_token` guards it and `token` is
    another. A scrape takes no password: keep it on a network that only the scraper reaches.
    """
    check_token(token, "metrics", target=f"serve {addr}:{port}")
    return start_server(port, addr, registry)
