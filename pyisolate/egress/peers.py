"""Whose a connection is, as the kernel says: asked when it is taken, before a byte of it is read (sock_diag(7)).

The notification listener writes down the cookie of each socket that it connects to the proxy for a guest
(`native/src/notify/led.c`). A cell whose control group's programs decide connects by itself: its sockets are of that
group (INET_DIAG_CGROUP_ID, Linux 5.8). What is neither is no sandbox's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from typing import NamedTuple

from ..native.notify import LED_SLOTS

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLM_F_REQUEST = 1
_INET_DIAG_CGROUP_ID = 21  # linux/inet_diag.h
_LISTEN = 10  # TCP_LISTEN, net/tcp_states.h
_HEAD = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")
#: struct inet_diag_sockid: ports, addresses, interface, and any cookie
_PORTS, _REST = struct.Struct("!HH"), struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_COOKIE_AT, _ATTRIBUTES_AT = 44, 72
_SLOT = struct.Struct("=QQ")
Address = tuple[str, int]


class Peer(NamedTuple):
    """The other end of a connection: its socket's cookie, and its control group, 0 where the kernel does not say."""

    cookie: int
    group: int


class Peers:
    """The other ends of what a listening socket takes. `table`: a descriptor of what the listener writes down."""

    def __init__(self, listener: socket.socket, table: int) -> None:
        self._own: Address = listener.getsockname()
        self._table = mmap.mmap(table, LED_SLOTS * _SLOT.size, prot=mmap.PROT_READ)
        self._diag: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
        proof = self._ask(self._own, ("0.0.0.0", 0))  # the listening socket itself
        #: whether the kernel tells cookies, and control groups
        self.tells_cookies, self.tells_groups = proof is not None, proof is not None and proof.group != 0

    def find(self, address: Address) -> Peer | None:
        """Return the socket at the other end; None where it is gone."""
        return self._ask(address, self._own)

    def number_of(self, peer: Peer) -> int:
        """Return the number under which the listener knows the sandbox that it connected this socket for, or 0."""
        at = peer.cookie % LED_SLOTS * _SLOT.size
        cookie, number = _SLOT.unpack_from(self._table, at)
        again, _ = _SLOT.unpack_from(self._table, at)  # another one may have been written over it
        return number if cookie == again == peer.cookie else 0

    def close(self) -> None:
        """Give back what is held."""
        self._table.close()
        if self._diag is not None:
            self._diag.close()

    def _ask(self, here: Address, there: Address) -> Peer | None:
        """Return the socket between two addresses."""
        if self._diag is None:
            return None
        ports = _PORTS.pack(here[1], there[1])
        ends = b"".join(socket.inet_aton(one[0]).ljust(16, b"\0") for one in (here, there))
        request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + ports + ends + _REST
        head = _HEAD.pack(_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
        try:
            self._diag.send(head + request)  # answered before it returns
            answer = self._diag.recv(4096)
        except OSError:
            return None
        return _peer(answer, ports, listening=there[1] == 0)


def _peer(answer: bytes, ports: bytes, *, listening: bool) -> Peer | None:
    """Return what the kernel answered about the socket with those ports; None: there is none."""
    body = answer[_HEAD.size :]
    if len(body) < _ATTRIBUTES_AT or _HEAD.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    # where no connection is found the kernel names who listens at that port
    if body[4:8] != ports or (body[1] == _LISTEN) is not listening:
        return None
    (cookie,) = struct.unpack_from("=Q", body, _COOKIE_AT)
    at, group = _ATTRIBUTES_AT, 0
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if kind == _INET_DIAG_CGROUP_ID and length >= 12:
            (group,) = struct.unpack_from("=Q", body, at + 4)
        at += max(4, (length + 3) & ~3)
    return Peer(cookie, group)


def new_table() -> int:
    """Return a descriptor of an empty table, whose size can be sealed. Raises OSError."""
    made = os.memfd_create("egress-peers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(made, LED_SLOTS * _SLOT.size)
    except OSError:
        os.close(made)
        raise
    return made
