"""Egress by name: what the egress proxy may carry, by host, method and path.

The proxy asks the broker (`net.http`), and the broker asks here. Rules by address decide as well: of a host that the
policy pins, of a literal address, and of each address that a name turns out to have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import unquote

import msgspec

from ..capability import Capability
from ..errors import EnforcementError, PolicySyntaxError
from . import units
from .compiled import CompiledPolicy, NetAction, NetRule, WebRule
from .rules import NetworkRule

#: A tunnel, as a method of HTTP names it (RFC 9110, 9.3.6).
CONNECT = "CONNECT"
#: How rules by name hold, for a refusal past the proxy.
PROXY_ALONE = "the egress proxy alone (HTTP_PROXY, HTTPS_PROXY)"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: 64:ff9b::/96 and 64:ff9b:1::/48 lead to IPv4 addresses (RFC 6052, RFC 8215), as do 6to4 and Teredo (RFC 3056, 4380).
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
#: All that is handed out for the Internet (RFC 4291).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


class Request(msgspec.Struct, frozen=True):
    """What is asked of the proxy: `method` CONNECT is a tunnel, which has no path."""

    method: str
    host: str
    port: int
    path: str = ""
    #: over TLS, which the proxy has opened
    tls: bool = False

    @property
    def place(self) -> str:
        """Host and port, as a target of net.connect."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.method == CONNECT:
            return f"{CONNECT} {self.place}"
        scheme, port = ("https://", units.HTTPS_PORT) if self.tls else ("", units.HTTP_PORT)
        return f"{self.method} {scheme}{self.place.removesuffix(f':{port}')}{self.path}"


def parse(target: str) -> Request | None:
    """Return the request of a target of `net.http`; None: not one.

    It is "CONNECT host:443", "GET host[:port]/path", or "GET https://host[:port]/path".
    """
    method, _, rest = target.partition(" ")
    tls = rest.startswith("https://") and method != CONNECT
    rest = rest.removeprefix("https://") if tls else rest
    place, slash, path = rest.partition("/")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "" if method == CONNECT else str(units.HTTPS_PORT if tls else units.HTTP_PORT)
    if not method or not host or (method == CONNECT) is bool(slash) or not port.isdecimal() or len(port) > 5:
        return None
    return Request(method, host.strip("[]").lower().rstrip("."), int(port), slash + path, tls)


def matches(rule: WebRule, request: Request) -> bool:
    """Tell whether a rule speaks of a request."""
    if not rule.port_low <= request.port <= rule.port_high or not _same_host(rule.host, request.host):
        return False
    if rule.method is None:
        return True
    if request.method == CONNECT or rule.tls is not request.tls:
        return False
    if rule.method not in ("*", request.method if rule.allow else request.method.upper()):
        return False  # servers that do not tell GET from get are common
    if rule.path == "/*":
        return True
    if not units.plain_http_path(request.path):
        return not rule.allow  # what can be read in two ways may be what is denied, and is not what is granted
    whole = not rule.path.endswith("*")
    stated, asked = rule.path if whole else rule.path[:-1], request.path
    if not rule.allow:
        stated, asked = _widest(stated, whole), _widest(asked, whole)
    return asked == stated if whole else asked.startswith(stated)


def _widest(path: str, whole: bool) -> str:
    """Return what a path is to a server that tells the fewest apart: by case, by escapes, by a slash at the end."""
    path = unquote(path, "latin-1").lower()
    return path.rstrip("/") if whole else path


def granted_inside(rules: Iterable[WebRule], request: Request) -> WebRule | None:
    """Return a rule that grants something inside of a tunnel, which the proxy then opens; None where none does."""
    return next((rule for rule in rules if rule.allow and opens((rule,), request)), None)


def opens(rules: Iterable[WebRule], request: Request) -> bool:
    """Tell whether a rule speaks of what is inside a tunnel: it cannot be carried unread."""
    return any(
        rule.tls and rule.port_low <= request.port <= rule.port_high and _same_host(rule.host, request.host)
        for rule in rules
    )


def reached_by_proxy(rules: Iterable[WebRule], host: str | None, port: int | None) -> WebRule | None:
    """Return a rule that grants something of a host (None: of any) and port by name, so through the proxy alone."""
    found = None
    for rule in rules:
        if (port is not None and not rule.port_low <= port <= rule.port_high) or (
            host is not None and not _same_host(rule.host, host)
        ):
            continue
        if not rule.allow and rule.method is None and host is not None:
            return None
        found = found or (rule if rule.allow else None)
    return found


