"""Requests by name, as they are learned: paths become directories of a host, and hosts all names of a domain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from ..capability import Capability
from . import web
from .units import plain_http_path

_Key = tuple[Capability, str]
#: co.uk, com.au: what is registered below has an owner each.
_REGISTRY = re.compile(r"[a-z]{2,3}\.[a-z]{2}")


def directories(keys: Iterable[_Key], count: int) -> set[_Key]:
    """Replace `count` or more requests for one directory of a host, of one method, by all that lies below it.

    A whole host is learned from no path right at its top, and nothing from a path that servers read in different ways.
    """

    def place(request: web.Request) -> web.Request | None:
        above = request.path.rpartition("/")[0]
        if not above or not plain_http_path(request.path):
            return None
        return msgspec.structs.replace(request, path=f"{above}/*")

    return _replaced(keys, place, count)


def domains(keys: Iterable[_Key], count: int) -> set[_Key]:
    """Replace `count` or more hosts of one domain, asked for alike, by all names below it. Never a registry's."""

    def place(request: web.Request) -> web.Request | None:
        domain = request.host.removeprefix("*.").partition(".")[2]
        named = bool(re.search(r"[a-z]", domain)) and "." in domain and not _REGISTRY.fullmatch(domain)
        return msgspec.structs.replace(request, host=f"*.{domain}") if named else None

    return _replaced(keys, place, count)


def nameless(refused: str, resolve: Callable[[str], Iterable[str]]) -> web.Request | None:
    """Return the tunnel of "net.http CONNECT host:port" where its host has no address: no rule can pin one."""
    capability, _, target = refused.partition(" ")
    request = web.parse(target) if capability == Capability.NET_HTTP else None
    if request is None or request.method != web.CONNECT or any(resolve(request.host)):
        return None
    return request


def _replaced(keys: Iterable[_Key], place: Callable[[web.Request], web.Request | None], count: int) -> set[_Key]:
    result = set(keys)
    groups: dict[str, set[_Key]] = {}
    for capability, target in result:
        request = web.parse(target) if capability is Capability.NET_HTTP else None
        wider = None if request is None else place(request)
        if wider is not None:
            groups.setdefault(str(wider), set()).add((capability, target))
    for wider_target, members in groups.items():
        if len(members) >= count:
            result = (result - members) | {(Capability.NET_HTTP, wider_target)}
    return result
