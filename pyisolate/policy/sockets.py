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


def socket_text(family: int, kind: int) -> str:
    """Return a kind of socket as a target; numbers where there is no name."""
    family, kind = family & 0xFFFFFFFF, kind & TYPE_MASK
    return f"{FAMILY_NAMES.get(family, family)}/{TYPE_NAMES.get(kind, kind)}"
