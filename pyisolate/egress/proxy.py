"""One connection of a guest: which sandbox it is of, what it asks for, and whether the policy grants that.

Each refusal is reported before it is answered. What cannot be read in one way only is refused, whatever the policy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h11

from ..capability import Capability
from ..decision import DenialCode, Mode, Verdict
from ..policy import suggest, units, web
from ..policy.broker import Broker
from ..policy.secrets import Injection
from ..records import BrokerRecord
from . import tunnel
from .forward import Credentials, Encoded, forward
from .hiding import Hider
from .messages import Admit, Refused
from .meter import Meter, OverLimit
from .names import Names, RefusedAddress, Unreachable, connect

#: Connections of one sandbox at a time, and of those who have not said which sandbox they are.
MOST_CONNECTIONS, _MOST_STRANGERS = 32, 256
#: Until a request's head has been sent (seconds), and its size (bytes).
HEAD_S, _HEAD_BYTES = 30.0, 64 << 10
#: Between two refusals of one sandbox, once there were those of two seconds at once.
_BETWEEN_REPORTS_S, _BURST_S = 0.02, 2.0
#: What is read of a refused request's body, so that its answer is read before the connection is reset.
_LINGER_BYTES, _LINGER_S = 1 << 20, 2.0
_FORM = re.compile(
    r"http://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^?#]*)?"
    r"(?P<query>\?[^#]*)?",
    re.IGNORECASE,
)
_PLACE = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")
_CREDENTIALS = re.compile(rb"^proxy-authorization:[ \t]*(basic [A-Za-z0-9+/=]{1,200})", re.IGNORECASE | re.MULTILINE)
Report = Callable[[Refused], Awaitable[None]]


class _Pace:
    """How fast the refusals of one sandbox are reported: its guest waits, and no other's."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - _BURST_S) + _BETWEEN_REPORTS_S
        if self._next > now:
            await asyncio.sleep(self._next - now)


@dataclass(eq=False)
class Tenant:
    """One sandbox: its rules, and the tasks of its connections."""

    key: str
    broker: Broker
    meter: Meter
    secrets: tuple[Injection, ...] = ()
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    pace: _Pace = field(default_factory=lambda: _Pace())


class Refusal(Exception):
    """A request is refused. `target` is what its event names."""

    def __init__(
        self,
        target: str,
        code: DenialCode,
        reason: str,
        *,
        rule: str | None = None,
        presented: str | None = None,
        status: int = 403,
    ) -> None:
        super().__init__(reason)
        self.target, self.code, self.reason, self.rule = target, code, reason, rule
        self.presented, self.status = presented, status


