"""The sandboxes that the proxy knows, the tasks of their connections, and their refusals as reports."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..policy import web
from ..policy.broker import Broker
from ..policy.secrets import Injection
from ..records import BrokerRecord
from . import heads
from .authority import Issuer
from .heads import Heads
from .hiding import Hider
from .messages import MOST_TARGET_CHARS, Admit, Answered, Counted, Led, Questioned, Refused
from .meter import Carried, Meter
from .peers import Peers
from .request import Refusal
from .turns import Turns
from .work import Shares, Work

#: Connections of one sandbox at a time.
MOST_CONNECTIONS = 32
#: Connections that have not said which sandbox they are of.
_MOST_STRANGERS = 256
#: Between two refusals of one sandbox, once there were those of two seconds at once.
_BETWEEN_REPORTS_S, _BURST_S = 0.02, 2.0
Report = Callable[[Refused | Counted | Questioned], Awaitable[None]]


def _one() -> int:
    return 1


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
    #: covers them: `fresh` for each answer
    hider: Hider = field(init=False)
    #: makes certificates that the sandbox trusts; None where its policy opened no TLS when it started
    issuer: Issuer | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    #: what the supervisor knows of its use
    counted: tuple[Carried, int, float] = (Carried(), 0, 0.0)
    #: granted requests that came before; a reload makes another tenant, and forgets them
    known_requests: Heads[heads.KnownRequest] = field(default_factory=lambda: Heads(heads.MOST_REQUESTS))
    turns: Turns = field(init=False)
    pace: _Pace = field(default_factory=lambda: _Pace())
    #: what the kernel tells its connections by; None: nothing, so that each bears its password to say whose it is
    led: Led | None = None
    #: connections that are known by that, and have not ended
    open: int = 0
    #: those that were closed at once, and are in no report yet
    turned_away: int = 0
    gone: bool = False

    def __post_init__(self) -> None:
        self.hider, self.turns = Hider(self.secrets), Turns(self.meter.work)

    def opens(self, request: web.Request) -> bool:
        """Tell whether a tunnel is to be read: rules or secrets speak of what is inside of it."""
        policy = self.broker.policy
        return policy.inspect_tls and web.opens((*policy.web, *(one.rule for one in self.secrets)), request)

    @property
    def most_connections(self) -> int:
        """How many connections it may have at a time."""
        return min(MOST_CONNECTIONS, self.meter.limits.connections or MOST_CONNECTIONS)


def too_many(most: int) -> Refusal:
    """Return the refusal of a connection over `most`."""
    reason = f"more than {most} connections at a time"
    return Refusal("egress connections", DenialCode.LIMIT_EXCEEDED, reason, status=429)


class Tenants:
    """All sandboxes of one supervisor."""

    def __init__(self, report: Report, peers: Peers | None = None) -> None:
        self._report, self._peers = report, peers
        self._known: dict[bytes, Tenant] = {}
        #: those whose connections the kernel tells, by listener's number, and by control group
        self._by_number: dict[int, Tenant] = {}
        self._by_group: dict[int, Tenant] = {}
        #: a connection that the kernel tells nothing of may be a sandbox's: its password is to say
        self.takes_strangers = False
        #: connections that have not said whose they are, the oldest first
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._pace_of_strangers = _Pace()
        #: what connections took that have not said whose they are
        self.strangers_work = Work()
        self._shares = Shares()
        #: questions that wait, by number, with whose they are. The first number is no other proxy's: time has gone on
        self._questions: dict[int, tuple[str, asyncio.Future[bool]]] = {}
        self._last = time.monotonic_ns()

    def admit(self, order: Admit) -> None:
        """Know a sandbox, or another policy of one; what it has open under the one before is closed."""
        meter = next((one.meter for one in self._known.values() if one.key == order.key), Meter())
        meter.limits = order.policy.egress
        self.dismiss(order.key)
        issuer = None if order.authority is None else Issuer(order.authority)
        tenant = Tenant(order.key, Broker(order.policy), meter, order.secrets, issuer)
        self._known[_digest(order.token.encode())] = tenant
        if self._peers is not None and order.led.number and self._peers.tells_cookies:
            self._by_number[order.led.number], tenant.led = tenant, order.led
        elif self._peers is not None and order.led.group and self._peers.tells_groups:
            self._by_group[order.led.group], tenant.led = tenant, order.led
        self._look_for_strangers()

    def dismiss(self, key: str) -> None:
        """Forget a sandbox and close what it has open."""
        for digest, tenant in list(self._known.items()):
            if tenant.key == key:
                del self._known[digest]
                tenant.gone = True
                if tenant.led is not None:
                    for known, by in ((self._by_number, tenant.led.number), (self._by_group, tenant.led.group)):
                        if known.get(by) is tenant:
                            del known[by]
                tenant.meter.counts.renew()  # at once: the tunnels' thread waits for no task
                for task in list(tenant.tasks):
                    task.cancel()
        self._look_for_strangers()

    def _look_for_strangers(self) -> None:
        self.takes_strangers = any(one.led is None for one in self._known.values())

    def counts(self) -> Iterator[Counted]:
        """Return what is new of each sandbox since the last time."""
        meters = [one.meter for one in self._known.values()]
        self._shares.divide([(one.work, one.counts.spent_s()) for one in meters], self.strangers_work)
        for tenant in self._known.values():
            now = (tenant.meter.carried, len(tenant.tasks), tenant.meter.work.spent_s)
            if now != tenant.counted:
                tenant.counted = now
                yield Counted(key=tenant.key, carried=now[0], connections=now[1], spent_s=now[2])

    def of_address(self, address: tuple[str, int]) -> Tenant | None:
        """Return whose connection from that address is, as the kernel tells."""
        if self._peers is None or (peer := self._peers.find(address)) is None:
            return None
        return self._by_number.get(self._peers.number_of(peer)) or self._by_group.get(peer.group)

    def of_header(self, header: bytes | None, by_kernel: Tenant | None) -> Tenant | None:
        """Return whose token a Proxy-Authorization header holds. On what is `by_kernel`'s, no other's counts."""
        scheme, _, given = (header or b"").strip().partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            _user, _, token = base64.b64decode(given.strip(), validate=True).partition(b":")
        except ValueError:
            return None
        found = self._known.get(_digest(token))
        elsewhere = found is not by_kernel and (by_kernel is not None or (found is not None and found.led is not None))
        return None if elsewhere else found

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

    async def report(
        self, tenant: Tenant | None, refusal: Refusal, verdict: Verdict = Verdict.DENY, count: Callable[[], int] = _one
    ) -> None:
        """Have a refusal recorded. Returns once the report is on its way: the answer to the guest comes after it.

        `count`: asked when it is made, how often it was refused.
        """
        await (self._pace_of_strangers if tenant is None else tenant.pace).wait()
        record = BrokerRecord(
            sequence=0,
            capability=Capability.NET_HTTP,
            target=_name(refusal.target),
            verdict=verdict,
            code=refusal.code,
            reason=refusal.reason[:1000],
            rule=refusal.rule,
            presented=refusal.presented,
            answer="would_ask" if refusal.would_ask else None,
            waited_ms=refusal.waited_ms,
            count=count(),
        )
        # without its password a request is not taken for the sandbox's, though the kernel knows its connection
        key = "" if tenant is None or refusal.code is DenialCode.TOKEN_INVALID else tenant.key
        await self._report(Refused(key=key, record=record, question=refusal.question))

    async def ask(self, tenant: Tenant, refusal: Refusal) -> bool:
        """Have the host asked about what would be refused and `can_be_asked`; its report is still to be made."""
        loop = asyncio.get_running_loop()
        self._last += 1
        number, began = self._last, loop.time()
        await tenant.pace.wait()
        self._questions[number] = tenant.key, loop.create_future()
        try:
            await self._report(Questioned(key=tenant.key, number=number, target=refusal.target))
            return await self._questions[number][1]
        finally:
            del self._questions[number]
            refusal.question, refusal.waited_ms = number, int(1000 * (loop.time() - began))

    def take_answer(self, answer: Answered) -> None:
        """Let a request go on that waits for this answer, if it still does."""
        key, waiting = self._questions.get(answer.number, ("", None))
        if waiting is not None and key == answer.key and not waiting.done():
            waiting.set_result(answer.allow)


def _name(target: str) -> str:
    """Return what an event calls a request. One that is cut says so, and no rule can be made of it."""
    return target if len(target) <= MOST_TARGET_CHARS else f"{target[: MOST_TARGET_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
