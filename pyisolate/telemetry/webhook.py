"""Post events to an HTTP endpoint, in batches, from one thread, so that no guest ever waits for a network.

A batch is `{"schema": ..., "batch_id": ..., "events": [...]}`. It is tried again with growing, jittered pauses after a
lost connection, a timeout, 429 or 5xx (same `batch_id`, so that a receiver can drop repeats); any other answer but 2xx
drops it. Redirects are not followed: the key is for one endpoint. Everything dropped is counted by reason.
"""

from __future__ import annotations

import atexit
import http.client
import logging
import os
import random
import ssl
import threading
import time
import urllib.parse
import uuid
import weakref
from collections import deque
from pathlib import Path

from .event import SCHEMA, DenialEvent
from .metrics import METRICS, Metrics

_log = logging.getLogger("pyisolate.telemetry")

_RETRY_STATUSES = frozenset({408, 425, 429})
_ANSWER_LIMIT = 1 << 16
_LOG_INTERVAL_S = 60.0


class WebhookSink:
    """An `EventSink` that posts to `url` (http or https) with `Authorization: Bearer <key>`.

    Queues at most `queue_limit` events (the newest are dropped beyond), sends up to `batch_size` at once or what there
    is after `linger_s`; gives a batch up after `max_age_s`. `close` and the end of the process flush for at most
    `flush_timeout_s`. The key comes from `key` or `key_file` and is shown nowhere.
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
        tls: ssl.SSLContext | None = None,
        metrics: Metrics = METRICS,
    ) -> None:
        self._endpoint = _Endpoint(url, _read_key(key, key_file), timeout_s, tls)
        self.url = self._endpoint.shown
        self._batch_size, self._linger_s, self._queue_limit = batch_size, linger_s, queue_limit
        self._retry_base_s, self._retry_cap_s, self._max_age_s = retry_base_s, retry_cap_s, max_age_s
        self._flush_timeout_s = flush_timeout_s
        self._metrics = metrics
        self._changed = threading.Condition()
        self._queue: deque[DenialEvent] = deque()
        self._in_flight: list[DenialEvent] = []
        self._closing = self._hurry = False
        self._thread: threading.Thread | None = None
        self._logged_at = -_LOG_INTERVAL_S
        _SINKS.add(self)

    def __repr__(self) -> str:
        return f"WebhookSink({self.url!r})"

    def emit(self, event: DenialEvent) -> None:
        """Queue an event; never blocks, never raises."""
        with self._changed:
            full = self._closing or len(self._queue) >= self._queue_limit
            if not full:
                self._queue.append(event)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="pyisolate-webhook", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
        if full:
            self._drop("closed" if self._closing else "queue_full", event.count)

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

    def _reset_after_fork(self) -> None:
        """Start with an empty queue, no thread and no connection: the parent sends what it has."""
        self._changed = threading.Condition()
        self._queue, self._in_flight = deque(), []
        self._hurry, self._thread = False, None
        self._endpoint.disconnect()

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
        while not self._closing:
            reason = self._endpoint.post(body)
            if reason is None:
                return
            self._log_failure(reason)
            if not reason.startswith("retry:"):
                self._drop("rejected", sum(event.count for event in batch))
                return
            attempt += 1
            pause = min(self._retry_cap_s, self._retry_base_s * 2 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.0)
            if time.monotonic() + pause >= given_up:
                self._drop("expired", sum(event.count for event in batch))
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause)

    def _drop(self, reason: str, count: int) -> None:
        self._metrics.webhook_dropped.add((reason,), count)

    def _log_failure(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_INTERVAL_S:
            self._logged_at = now
            _log.warning("webhook, on %s: %s (further failures are counted)", self.url, reason.removeprefix("retry: "))


class _Endpoint:
    """One keep-alive connection. `post` returns None, or why not; `retry: ...` when it is worth another try."""

    def __init__(self, url: str, key: str | None, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"webhook, url {url!r}: it must be http://host/path or https://host/path")
        if parts.username or parts.password:
            raise ValueError("webhook, url: it holds a user name or password. Hint: use key or key_file")
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.shown = urllib.parse.urlunsplit(parts._replace(query="", fragment=""))  # a query may carry a key
        self._headers = {"Content-Type": "application/json", "User-Agent": "pyisolate"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s, self._tls = timeout_s, tls
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes) -> str | None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request("POST", self._target, body, self._headers)
            answer = self._connection.getresponse()
            status, rest = answer.status, answer.read(_ANSWER_LIMIT)
            if len(rest) == _ANSWER_LIMIT or answer.will_close:
                self.disconnect()
        except (OSError, http.client.HTTPException) as error:
            self.disconnect()
            return f"retry: {type(error).__name__}: {error}"
        if 200 <= status < 300:
            return None
        return f"retry: HTTP {status}" if status >= 500 or status in _RETRY_STATUSES else f"HTTP {status}"

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Wake a thread that waits for the other side, from another thread."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(2)
            except OSError:
                pass

    def _connect(self) -> http.client.HTTPConnection:
        if not self._https:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        context = self._tls or ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)


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


def _after_fork() -> None:
    for sink in list(_SINKS):
        sink._reset_after_fork()


os.register_at_fork(after_in_child=_after_fork)
