"""Names of socket families and types, for targets such as `AF_INET/SOCK_STREAM`, of hooks and kernel records alike.

Source: the `_socket` module's constants. AF_ROUTE is another name of AF_NETLINK (linux/socket.h), which is used here.
"""

from __future__ import annotations

import _socket

_ALIASES = frozenset({"AF_ROUTE"})
FAMILY_NAMES: dict[int, str] = {
    int(value): name for name, value in vars(_socket).items() if name.startswith("AF_") and name not in _ALIASES
}
TYPE_NAMES: dict[int, str] = {int(value): name for name, value in vars(_socket).items() if name.startswith("SOCK_")}
#: SOCK_NONBLOCK and SOCK_CLOEXEC ride above it (linux/net.h)
TYPE_MASK = 0xF


_PROTOCOL_NAMES: dict[int, str] = {
    int(value): name for name, value in vars(_socket).items() if name.startswith("IPPROTO_")
}
_INET = (int(_socket.AF_INET), int(_socket.AF_INET6))
_PROTOCOL_NAMES.setdefault(262, "IPPROTO_MPTCP")  # linux/in.h; a name where the C library has it
#: What rules can speak of, by type: TCP and UDP. -1 is the module's own "none".
_OF_RULES = {
    int(_socket.SOCK_STREAM): (-1, 0, int(_socket.IPPROTO_TCP)),
    int(_socket.SOCK_DGRAM): (-1, 0, int(_socket.IPPROTO_UDP)),
}


def socket_text(family: int, kind: int, protocol: int = 0) -> str:
    """Return a kind of socket as a target; numbers where there is no name. What is neither TCP nor UDP names it."""
    family, kind = family & 0xFFFFFFFF, kind & TYPE_MASK
    text = f"{FAMILY_NAMES.get(family, family)}/{TYPE_NAMES.get(kind, kind)}"
    if family in _INET and protocol not in _OF_RULES.get(kind, (protocol,)):
        return f"{text}/{_PROTOCOL_NAMES.get(protocol, protocol)}"
    return text


def is_past_rules(target: str) -> bool:
    """Tell whether a kind of socket is one of IP that no rule can speak of: neither TCP nor UDP."""
    if target.endswith("/SOCK_STREAM/IPPROTO_MPTCP"):
        return False  # the listener serves it by TCP; where the host's network is shared, the filter refuses it
    family, _, rest = target.partition("/")
    kind, _, protocol = rest.partition("/")
    return family in ("AF_INET", "AF_INET6") and (bool(protocol) or kind not in ("", "SOCK_STREAM", "SOCK_DGRAM"))
