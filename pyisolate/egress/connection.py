"""One connection of a guest: which sandbox it is of, what it asks for, and whether the policy grants that.

Each refusal is reported before it is answered. What cannot be read in one way only is refused, whatever the policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import h11

from ..capability import Capability
from ..decision import DenialCode, Mode, Verdict
from ..policy import suggest, web
from ..policy.asking import asks_about
from . import heads, over_tls, tunnel
from .credentials import Credentials, Encoded, Unsignable
from .forward import Upstream, answer_known, forward, repeat
from .handed import Handed, can_hide
from .hiding import Hider
from .messages import can_be_asked
from .meter import Meter, OverLimit
from .names import Names, RefusedAddress, Unreachable, connect, connect_over_tls
from .request import Refusal, in_words, malformed, overriding, read_request
from .shortcut import Begun, Shortcut
from .streams import Inlet, Plain, Side
from .tenants import Tenant, Tenants, too_many
from .waiting import Waiting
from .work import timed

#: Until a request's head has been sent, and until TLS is agreed upon (seconds); a head's size (bytes).
HEAD_S, _TLS_S, _HEAD_BYTES = 30.0, 30.0, 64 << 10
#: What is read of a refused request's body, so that its answer is read before the connection is reset.
_LINGER_BYTES, _LINGER_S = 1 << 20, 2.0
_CREDENTIALS = re.compile(rb"^proxy-authorization:[ \t]*(basic [A-Za-z0-9+/=]{1,200})", re.IGNORECASE | re.MULTILINE)


class _By(enum.Enum):
    """What lets a request go on."""

    POLICY = "a rule"
    ANSWER = "an answer"
    MONITOR = "monitor mode"


class Services:
    """What all connections use. `authorities`: whom the proxy trusts (PEM); None: whom this machine does.

    `waits`: what its loop waits with.
    """

    def __init__(self, tenants: Tenants, names: Names, authorities: str | None, waits: Waiting | None = None) -> None:
        self.tenants, self.names, self._authorities = tenants, names, authorities
        self.carrier = tunnel.Carrier(waits)

    @functools.cached_property
    def trusted(self) -> ssl.SSLContext:
        """How hosts are spoken to over TLS: their certificates and names are verified."""
        context = ssl.create_default_context(cadata=self._authorities)
        context.set_alpn_protocols(["http/1.1"])
        return context


class Connection:
    """One connection, or what is inside of a `tunnel` that is opened, and the request that it is at."""

    def __init__(
        self,
        services: Services,
        side: Side,
        tenant: Tenant | None = None,
        tunnel: web.Request | None = None,
    ) -> None:
        self._services, self._tenants = services, services.tenants
        self.side = side
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self.tenant, self._inside = tenant, tunnel
        self._up: Upstream | None = None
        self.begun = False
        #: what came before it was known whose connection this is
        self._unread = bytearray()

    async def run(self, *, over: bool) -> None:
        """Serve a connection of a guest, or refuse it as one over what its sandbox may have."""
        if self.tenant is None:
            self._tenants.meet(_current())
        elif self.tenant.gone:
            return
        else:
            self.tenant.tasks.add(_current())
        try:
            if self.tenant is not None and over:
                await self._refuse(too_many(self.tenant.most_connections))
            else:
                await self.serve()
        finally:
            self._tenants.know(_current())
            if self.tenant is not None:
                self.tenant.tasks.discard(_current())

    def worked(self, seconds: float) -> None:
        """Count what serving it took: of its sandbox, once that is known."""
        (self._tenants.strangers_work if self.tenant is None else self.tenant.meter.work).add(seconds)

    def close(self) -> None:
        """End what it has to a host."""
        if self._up is not None:
            self._up.close()

    async def serve(self) -> None:
        """Serve what comes, until its end."""
        try:
            while await self._request():
                if self.http.our_state is h11.DONE:  # a request that came before needs no h11
                    self.http.start_next_cycle()
            if self.http.their_state is h11.SEND_BODY and self.http.our_state in (h11.DONE, h11.MUST_CLOSE):
                await self.side.drain()
                await self._linger()
        except Refusal as refusal:
            await self._refuse(refusal)
        except OverLimit as over:
            spent = Refusal(over.what, DenialCode.LIMIT_EXCEEDED, str(over))
            await self._tenants.report(self.tenant, spent)
            await self._answer(429, _explanation(spent))
        except Unreachable as error:
            await self._answer(502, f"egress proxy: {error}")

    async def _refuse(self, refusal: Refusal) -> None:
        await self._tenants.report(self.tenant, refusal)
        await self._answer(refusal.status, _explanation(refusal))

    async def _request(self) -> bool:
        """Serve one request; False where the connection ends with it."""
        first = await self._first()
        if isinstance(first, Begun):
            assert self._up is not None
            answering = answer_known(self, *first[:2], self._up, first.answer, self._fresh_hider())
            return await self._exchanged(first.known.request, answering)
        async with asyncio.timeout(HEAD_S):
            event, head = await self._head(first)
        if isinstance(event, heads.KnownRequest):
            assert head is not None
            return await self._carry(event.request, partial(repeat, self, event, head, hider=self._fresh_hider()))
        if not isinstance(event, h11.Request):
            return False
        if self._inside is None:
            self._authenticate(event)
        request, onward = read_request(event, self._inside)
        by = await self._decide(request)
        for other in overriding(event, request):
            if by is not _By.MONITOR and (also := await self._decide(other)) is not _By.POLICY:
                by = also
        if request.method == web.CONNECT:
            await self._tunnel(request, by)
            return False
        assert self.tenant is not None
        given = [one for one in self.tenant.secrets if web.matches(one.rule, request)]
        credentials = Credentials(given, self._fresh_hider())
        carry = partial(forward, self, event, onward, credentials=credentials)
        kept = await self._carry(request, carry)
        if kept and head is not None and by is _By.POLICY and not credentials.change:
            self._remember(head, event, request, onward)
        return kept

    async def _first(self) -> bytes | Begun | None:
        """Carry what is known without being woken for it; return what else comes, None where it is still to be read."""
        side, tenant, up = self.side, self.tenant, self._up
        if tenant is None or up is None or self.http.trailing_data[0]:
            return None
        if not (tenant.known_requests.any and side.rests()):
            return None
        known, place = tenant.known_requests, self._place

        def find(data: bytes) -> heads.KnownRequest | None:
            found = known.find(data, place)
            return found[0] if found is not None and len(found[1]) == found[0].body_bytes else None

        carrier = self._services.carrier
        settles = can_hide(tenant.hider) and carrier.takes(side, up.side)
        shortcut = Shortcut(side, up, tenant.meter, find, tenant.hider, tenant.turns, settles=settles)
        first = await self._carried(shortcut)
        if not shortcut.settled:
            return first
        return await self._carried(Handed(carrier, side, up, tenant.meter, known.of(place), tenant.hider))

    async def _carried(self, way: Shortcut | Handed) -> bytes | Begun | None:
        """Carry what is known; return what else comes. Tells what of its failures the guest can be answered."""
        try:
            return await way.run(HEAD_S)
        except OSError as error:
            if way.asked is None:  # it is the guest who said no more
                raise
            raise self._broken_off(way.asked, error, way.begun) from None
        finally:
            self.begun = way.begun

    async def _head(self, first: bytes | None) -> tuple[object, bytes | None]:
        """Return what the guest sends first, as h11 reads it, with its bytes where these can be remembered.

        Of a request that came before, return what is known of it, and all of its bytes.
        """
        if self.http.trailing_data[0]:
            await self._turn()
            return await self.next_event(), None
        data = await self._read() if first is None else first
        await self._turn()
        if self.tenant is not None and (found := self.tenant.known_requests.find(data, self._place)) is not None:
            known, body = found
            if len(body) == known.body_bytes:
                return known, data
        try:
            event, head = heads.read_head(self.http, data)
        except h11.RemoteProtocolError as error:
            raise self._unreadable(error) from None
        return (await self.next_event(), None) if event is h11.NEED_DATA else (event, head)

    async def _turn(self) -> None:
        """Wait until it is the turn of its sandbox, where that is known."""
        if self.tenant is not None:
            await self.tenant.turns.wait()

    def _unreadable(self, error: h11.RemoteProtocolError) -> Refusal:
        """Return the refusal of what h11 cannot read, in the name of its sandbox where it bears a password."""
        self._recognise()
        return malformed(in_words(error))

    def _remember(self, head: bytes, event: h11.Request, request: web.Request, target: bytes) -> None:
        """Know a request again that was granted, and whose connections were kept."""
        body = heads.body_bytes(event)
        if self.tenant is not None and self._up is not None and body is not None and request.method != "HEAD":
            self.tenant.known_requests.put(head, heads.KnownRequest(request, target, self._up.sent, body), self._place)

    def _fresh_hider(self) -> Hider:
        """Return what covers its sandbox's credentials in one answer."""
        assert self.tenant is not None
        return self.tenant.hider.fresh()

    @property
    def _place(self) -> str | None:
        """Inside of which tunnel heads are read."""
        return None if self._inside is None else self._inside.place

    async def _carry(self, request: web.Request, exchange: Callable[[Upstream], Awaitable[bool]]) -> bool:
        """Carry one exchange to where a granted request goes; return whether the connection can carry another."""
        up = await self._upstream(request)
        self.meter.request()
        return await self._exchanged(request, exchange(up))

    async def _exchanged(self, request: web.Request, exchange: Awaitable[bool]) -> bool:
        """Await an exchange, and tell what of its failures the guest can be answered."""
        try:
            return await exchange
        except Encoded as error:
            raise Unreachable(f"{request.host}: {error}") from None
        except Unsignable as error:
            raise Refusal(str(request), DenialCode.LIMIT_EXCEEDED, str(error), status=413) from None
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            raise self._broken_off(request, error, self.begun) from None

    def _broken_off(self, request: web.Request, error: Exception, begun: bool) -> Exception:
        """Return what a failed exchange is to the guest: an error to answer with, or `error` where an answer began."""
        if begun or self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return error
        text = in_words(error) if isinstance(error, h11.ProtocolError) else str(error)
        return Unreachable(f"{request.host} broke off ({text or type(error).__name__})")

    async def _upstream(self, request: web.Request) -> Upstream:
        """Return a connection to the host: the one before, whose address was judged, or another. Raises Unreachable."""
        place = (request.host, request.port)
        if self._up is None or not self._up.serves(place):
            self.close()
            addresses = await self._addresses(request)
            if request.tls:
                trusted = self._services.trusted
                host: Side = await connect_over_tls(addresses, request.port, trusted, request.host)
            else:
                host = await connect(addresses, request.port)
            self._up = Upstream(place, host)
        return self._up

    @property
    def meter(self) -> Meter:
        """What its sandbox has used."""
        assert self.tenant is not None
        return self.tenant.meter

    async def next_event(self) -> object:
        """Return what the guest sends next, as h11 reads it. Raises Refusal where it cannot, OSError at an end."""
        in_body, ended = self.http.their_state is h11.SEND_BODY, False
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    self.side.write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await self._read()
                ended = not data
                self.http.receive_data(data)
        except h11.RemoteProtocolError as error:  # caught here: the host's are other errors
            if in_body and ended:
                raise ConnectionAbortedError("the guest has gone") from None
            raise self._unreadable(error) from None
        return event

    async def _read(self) -> bytes:
        data = await self.side.read(1 << 16)
        if self.tenant is None and len(self._unread) < _HEAD_BYTES:
            self._unread += data
        return data

    def _authenticate(self, request: h11.Request) -> None:
        given = [value for name, value in request.headers if name == b"proxy-authorization"]
        tenant = self._tenants.of_header(given[0] if len(given) == 1 else None, self.tenant)
        if tenant is None:
            reason = "the request names no sandbox: it must bear the user and password of HTTP_PROXY"
            raise Refusal("egress proxy", DenialCode.TOKEN_INVALID, reason, status=407)
        if self.tenant is None:
            self._belong(tenant)
            if len(tenant.tasks) > (most := tenant.most_connections):
                raise too_many(most)

    def _belong(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._unread.clear()
        self._tenants.know(_current())
        tenant.tasks.add(_current())

    def _recognise(self) -> None:
        """Find out whose a request is that cannot be read, for its event alone: it is refused all the same."""
        found = {self._tenants.of_header(match[1], self.tenant) for match in _CREDENTIALS.finditer(self._unread)}
        if self.tenant is None and len(found) == 1 and (tenant := found.pop()) is not None:
            self._belong(tenant)

    async def _decide(self, request: web.Request) -> _By:
        """Return what lets a request go on. Raises Refusal."""
        assert self.tenant is not None
        decision = self.tenant.broker.decide(Capability.NET_HTTP, str(request))
        if decision.code is None:
            return _By.POLICY
        said = Refusal(str(request), decision.code, decision.reason, rule=decision.rule, presented=decision.presented)
        unspoken = decision.code in (DenialCode.NOT_GRANTED, DenialCode.SCOPE_INSUFFICIENT)
        asked_about = unspoken and asks_about(self.tenant.broker.policy, Capability.NET_HTTP, said.target)
        if asked_about and not can_be_asked(said.target):
            said.reason, asked_about = f"{said.reason}; it is too long to be asked about", False
        if decision.refused:
            if not asked_about or not await self._tenants.ask(self.tenant, said):
                raise said
            await self._tenants.report(self.tenant, said, Verdict.WOULD_DENY)
            return _By.ANSWER
        said.would_ask = asked_about
        await self._tenants.report(self.tenant, said, Verdict.WOULD_DENY)
        return _By.MONITOR

    async def _addresses(self, request: web.Request) -> list[str]:
        """Return the addresses that a granted request may be sent to. Raises Refusal, Unreachable."""
        assert self.tenant is not None
        broker = self.tenant.broker
        try:
            return await self._services.names.find(self.tenant.key, broker, request.host, request.port)
        except RefusedAddress as refused:
            # not a target that a rule can be made of: no event suggests to open an address that a name led to
            said = Refusal(f"{request} at {refused.address}", refused.code, refused.reason, rule=refused.rule)
            if broker.policy.mode_of("net") is Mode.ENFORCE:
                raise said from None
            await self._tenants.report(self.tenant, said, Verdict.WOULD_DENY)
            return [refused.address]

    async def _tunnel(self, request: web.Request, by: _By) -> None:
        assert self.tenant is not None
        assert isinstance(self.side, Plain)
        if self.tenant.opens(request):
            await self._open(request, self.side)
            return
        addresses = await self._addresses(request)
        self.meter.request()
        host = await connect(addresses, request.port)
        try:
            self._accept()
            sent = self.http.trailing_data[0]
            by_name = web.deciding(self.tenant.broker.policy.web, request) is not None
            if by_name or by is _By.ANSWER:  # who answered was shown a name
                sent = await self._check_handshake(request, self.side, sent)
            self.meter.sent(len(sent))
            host.write(sent)
            await self._services.carrier.carry(self.side.stream, host.stream, self.meter)
        finally:
            host.close()

    async def _open(self, request: web.Request, side: Plain) -> None:
        """Read what is inside of a tunnel, as the host that the guest takes the proxy for. Raises Refusal, OSError."""
        assert self.tenant is not None
        if (issuer := self.tenant.issuer) is None:
            reason = "the sandbox was started under a policy that opens no TLS, and trusts no authority of the proxy's"
            raise Refusal(str(request), DenialCode.ALWAYS_DENIED, reason)
        self._accept()
        sent = await self._check_handshake(request, side, self.http.trailing_data[0])
        async with asyncio.timeout(_TLS_S):
            opened = await over_tls.to_guest(side, issuer.context(request.host), sent)
        inner = Connection(self._services, opened, self.tenant, request)
        try:
            await inner.serve()
            opened.write_eof()
        finally:
            inner.close()

    def _accept(self) -> None:
        self.side.write(self.http.send(h11.Response(status_code=200, headers=[], reason=b"connected")) or b"")

    async def _check_handshake(self, request: web.Request, side: Plain, sent: bytes) -> bytes:
        """Return what begins the tunnel, a TLS handshake that names its host. Nothing of another one is sent on."""
        try:
            return await tunnel.handshake(side.inlet, sent, request.host)
        except tunnel.NotTheHost as error:
            await self._tenants.report(self.tenant, Refusal(str(request), DenialCode.ALWAYS_DENIED, str(error)))
            self.side.write(tunnel.ACCESS_DENIED)
            await self.side.drain()
            raise ConnectionAbortedError from None

    async def _answer(self, status: int, text: str) -> None:
        """Send an answer of the proxy's own, and end the connection."""
        if self.begun:
            return
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
        self.side.write(b"".join(self.http.send(part) or b"" for part in whole))
        await self.side.drain()
        await self._linger()

    async def _linger(self) -> None:
        """Read on for a moment: a connection that is closed with bytes unread is reset, and its answer lost."""
        with contextlib.suppress(OSError, TimeoutError):
            self.side.write_eof()
            left = _LINGER_BYTES
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and (data := await self.side.read(1 << 16)):
                    left -= len(data)


async def serve(
    services: Services,
    inlet: Inlet,
    writer: asyncio.StreamWriter,
    tenant: Tenant | None = None,
    *,
    over: bool = False,
) -> None:
    """Serve one connection of a guest until it ends.

    `tenant`: whose the kernel says it is; `over`: it is one more than that may have.
    """
    connection = Connection(services, Plain(inlet, writer), tenant)
    try:
        await timed(connection.run(over=over), connection.worked)
    except (OSError, EOFError, TimeoutError, h11.ProtocolError):
        pass  # the guest, or who it talks to, has gone
    except asyncio.CancelledError:
        if not writer.is_closing():
            writer.transport.abort()
    finally:
        connection.close()
        with contextlib.suppress(OSError):
            writer.close()


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
