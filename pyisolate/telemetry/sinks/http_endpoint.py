"""One HTTP endpoint that events are posted to, by urllib3: one connection that is kept, proxies, TLS, Retry-After."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util.retry import Retry

_RETRY_STATUSES = frozenset({408, 425, 429})
_ANSWER_LIMIT = 1 << 16
#: No server may keep events back for longer with one answer (seconds).
_LONGEST_PAUSE_S = 3600
_HIDDEN = "***"


class Refused(NamedTuple):
    """Why a batch was not taken. `again`: worth another try, not before `pause_s` where the server named a time."""

    reason: str
    again: bool
    pause_s: float = 0.0


class TlsOptions(NamedTuple):
    """Whom to trust (`ca_file`, PEM; None: the system's) and who we are (`cert_file` with its key, or `key_file`)."""

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context that verifies the server. Raises ValueError for a file that is none."""
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("webhook, client_key_file: needs client_cert_file")
        try:
            made = ssl.create_default_context(cafile=None if self.ca_file is None else os.fspath(self.ca_file))
        except OSError as error:
            raise ValueError(f"webhook, ca_file {self.ca_file}: {error.strerror or error}") from error
        if self.cert_file is not None:
            try:
                made.load_cert_chain(self.cert_file, self.key_file, password=_no_password)
            except OSError as error:
                raise ValueError(f"webhook, client_cert_file {self.cert_file}: {error.strerror or error}") from error
        return made


class Endpoint:
    """Where to post. `post` may be called from one thread at a time, `abort` from any."""

    def __init__(
        self, url: str, key: str | None, timeout_s: float, proxy: str | None, tls: ssl.SSLContext | TlsOptions | None
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"webhook, url {url!r}: it must be http://host/path or https://host/path")
        if parts.username or parts.password:
            raise ValueError("webhook, url: it holds a user name or password. Hint: use key or key_file")
        self._base = urllib.parse.urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.shown = urllib.parse.urlunsplit(parts._replace(query="", fragment=""))  # a query may carry a key
        self._headers = {"Content-Type": "application/json", "User-Agent": "pyisolate"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
        self._secure = parts.scheme == "https"
        self._tls = tls.context() if isinstance(tls, TlsOptions) and self._secure else tls
        self._proxy = _proxy_for(parts.scheme, parts.netloc, proxy)
        self._pool: HTTPConnectionPool | None = None
        self._connection: HTTPConnection | None = None

    def post(self, body: bytes) -> Refused | None:
        """Post once; None where it was taken."""
        try:
            if self._pool is None:
                self._pool = self._make_pool()
            answer = self._pool.urlopen(
                "POST",
                self._target,
                body,
                self._headers,
                retries=False,
                redirect=False,
                assert_same_host=False,  # a proxy of plain HTTP is given the whole URL
                timeout=self._timeout,
                preload_content=False,
            )
            status, pause = answer.status, _retry_after(answer.headers.get("Retry-After"))
            if len(answer.read(_ANSWER_LIMIT, decode_content=False)) == _ANSWER_LIMIT:
                self.disconnect()  # who knows how much more it has to say
            else:
                answer.release_conn()
        except (OSError, HTTPError) as error:
            self.disconnect()
            return Refused(f"{type(error).__name__}: {self._hide(str(error))}", again=True)
        if 200 <= status < 300:
            return None
        return Refused(f"HTTP {status}", again=status >= 500 or status in _RETRY_STATUSES, pause_s=pause)

    def disconnect(self) -> None:
        """Close what is open; the next `post` connects anew."""
        pool, self._pool = self._pool, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if pool is not None:
            pool.close()

    def abort(self) -> None:
        """Wake a thread that waits for the other side, from another thread."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _make_pool(self) -> HTTPConnectionPool:
        options: dict[str, Any] = {"maxsize": 1, "block": True}
        if self._secure:
            options["ssl_context"] = self._tls or ssl.create_default_context()
        if self._proxy is None:
            pool = urllib3.PoolManager(**options).connection_from_url(self._base)
        else:
            parts = urllib.parse.urlsplit(self._proxy)
            words = None if parts.username is None else _credentials(parts)
            headers = None if words is None else urllib3.make_headers(proxy_basic_auth=words)
            bare = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            pool = urllib3.ProxyManager(bare, proxy_headers=headers, **options).connection_from_url(self._base)
            if not self._secure:  # else the words go to the proxy alone, before the tunnel
                self._headers = {**self._headers, **(headers or {})}
                self._target = self._absolute()
        endpoint, kept = self, pool.ConnectionCls

        class Connection(kept):  # type: ignore[misc, valid-type]
            """Tells the endpoint which connection is in use."""

            def connect(self) -> None:
                endpoint._connection = self
                super().connect()

        pool.ConnectionCls = Connection
        return pool

    def _absolute(self) -> str:
        return self._target if self._target.startswith("http") else self._base + self._target

    def _hide(self, text: str) -> str:
        query = urllib.parse.urlsplit(self._target).query
        return text.replace(query, _HIDDEN) if query else text


def _credentials(parts: urllib.parse.SplitResult) -> str:
    return f"{urllib.parse.unquote(parts.username or '')}:{urllib.parse.unquote(parts.password or '')}"


def _proxy_for(scheme: str, netloc: str, given: str | None) -> str | None:
    """Return the proxy to go by: the one given ("": none), else that of the environment (`https_proxy`, `no_proxy`)."""
    if given is None:
        given = "" if urllib.request.proxy_bypass(netloc) else urllib.request.getproxies().get(scheme, "")
        given = given if not given or "://" in given else f"http://{given}"
    if not given:
        return None
    try:
        parsed = urllib3.util.parse_url(given)
    except LocationParseError:
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("webhook, proxy: it must be http://host:port")  # never show it: it may hold a password
    return given


def _retry_after(value: str | None) -> float:
    """Return what a Retry-After header (seconds, or a date) asks for; 0 where there is none that can be read."""
    if value is None:
        return 0.0
    try:
        return float(min(max(0, Retry().parse_retry_after(value)), _LONGEST_PAUSE_S))
    except (HTTPError, ValueError, OverflowError):
        return 0.0


def _no_password() -> str:
    raise ValueError("webhook, client_key_file: it is encrypted. Hint: give one that is not")
