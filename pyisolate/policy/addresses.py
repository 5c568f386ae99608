"""IP addresses and ports as rules of `net` state them, and as operations name them: "host:port"."""

from __future__ import annotations

import socket

from .compiled import NetRule

#: IPv4 in IPv6 (RFC 4291, 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK = {4: b"\x7f\0\0\1", 16: bytes(15) + b"\1"}


def packed(host: str) -> bytes | None:
    """Return an address as 4 or 16 network-order bytes, without its zone; None for a name. IPv4 in IPv6 is IPv4."""
    plain = host.partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            found = socket.inet_pton(family, plain)
        except (OSError, ValueError):
            continue
        return found[len(_MAPPED) :] if found.startswith(_MAPPED) else found
    return None


def destination(address: bytes) -> bytes:
    """Return where what is sent to an address goes: "any" (0.0.0.0, ::) is this host (ip_route_output, Linux)."""
    return address if any(address) else _LOOPBACK[len(address)]


def takes_ipv4(address: bytes) -> bool:
    """Tell whether a bind to an address takes every IPv4 address as well: [::] without IPV6_V6ONLY (ipv6(7))."""
    return len(address) == 16 and not any(address)


def endpoint(target: str) -> tuple[bytes, int] | None:
    """Return address and port of "host:port"; None for names, unix paths and what is no port."""
    host, _, port = target.rpartition(":")
    address = packed(host.strip("[]"))
    try:
        number = int(port)
    except ValueError:
        return None
    return (address, number) if address is not None and 0 <= number <= 65535 else None


def has_address(rule: NetRule, length: int, number: int) -> bool:
    """Tell whether a rule is about an address of `length` bytes, which is `number`."""
    if len(rule.address) != length:
        return False
    shift = 8 * length - rule.prefix
    return int.from_bytes(rule.address) >> shift == number >> shift


def has_port(rule: NetRule, port: int | None) -> bool:
    """Tell whether a rule is about a port; None: about any."""
    return port is None or rule.port_low <= port <= rule.port_high
