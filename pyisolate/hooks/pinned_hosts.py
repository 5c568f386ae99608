"""Names that a guest may resolve: those its policy grants, answered from the addresses pinned by the supervisor.

A cell has no network of its own to ask a name server through, and what a policy grants must not change with an answer
that a name server gives later.
"""

from __future__ import annotations

import _socket
import _thread
from collections.abc import Callable, Sequence
from typing import Any

from ..capability import Capability
from . import addresses
from .active import GATE, SERVICES, may_read
from .operation import Operation

_getaddrinfo, _getnameinfo = _socket.getaddrinfo, _socket.getnameinfo
_LOCAL = ("127.0.0.1", "::1")
#: As the C library has them where no host is named.
_LOOPBACK = ("::1", "127.0.0.1")
_FAMILIES = (0, addresses.AF_INET, addresses.AF_INET6)
_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_AI_CANONNAME, _AI_NUMERICHOST = int(_socket.AI_CANONNAME), int(_socket.AI_NUMERICHOST)
_AI_ADDRCONFIG, _AI_PASSIVE = int(_socket.AI_ADDRCONFIG), int(_socket.AI_PASSIVE)
_EAI_NONAME = int(_socket.EAI_NONAME)
_HOST_NOT_FOUND = 1  # h_errno (netdb.h)


class PinnedHosts:
    """Answers of one policy."""

    def __init__(self, pinned: dict[str, tuple[str, ...]], ask: Callable[..., int]) -> None:
        self._pinned, self._ask = pinned, ask

    def addresses_of(self, host: str) -> tuple[str, ...] | None:
        """Return the addresses of a name: pinned, local or a literal's own; None for any other name."""
        name = host.lower().rstrip(".")
        if self._pinned.get(name):  # one that did not resolve is refused, and the broker says so
            return self._pinned[name]
        if name in _LOCAL_NAMES or name == _own_name():
            return _LOCAL
        found = addresses.literal(host)
        return None if found is None else (found[1],)

    def pins(self, host: str) -> bool:
        """Tell whether the policy grants a host by this name."""
        return host.lower().rstrip(".") in self._pinned

    def name_of(self, address: str) -> str | None:
        """Return the name that an address is pinned for."""
        for name, pinned in self._pinned.items():
            if address in pinned:
                return name
        return "localhost" if address in _LOCAL else None

    def operations(self, host: object, port: object) -> Sequence[Operation]:
        """Return what must be asked before a name is looked up: nothing for names with an answer here."""
        name = addresses.host_text(host)
        if not name or self.addresses_of(name) is not None:
            return ()
        target, facts = addresses.inet(name, port)
        return ((Capability.NET_CONNECT, target, facts),)

    def resolve(self, host: object, port: object) -> tuple[str, ...] | None:
        """Return the addresses of a host. Raises PolicyError for a name that is not granted."""
        name = addresses.host_text(host)
        if not name:
            return None
        found = self.addresses_of(name)
        if found is None:
            for capability, target, facts in self.operations(host, port):
                self._ask(capability, target, **facts)
        return found


def _own_name() -> str:
    try:
        return _socket.gethostname().lower()
    except OSError:
        return ""


def no_address(host: object) -> OSError:
    """Return the error of a name that the policy grants and that has no address, or none of the family asked for."""
    return _socket.gaierror(_EAI_NONAME, f"{host}: the policy pins no address for it")


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[Any, ...]]:
    """Answer `_socket.getaddrinfo` for granted names."""
    hooks = GATE.hooks
    if hooks is None:
        return _getaddrinfo(host, port, family, type, proto, flags)
    found = hooks.hosts.resolve(host, port)
    if host is None and port is not None and not flags & _AI_CANONNAME and family in _FAMILIES:
        # the C library would read its settings, ask for network cards and connect sockets, to sort two addresses
        found = ("::", "0.0.0.0") if flags & _AI_PASSIVE else _LOOPBACK
    if host in ("", b""):
        raise _socket.gaierror(_EAI_NONAME, "Name or service not known")  # as it says, having asked for it everywhere
    if found is None:  # monitor mode, a rule for any name, or arguments that are refused
        return _getaddrinfo(host, port, family, type, proto, flags)
    numeric = (flags | _AI_NUMERICHOST) & ~(_AI_ADDRCONFIG | _AI_CANONNAME)
    answers: list[tuple[Any, ...]] = []
    for address in found:
        kind = addresses.AF_INET6 if ":" in address else addresses.AF_INET
        if family in (0, kind):
            zoned = addresses.host_text(host) or address
            literal = zoned if "%" in zoned and kind == addresses.AF_INET6 else address
            answers += _getaddrinfo(literal, port, kind, type, proto, numeric)
    if not answers:
        raise no_address(host)
    if flags & _AI_CANONNAME:
        answers[0] = (*answers[0][:3], addresses.host_text(host), answers[0][4])
    return answers


def gethostbyname(hostname: Any) -> str:
    """Answer `socket.gethostbyname` for granted names."""
    return gethostbyname_ex(hostname)[2][0]


def gethostbyname_ex(hostname: Any) -> tuple[str, list[str], list[str]]:
    """Answer `socket.gethostbyname_ex` for granted names."""
    hooks = GATE.hooks
    if hooks is None:
        return _socket_gethostbyname_ex(hostname)
    name = addresses.host_text(hostname)
    if name in (None, ""):
        return _socket_gethostbyname_ex(hostname)
    found = hooks.hosts.resolve(name, None)
    if found is None:
        return _socket_gethostbyname_ex(hostname)
    old = [address for address in found if ":" not in address]
    if not old:
        raise no_address(name)
    return str(name), [], old


def gethostbyaddr(ip_address: Any) -> tuple[str, list[str], list[str]]:
    """Answer `socket.gethostbyaddr` for granted names and their addresses."""
    hooks = GATE.hooks
    if hooks is None:
        return _socket_gethostbyaddr(ip_address)
    given = addresses.host_text(ip_address) or ""
    found = hooks.hosts.resolve(given, None)
    name = None if not found else hooks.hosts.name_of(found[0])
    if found is None or name is None:
        raise _socket.herror(_HOST_NOT_FOUND, f"{given}: the policy pins no name for it")
    return name, [], list(found)


def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
    """Answer `socket.getnameinfo`: names for pinned addresses, and of ports where those may be read; else numbers."""
    hooks = GATE.hooks
    if hooks is None or not isinstance(sockaddr, tuple) or not sockaddr:
        return _getnameinfo(sockaddr, flags)
    host = addresses.host_text(sockaddr[0]) or ""
    name = None if flags & _socket.NI_NUMERICHOST else hooks.hosts.name_of(host)
    if name is None and flags & _socket.NI_NAMEREQD:
        raise no_address(host)
    if not may_read(SERVICES):
        flags |= _socket.NI_NUMERICSERV
    shown, service = _getnameinfo(sockaddr, (flags | _socket.NI_NUMERICHOST) & ~_socket.NI_NAMEREQD)
    return name or shown, service


_socket_gethostbyname_ex, _socket_gethostbyaddr = _socket.gethostbyname_ex, _socket.gethostbyaddr
_socket_gethostbyname = _socket.gethostbyname
_installed = _thread.allocate_lock()

#: name in `socket` and `_socket` -> replacement
REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "getaddrinfo": getaddrinfo,
    "gethostbyname": gethostbyname,
    "gethostbyname_ex": gethostbyname_ex,
    "gethostbyaddr": gethostbyaddr,
    "getnameinfo": getnameinfo,
}
