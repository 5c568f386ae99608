"""Socket addresses as targets: "10.0.0.5:5432", "[::1]:80", "unix:/run/x", "unix:@abstract"."""

from __future__ import annotations

import _socket
import contextlib
from _thread import get_ident
from typing import Any

from ..policy.sockets import FAMILY_NAMES, TYPE_MASK, socket_text
from . import paths

_inet_pton, _inet_ntop, _inet_aton = _socket.inet_pton, _socket.inet_ntop, _socket.inet_aton
AF_UNIX, AF_INET, AF_INET6 = int(_socket.AF_UNIX), int(_socket.AF_INET), int(_socket.AF_INET6)

#: One to four numbers with dots between; inet_aton(3) alone would take an address with any text after it.
_NUMBERS = frozenset("0123456789abcdefABCDEFxX.")
_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}

#: The C members themselves: the Python class's properties are slower, and a guest may override them.
family_of = _socket.socket.family.__get__
_getsockopt = _socket.socket.getsockopt
_type_of = _socket.socket.type.__get__


#: Threads inside a send that connects first (MSG_FASTOPEN), which no audit event says (3.11 to 3.13).
connecting: set[int] = set()


def is_connecting() -> bool:
    """Tell whether the send under way on this thread is a connection to its address, too."""
    return bool(connecting) and get_ident() in connecting


def connects_by(sock: _socket.socket, flags: object) -> bool:
    """Tell whether a send with these flags connects its socket first (tcp(7))."""
    return isinstance(flags, int) and bool(flags & _socket.MSG_FASTOPEN) and kind_of(sock) == _socket.SOCK_STREAM


def kind_of(sock: _socket.socket) -> int:
    """Return SOCK_STREAM, SOCK_DGRAM ... without the flags that may ride on it."""
    return int(_type_of(sock)) & TYPE_MASK


def v6only(sock: _socket.socket, target: str) -> dict[str, Any]:
    """Return, as a fact of a bind to [::], whether the socket leaves IPv4 alone; nothing for other targets."""
    if not target.startswith("[::]:"):
        return {}
    try:
        return {"v6only": bool(_getsockopt(sock, _socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY))}
    except OSError:
        return {}


def literal(host: str) -> tuple[int, str] | None:
    """Return (family, normal form) of an IP literal, its zone dropped; None for a name. IPv4 in IPv6 is IPv4.

    What resolvers take for IPv4 is (inet_aton(3)): `127.1`, `0x7f.1`, `2130706433`.
    """
    plain = host.partition("%")[0]
    for family in (AF_INET, AF_INET6):
        try:
            packed = _inet_pton(family, plain)
            if packed[:12] == _MAPPED:
                return AF_INET, _inet_ntop(AF_INET, packed[12:])
            return family, _inet_ntop(family, packed)
        except (OSError, ValueError):
            continue
    if host[:1].isdecimal() and _NUMBERS.issuperset(host):
        with contextlib.suppress(OSError):
            return AF_INET, _inet_ntop(AF_INET, _inet_aton(host))
    return None


def host_text(value: object) -> str | None:
    """Return a host argument as an exact str; None for "no host"."""
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray)):
        return bytes(bytearray(value)).decode("latin-1")
    return str.__getitem__(value, slice(None)) if isinstance(value, str) else None


def number(value: object) -> int | None:
    """Return a number argument as an exact int; None for anything else."""
    return int.__add__(value, 0) if isinstance(value, int) else None


def join(host: str, port: int | None) -> str:
    """Return host and port as one target."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def inet(host: str, port: object, *, family: int = AF_INET, leads_there: bool = True) -> tuple[str, dict[str, Any]]:
    """Return target and facts of a host and port; `address` is None for a name that is no literal.

    `leads_there`: it is a destination, and "any" address as one is loopback, as the kernel has it.
    """
    wild = {"": "::" if family == AF_INET6 else "0.0.0.0", "<broadcast>": "255.255.255.255"}
    found = literal(wild.get(host, host))
    if leads_there and found is not None:
        found = found[0], _LOOPBACK.get(found[1], found[1])
    numbered = number(port)
    if found is None:
        return join(host, numbered), {"host": host.lower().rstrip("."), "address": None, "port": numbered}
    return join(found[1], numbered), {"host": None, "address": found[1], "port": numbered}


def unix(address: object) -> tuple[str, dict[str, Any]] | None:
    """Return target and facts of a unix socket address; a pathname is resolved to what it reaches."""
    if isinstance(address, bytearray):
        address = bytes(address)
    name = paths.text(address)
    if name is None:
        return None
    if name[:1] in ("", "\0"):
        path = "@" + name[1:]
    else:
        path = paths.reached(name) or name
    return f"unix:{path}", {"unix_path": path}


def describe(family: int, address: object, *, leads_there: bool = False) -> tuple[str, dict[str, Any]] | None:
    """Return target and facts of an address as `socket` methods take it; None where it names no peer."""
    if address is None:
        return None
    if family == AF_UNIX:
        return unix(address)
    if family in (AF_INET, AF_INET6) and isinstance(address, tuple) and len(address) >= 2:
        host = host_text(address[0])
        return None if host is None else inet(host, address[1], family=family, leads_there=leads_there)
    return str(FAMILY_NAMES.get(family, family)), {"family": family}


def socket_kind(family: int, type_: int, protocol: int) -> tuple[str, dict[str, Any]]:
    """Return target and facts of a socket to be made."""
    kind = type_ & TYPE_MASK
    return socket_text(family, kind, protocol), {"family": int(family), "type": int(kind), "protocol": int(protocol)}