class Proxy:
    """Serves the connections of all sandboxes of one supervisor."""

    def __init__(self, names: Names, report: Report) -> None:
        self.names, self._report = names, report
        self._tenants: dict[bytes, Tenant] = {}
        #: connections that have not said whose they are, the oldest first
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._pace_of_strangers = _Pace()

    # -- sandboxes ------------------------------------------------------------------------------------------

    def admit(self, order: Admit) -> None:
        """Know a sandbox, or another policy of one; what it has open under the one before is closed."""
        meter = next((one.meter for one in self._tenants.values() if one.key == order.key), Meter())
        meter.limits = order.policy.egress
        self.dismiss(order.key)
        self._tenants[_digest(order.token.encode())] = Tenant(order.key, Broker(order.policy), meter, order.secrets)

    def dismiss(self, key: str) -> None:
        """Forget a sandbox and close what it has open."""
        for digest, tenant in list(self._tenants.items()):
            if tenant.key == key:
                del self._tenants[digest]
                for task in list(tenant.tasks):
                    task.cancel()

    def tenant_of(self, header: bytes | None) -> Tenant | None:
        """Return whose token a Proxy-Authorization header holds."""
        scheme, _, given = (header or b"").strip().partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            _user, _, token = base64.b64decode(given.strip(), validate=True).partition(b":")
        except ValueError:
            return None
        return self._tenants.get(_digest(token))

    # -- connections ----------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        try:
            await _Connection(self, reader, writer).run()
        except (OSError, EOFError, TimeoutError, h11.ProtocolError):
            pass  # the guest, or who it talks to, has gone
        except asyncio.CancelledError:
            if not writer.is_closing():
                writer.transport.abort()
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    def meet(self, task: asyncio.Task[None]) -> None:
        """Note a connection that has not said whose it is. Too many: the oldest goes, whose turn was long enough."""
        if len(self._strangers) >= _MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
        self._strangers[task] = None

    def know(self, task: asyncio.Task[None]) -> None:
        """Note that a connection has said whose it is, or has ended."""
        self._strangers.pop(task, None)

    async def report(self, tenant: Tenant | None, refusal: Refusal, verdict: Verdict = Verdict.DENY) -> None:
        """Have a refusal recorded. Returns once the report is on its way: the answer to the guest comes after it."""
        await (self._pace_of_strangers if tenant is None else tenant.pace).wait()
        record = BrokerRecord(
            sequence=0,
            capability=Capability.NET_HTTP,
            target=refusal.target[:2000],
            verdict=verdict,
            code=refusal.code,
            reason=refusal.reason[:1000],
            rule=refusal.rule,
            presented=refusal.presented,
        )
        await self._report(Refused(key="" if tenant is None else tenant.key, record=record))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class _Connection:
    """One connection, and the request that it is at."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self.reader, self.writer = proxy, reader, writer
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self.tenant: Tenant | None = None
        #: what came before it was known whose connection this is
        self._unread = bytearray()

    async def run(self) -> None:
        self._proxy.meet(_current())
        try:
            while await self._request():
                self.http.start_next_cycle()
        except Refusal as refusal:
            await self._proxy.report(self.tenant, refusal)
            await self._answer(refusal.status, _explanation(refusal))
        except OverLimit as over:
            spent = Refusal(over.what, DenialCode.LIMIT_EXCEEDED, str(over))
            await self._proxy.report(self.tenant, spent)
            await self._answer(429, _explanation(spent))
        except Unreachable as error:
            await self._answer(502, f"egress proxy: {error}")
        finally:
            self._proxy.know(_current())
            if self.tenant is not None:
                self.tenant.tasks.discard(_current())

    async def _request(self) -> bool:
        """Serve one request; False where the connection ends with it."""
        try:
            async with asyncio.timeout(HEAD_S):
                event = await self.next_event()
        except h11.RemoteProtocolError as error:
            self._recognise()
            raise Refusal("malformed request", DenialCode.ALWAYS_DENIED, str(error), status=400) from None
        if not isinstance(event, h11.Request):
            return False
        self._authenticate(event)
        request, onward = read_request(event)
        addresses = await self._decide(request)
        self.meter.request()
        if request.method == web.CONNECT:
            await self._tunnel(request, addresses)
            return False
        up = await connect(addresses, request.port)
        try:
            secrets = self.tenant.secrets if self.tenant is not None else ()
            given = [one for one in secrets if web.matches(one.rule, request)]
            return await forward(self, event, onward, up, Credentials(given, Hider(secrets)))
        except Encoded as error:
            raise Unreachable(f"{request.host}: {error}") from None
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            if self.http.our_state is not h11.SEND_RESPONSE:
                raise
            raise Unreachable(f"{request.host} broke off ({error or type(error).__name__})") from None

    @property
    def meter(self) -> Meter:
        """What its sandbox has used."""
        assert self.tenant is not None
        return self.tenant.meter

    async def next_event(self) -> object:
        """Return what the guest sends next, as h11 reads it. Raises h11.RemoteProtocolError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                self.writer.write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            data = await self.reader.read(1 << 16)
            if self.tenant is None and len(self._unread) < _HEAD_BYTES:
                self._unread += data
            self.http.receive_data(data)
        return event

    def _authenticate(self, request: h11.Request) -> None:
        given = [value for name, value in request.headers if name == b"proxy-authorization"]
        tenant = self._proxy.tenant_of(given[0] if len(given) == 1 else None)
        if tenant is None or (self.tenant is not None and tenant is not self.tenant):
            reason = "the request names no sandbox: it must bear the user and password of HTTP_PROXY"
            raise Refusal("egress proxy", DenialCode.TOKEN_INVALID, reason, status=407)
        if self.tenant is None:
            self._belong(tenant)
            most = min(MOST_CONNECTIONS, tenant.meter.limits.connections or MOST_CONNECTIONS)
            if len(tenant.tasks) > most:
                reason = f"more than {most} connections at a time"
                raise Refusal("egress connections", DenialCode.LIMIT_EXCEEDED, reason, status=429)

    def _belong(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._unread.clear()
        self._proxy.know(_current())
        tenant.tasks.add(_current())

    def _recognise(self) -> None:
        """Find out whose a request is that cannot be read, for its event alone: it is refused all the same."""
        found = {self._proxy.tenant_of(match[1]) for match in _CREDENTIALS.finditer(self._unread)}
        if self.tenant is None and len(found) == 1 and (tenant := found.pop()) is not None:
            self._belong(tenant)

    async def _decide(self, request: web.Request) -> list[str]:
        """Return the addresses that a request may be sent to. Raises Refusal, Unreachable."""
        assert self.tenant is not None
        broker = self.tenant.broker
        decision = broker.decide(Capability.NET_HTTP, str(request))
        if decision.code is not None:
            said = Refusal(
                str(request), decision.code, decision.reason, rule=decision.rule, presented=decision.presented
            )
            if decision.refused:
                raise said
            await self._proxy.report(self.tenant, said, Verdict.WOULD_DENY)
        try:
            return await self._proxy.names.find(broker, request.host, request.port)
        except RefusedAddress as refused:
            # not a target that a rule can be made of: no event suggests to open an address that a name led to
            said = Refusal(f"{request} at {refused.address}", refused.code, refused.reason, rule=refused.rule)
            if broker.policy.mode_of("net") is Mode.ENFORCE:
                raise said from None
            await self._proxy.report(self.tenant, said, Verdict.WOULD_DENY)
            return [refused.address]

    async def _tunnel(self, request: web.Request, addresses: list[str]) -> None:
        assert self.tenant is not None
        up_reader, up_writer = await connect(addresses, request.port)
        try:
            self.writer.write(self.http.send(h11.Response(status_code=200, headers=[], reason=b"connected")) or b"")
            sent = self.http.trailing_data[0]
            if web.deciding(self.tenant.broker.policy.web, request) is not None:
                sent = await self._check_handshake(request, sent)
            self.meter.sent(len(sent))
            up_writer.write(sent)
            await tunnel.carry((self.reader, self.writer), (up_reader, up_writer), self.meter)
        finally:
            up_writer.close()

    async def _check_handshake(self, request: web.Request, sent: bytes) -> bytes:
        """Return what begins the tunnel, a TLS handshake that names its host. Nothing of another one is sent on."""
        try:
            return await tunnel.handshake(self.reader, sent, request.host)
        except tunnel.NotTheHost as error:
            await self._proxy.report(self.tenant, Refusal(str(request), DenialCode.ALWAYS_DENIED, str(error)))
            self.writer.write(tunnel.ACCESS_DENIED)
            await self.writer.drain()
            raise ConnectionAbortedError from None

    async def _answer(self, status: int, text: str) -> None:
        """Send an answer of the proxy's own, and end the connection."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            if self.http.our_state is not h11.ERROR:
                return
            self.http = h11.Connection(h11.SERVER)
        body = text.encode() + b"\n"
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        headers += [("Connection", "close")] + ([("Proxy-Authenticate", 'Basic realm="pyisolate"')] * (status == 407))
        reason = "".join(c for c in text.splitlines()[0] if c.isprintable() and c.isascii())[:200].encode()
        answer = h11.Response(status_code=status, headers=headers, reason=reason)
        whole = (answer, h11.Data(data=body), h11.EndOfMessage())
        self.writer.write(b"".join(self.http.send(part) or b"" for part in whole))
        await self.writer.drain()
        await self._linger()

    async def _linger(self) -> None:
        """Read on for a moment: a connection that is closed with bytes unread is reset, and its answer lost."""
        with contextlib.suppress(OSError, TimeoutError):
            self.writer.write_eof()
            left = _LINGER_BYTES
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and (data := await self.reader.read(1 << 16)):
                    left -= len(data)


def _current() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _explanation(refusal: Refusal) -> str:
    """Return what the guest is answered: what was refused, why, and the rule that is missing."""
    text = f"pyisolate refused {refusal.target}: {refusal.reason or refusal.code}"
    rule = suggest.exact(Capability.NET_HTTP, refusal.target)
    if rule is not None and refusal.code is not DenialCode.ALWAYS_DENIED:
        text += f"\nto allow it, add to the policy: {json.dumps(rule)}"
    return text


# -- reading a request ------------------------------------------------------------------------------------------------


def read_request(event: h11.Request) -> tuple[web.Request, bytes]:
    """Return what is asked for, and the target that the host is sent. Raises Refusal for what has two readings."""
    method, target = event.method.decode("ascii"), event.target.decode("latin-1")
    headers: dict[bytes, list[bytes]] = {}
    for name, value in event.headers:
        headers.setdefault(name, []).append(value)
    if event.http_version not in (b"1.0", b"1.1"):
        raise _malformed("the version of HTTP is neither 1.0 nor 1.1")
    if b"transfer-encoding" in headers and (b"content-length" in headers or event.http_version == b"1.0"):
        raise _malformed("it states the length of its body in two ways")
    if len(headers.get(b"host", [])) > 1:
        raise _malformed("it has more than one Host")
    if b"host" not in headers and method != web.CONNECT:  # of which nothing goes on
        raise _malformed("it has no Host")
    form = (_PLACE if method == web.CONNECT else _FORM).fullmatch(target)
    if form is None:
        wanted = "host:port" if method == web.CONNECT else "http://host/path, as proxies are asked"
        raise _malformed(f"its target is not {wanted}")
    request = _request_of(method, form)
    if b"upgrade" in headers:
        raise Refusal(str(request), DenialCode.ALWAYS_DENIED, "the proxy carries no other protocol (Upgrade)")
    for given in headers.get(b"host", []):
        same = _PLACE.fullmatch(given.decode("latin-1"))
        if same is None or _place_of(same, request.port) != (request.host, request.port):
            raise Refusal(str(request), DenialCode.ALWAYS_DENIED, "its Host is not the host of its target")
    onward = "" if method == web.CONNECT else request.path + (form["query"] or "")
    return request, onward.encode("latin-1")


def _malformed(reason: str) -> Refusal:
    return Refusal("malformed request", DenialCode.ALWAYS_DENIED, reason, status=400)


def _place_of(form: re.Match[str], port: int) -> tuple[str, int]:
    return form["host"].strip("[]").lower().rstrip("."), int(form["port"] or port)


def _request_of(method: str, form: re.Match[str]) -> web.Request:
    if method == web.CONNECT:
        host, port = _place_of(form, 0)
        path = ""
    else:
        host, port = _place_of(form, units.HTTP_PORT)
        path = form["path"] or "/"
    if not 0 < port < 65536 or not host:
        raise _malformed("its target has no port" if method == web.CONNECT else "its port is out of range")
    return web.Request(method, host, port, path)
