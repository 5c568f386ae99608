"""Names to addresses: looked up when a request needs one, and each address judged before it is used."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from ..decision import DenialCode
from ..policy.broker import Broker
from . import over_tls, streams
from .lookups import Lookups
from .over_tls import OverTls
from .streams import Plain

#: Until a name that is looked up has no address, and an address does not answer (seconds).
LOOKUP_S, CONNECT_S = 5.0, 10.0
#: Addresses of one name that are tried.
_MOST_ADDRESSES = 8
_T = TypeVar("_T")


class Unreachable(Exception):
    """Granted, and nothing answers there."""


class RefusedAddress(Exception):
    """A name leads where the policy does not let its guest go."""

    def __init__(self, address: str, rule: str | None, code: DenialCode, reason: str) -> None:
        super().__init__(reason)
        self.address, self.rule, self.code, self.reason = address, rule, code, reason


class Names:
    """Finds the addresses of names. `hosts` are known beforehand and not looked up."""

    def __init__(self, hosts: Mapping[str, tuple[str, ...]]) -> None:
        self._hosts, self._lookups = hosts, Lookups()

    async def find(self, sandbox: str, broker: Broker, host: str, port: int) -> list[str]:
        """Return the addresses that a sandbox may reach a granted host at, in the order to try.

        Raises RefusedAddress where there are only others, Unreachable where there is none.
        """
        refused: RefusedAddress | None = None
        allowed = []
        for address in (await self._addresses(sandbox, broker, host))[:_MOST_ADDRESSES]:
            rule, code, reason = broker.reaches(address, port)
            if code is None:
                allowed.append(address)
            else:
                refused = refused or RefusedAddress(address, rule, code, reason or f"denied by {rule}")
        if allowed:
            return allowed
        raise refused or Unreachable(f"{host} has no address")

    async def _addresses(self, sandbox: str, broker: Broker, host: str) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        known = self._hosts.get(host) or broker.policy.pinned_hosts.get(host)
        if known:
            return list(known)
        try:
            async with asyncio.timeout(LOOKUP_S):
                return await self._lookups.find(sandbox, host)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise Unreachable(f"{host} cannot be looked up ({str(error) or type(error).__name__})") from None


async def connect(addresses: list[str], port: int) -> Plain:
    """Connect to the first address that answers. Raises Unreachable."""
    return await _first(addresses, lambda address: _connected(address, port))


async def connect_over_tls(addresses: list[str], port: int, context: ssl.SSLContext, host: str) -> OverTls:
    """The same over TLS, where the one that answers is `host`. Raises Unreachable."""

    async def one(address: str) -> OverTls:
        under = await _connected(address, port)
        try:
            return await over_tls.to_host(under, context, host)
        except BaseException:
            under.close()
            raise

    return await _first(addresses, one)


async def _connected(address: str, port: int) -> Plain:
    return Plain(*await streams.open_connection(address, port))


async def _first(addresses: list[str], way: Callable[[str], Awaitable[_T]]) -> _T:
    last: Exception | None = None
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_S):
                return await way(address)
        except (OSError, TimeoutError) as error:
            last = error
    raise Unreachable(f"no answer ({str(last) or type(last).__name__})")