def _same_host(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def deciding(rules: Iterable[WebRule], request: Request) -> WebRule | None:
    """Return the rule that decides: one that denies, before one that allows; None where none speaks of it."""
    found = None
    for rule in rules:
        if matches(rule, request):
            if not rule.allow:
                return rule
            found = found or rule
    return found


def nearest(rules: Iterable[WebRule], target: str) -> str | None:
    """Return a grant for the host of a request, as the target of its rule; None where there is none."""
    if (request := parse(target)) is None:
        return None
    for rule in rules:
        if rule.allow and _same_host(rule.host, request.host):
            return _target_of(rule)
    return None


def _target_of(rule: WebRule) -> str:
    if rule.method is None:
        return str(units.NetTarget("names", rule.host, 0, rule.port_low, rule.port_high))
    return str(units.HttpTarget(rule.method, rule.host, rule.port_low, rule.path, rule.tls))


def denied_by_name(rules: Iterable[NetRule], host: str, port: int) -> NetRule | None:
    """Return the rule that denies a pinned host by its name, whatever its addresses are by now."""
    for rule in rules:
        speaks = rule.action == NetAction.CONNECT and rule.host == host
        if speaks and not rule.allow and rule.port_low <= port <= rule.port_high:
            return rule
    return None


def is_public(address: _Address) -> bool:
    """Tell whether an address is one of the Internet's, and not of this machine, its networks or its cloud."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _GLOBAL_UNICAST or any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def by_name(policy: CompiledPolicy) -> bool:
    """Tell whether a policy grants anything by name, or asks, so that its sandboxes are led to the egress proxy."""
    return Capability.NET_HTTP in policy.ask or any(rule.allow for rule in policy.web)


# -- compiling --------------------------------------------------------------------------------------------------------


def web_rules(rules: Iterable[NetworkRule]) -> tuple[WebRule, ...]:
    """Return the rules for the proxy. Raises EnforcementError for a denial that a grant by address goes around."""
    rules = tuple(rules)
    compiled = tuple(made for rule in rules if (made := _web_rule(rule)) is not None)
    for denial in compiled:
        if not denial.allow and (way := _way_around(denial, rules)) is not None:
            raise EnforcementError(
                f"policy, {denial.text}: {way.text} reaches the same hosts without their names",
                rule=denial.text,
                missing="names of addresses",
                hint="grant names instead of addresses, or deny the addresses",
            )
    return compiled


def _web_rule(rule: NetworkRule) -> WebRule | None:
    if rule.action == "http":
        web = units.http_target(rule.target)
        return WebRule(
            host=web.host,
            port_low=web.port,
            port_high=web.port,
            method=web.method,
            path=web.path,
            tls=web.tls,
            allow=rule.allow,
            text=rule.text,
        )
    target = units.net_target(rule.target, action=rule.action)
    if target.kind != "names":
        return None
    return WebRule(
        host=target.host, port_low=target.port_low, port_high=target.port_high, allow=rule.allow, text=rule.text
    )


def web_rule(key: str, target: str, text: str) -> WebRule:
    """Return the rule of a request (`http`), or of all requests to a host and port by its name or `*.` (`connect`)."""
    if key == "http":
        asked = units.http_target(target)
        return WebRule(
            host=asked.host, port_low=asked.port, port_high=asked.port, method=asked.method, path=asked.path, text=text
        )
    place = units.net_target(target, action="connect")
    return WebRule(host=place.host, port_low=place.port_low, port_high=place.port_high, text=text)


def _way_around(denial: WebRule, rules: Iterable[NetworkRule]) -> NetworkRule | None:
    """Return a grant that lets the guest connect, without the proxy, to what a rule denies by name."""
    for rule in rules:
        if rule.action != "connect" or not rule.allow:
            continue
        target = units.net_target(rule.target, action="connect")
        if target.port_high < denial.port_low or denial.port_high < target.port_low:
            continue
        whole = target.kind == "ip" and target.prefix == (128 if ":" in target.host else 32)
        if target.kind == "any" or (target.kind == "ip" and not whole):
            return rule
        if target.kind == "host" and _same_host(denial.host, target.host):
            return rule
    return None


def http_target_of(target: str) -> dict[str, str]:
    """Return the rule that grants a target of `net.http`. Raises PolicySyntaxError."""
    request = parse(target)
    if request is None:
        raise PolicySyntaxError(f"net.http {target[:80]!r}: cannot be read", hint='write "GET host/path"')
    if request.method == CONNECT:
        return {"connect": str(units.net_target(request.place, action="connect"))}
    return {"http": str(units.http_target(target))}
