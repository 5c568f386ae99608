"""Post events to an HTTP endpoint, in batches, from one thread, so that no guest ever waits for a network.

A batch is `{"schema": ..., "batch_id": ..., "events": [...]}`. It is tried again with growing, jittered pauses after a
lost connection, a timeout, 429 or 5xx, and not before the time that a `Retry-After` names (same `batch_id`, so that a
receiver can drop repeats); any other answer but 2xx drops it. Redirects are not followed: the key is for one endpoint.
Everything dropped is counted by reason.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import ssl
import threading
import time
import uuid
import weakref
from collections import deque
from pathlib import Path

from ...native.forked import renew
from ...native.threads import Thread
from ..event import SCHEMA, DenialEvent
from ..metrics import METRICS, Metrics
from ..worker_threads import LOG_INTERVAL_S, Starter
from .http_endpoint import Endpoint, Refused, TlsOptions

_log = logging.getLogger("pyisolate.telemetry")


class WebhookSink:
    """An `EventSink` that posts to `url` (http or https) with `Authorization: Bearer <key>`.

    Queues at most `queue_limit` events (the newest are dropped beyond), sends up to `batch_size` at once or what there
    is after `linger_s`; gives a batch up after `max_age_s`. `close` and the end of the process flush for at most
    `flush_timeout_s`. The key comes from `key` or `key_file` and is shown nowhere. `proxy`: an http:// URL, "" for none
    (default: the environment's `http_proxy`, `https_proxy`, `no_proxy`). `ca_file`, `client_cert_file` and
    `client_key_file`: PEM files of TLS, in place of the system's authorities and of no client certificate; `tls`: a
    context in place of all three. Raises ValueError for what cannot be used.
    """

    immediate = True  # emit only queues

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        batch_size: int = 100,
        linger_s: float = 0.2,
        queue_limit: int = 10_000,
        timeout_s: float = 10.0,
        retry_base_s: float = 0.5,
        retry_cap_s: float = 30.0,
        max_age_s: float = 300.0,
        flush_timeout_s: float = 5.0,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        client_cert_file: str | os.PathLike[str] | None = None,
        client_key_file: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
        metrics: Metrics = METRICS,
    ) -> None:
        options = TlsOptions(ca_file, client_cert_file, client_key_file)
        if tls is not None and any(options):
            raise ValueError("webhook: tls and files of it are both given. Hint: keep one")
        self._endpoint = Endpoint(url, _read_key(key, key_file), timeout_s, proxy, tls or options)
        self.url = self._endpoint.shown
        self._batch_size, self._linger_s, self._queue_limit = batch_size, linger_s, queue_limit
        self._retry_base_s, self._retry_cap_s, self._max_age_s = retry_base_s, retry_cap_s, max_age_s
        self._flush_timeout_s = flush_timeout_s
        self._metrics = metrics
        self._changed = threading.Condition()
        self._queue: deque[DenialEvent] = deque()
        self._in_flight: list[DenialEvent] = []
        self._closing = self._hurry = False
        self._thread: Thread | None = None
        self._starter = Starter("pyisolate-webhook")
        self._logged_at = -LOG_INTERVAL_S
        #: the server asked for no request before (CLOCK_MONOTONIC)
        self._not_before = 0.0
        _SINKS.add(self)
        renew(self)

    def __repr__(self) -> str:
        return f"WebhookSink({self.url!r})"

    def emit(self, event: DenialEvent) -> None:
        """Queue an event; never raises, and waits for nothing but its thread to start."""
        with self._changed:
            refused = self._refuses()
            if refused is None:
                self._queue.append(event)
                self._changed.notify_all()
        if refused is not None:
            self._drop(refused, event.count)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued was sent or dropped; False when `timeout` came first."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._queue and not self._in_flight, timeout)
            self._hurry = False
            return done

    def close(self) -> None:
        """Flush for at most `flush_timeout_s`, then drop and count what is left. Idempotent."""
        if self._closing:
            return
        self.flush(self._flush_timeout_s)
        with self._changed:
            self._closing = True
            left = sum(event.count for event in self._queue) + sum(event.count for event in self._in_flight)
            self._queue.clear()
            self._in_flight = []
            self._changed.notify_all()
        if left:
            self._drop("shutdown", left)
        self._endpoint.abort()

    def renew_after_fork(self) -> None:
        """Start with an empty queue, no thread and no connection: the parent sends what it has."""
        self._changed = threading.Condition()
        self._queue, self._in_flight = deque(), []
        self._hurry, self._thread = False, None
        self._endpoint.disconnect()

    def _refuses(self) -> str | None:
        """Return why no event can be queued, or None; `_changed` is held."""
        if self._closing:
            return "closed"
        if len(self._queue) >= self._queue_limit:
            return "queue_full"
        if self._thread is None:
            self._thread = self._starter.start(self._run)
            if self._thread is None:
                return "no_thread"
        return None

    def _run(self) -> None:
        while batch := self._next_batch():
            self._deliver(batch)
            with self._changed:
                self._in_flight = []
                self._changed.notify_all()
        self._endpoint.disconnect()

    def _next_batch(self) -> list[DenialEvent]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(
                lambda: len(self._queue) >= self._batch_size or self._closing or self._hurry, self._linger_s
            )
            size = min(self._batch_size, len(self._queue))
            self._in_flight = [self._queue.popleft() for _ in range(size)]
            return self._in_flight

    def _deliver(self, batch: list[DenialEvent]) -> None:
        body = _body(batch)
        given_up = time.monotonic() + self._max_age_s
        attempt = 0
        while self._wait_until(self._not_before, given_up):
            refused = self._endpoint.post(body)
            if refused is None:
                return
            self._log_failure(refused)
            if not refused.again:
                self._drop("rejected", sum(event.count for event in batch))
                return
            attempt += 1
            pause = min(self._retry_cap_s, self._retry_base_s * 2 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.0)
            self._not_before = time.monotonic() + max(pause, refused.pause_s)
        if not self._closing:
            self._drop("expired", sum(event.count for event in batch))

    def _wait_until(self, moment: float, given_up: float) -> bool:
        """Wait for the moment; False, at once, where the batch is to be given up before, or the sink is closed."""
        with self._changed:
            left = moment - time.monotonic()
            if moment >= given_up:
                return False
            return not self._changed.wait_for(lambda: self._closing, max(0.0, left))

    def _drop(self, reason: str, count: int) -> None:
        self._metrics.webhook_dropped.add((reason,), count)

    def _log_failure(self, refused: Refused) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            _log.warning("webhook, on %s: %s (further failures are counted)", self.url, refused.reason)


def _body(batch: list[DenialEvent]) -> bytes:
    events = ",".join(event.to_json() for event in batch)
    return f'{{"schema":"{SCHEMA}","batch_id":"{uuid.uuid4()}","events":[{events}]}}'.encode()


def _read_key(key: str | None, key_file: str | os.PathLike[str] | None) -> str | None:
    if key_file is not None:
        if key is not None:
            raise ValueError("webhook: key and key_file are both given. Hint: keep one")
        try:
            key = Path(key_file).read_text().strip()
        except OSError as error:
            raise ValueError(f"webhook, key_file {os.fspath(key_file)}: {error.strerror}") from error
    if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
        raise ValueError("webhook, key: it must be printable ASCII without spaces")  # never show it
    return key


_SINKS: weakref.WeakSet[WebhookSink] = weakref.WeakSet()


@atexit.register
def _flush_at_exit() -> None:
    for sink in list(_SINKS):
        sink.close()
