"""IP addresses and ports as rules of `net` state them, and as operations name them: "host:port"."""

from __future__ import annotations

import ipaddress

from .compiled import NetRule


def packed(host: str) -> bytes | None:
    """Return an address as 4 or 16 network-order bytes, without its zone; None for a name. IPv4 in IPv6 is IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).packed


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
