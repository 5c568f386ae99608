"""Credentials that the egress proxy puts into requests: where a policy says that they come from, and go to.

A policy holds no value, only where the supervisor finds it; a guest's tables hold neither.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from ..errors import PolicySyntaxError
from . import units
from .compiled import WebRule
from .rules import Secret as Secret

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_SOURCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,254}|file:/[^\0\n]{1,4000}")
_INJECT = re.compile(
    r"(?P<kind>bearer|basic|header:(?P<header>[A-Za-z0-9-]{1,64})|query:[A-Za-z0-9._-]{1,64}"
    r"|sigv4:[a-z0-9-]{1,32}/[a-z0-9-]{1,32}) (?P<place>\S+)"
)
#: What the proxy writes itself, or what says where a request goes and how long it is.
_RESERVED = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "proxy-authorization", "proxy-connection", "upgrade",
     "te", "trailer", "expect", "keep-alive")
)  # fmt: skip
#: A shorter part of a value is no credential by itself, and a word of many answers.
_HIDDEN_CHARS = 8
_VALUE = re.compile(r"[\x21-\x7e]{8,4096}")
_ACCESS_KEY = re.compile(r"[A-Z0-9]{16,128}:(?P<secret>[A-Za-z0-9/+=]{16,128})(?::(?P<token>[A-Za-z0-9/+=]{16,4000}))?")


def secret(item: dict[str, Any]) -> Secret:
    """Return a secret from its item in a policy file. Raises PolicySyntaxError."""
    name, source, inject = (units.text(item.get(key), f"secret's {key}") for key in ("name", "from", "inject"))
    if not _NAME.fullmatch(name):
        raise PolicySyntaxError(f"secret {name[:60]!r}: not a name", hint="use 1 to 63 of A-Z a-z 0-9 _ . -")
    if not _SOURCE.fullmatch(source):
        raise PolicySyntaxError(f"secret {name}: unknown source", hint="write env:NAME or file:/path, never the value")
    match = _INJECT.fullmatch(inject)
    if match is None or (match["header"] or "").lower() in _RESERVED:
        hint = 'write "bearer https://api.example.org/v1/*", "basic ...", "header:X-Api-Key ...", "query:key ..." or '
        hint += '"sigv4:eu-west-1/s3 ..."'
        raise PolicySyntaxError(f"secret {name}: inject cannot be read", hint=hint)
    place = str(units.http_target(f"* {match['place']}"))[2:]
    return Secret(name=name, source=source, inject=f"{match['kind']} {place}")


def canonical_secrets(secrets: Iterable[Secret]) -> tuple[Secret, ...]:
    """Keep one secret of each name, the last, sorted."""
    kept = {one.name: one for one in secrets}
    return tuple(kept[name] for name in sorted(kept))


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """A credential as the proxy uses it: where it goes in a request, what must not come back, and for which requests.

    `name` is that of the header or the query's parameter, or the region and service of a signature.
    """

    form: Literal["header", "query", "sigv4"] = "header"
    name: str
    value: str
    hidden: tuple[str, ...]
    rule: WebRule

    def __repr__(self) -> str:
        return f"<Injection of {self.form} {self.name} for {self.rule.host}{self.rule.path}>"


def injection(stated: Secret, value: str) -> Injection:
    """Return what the proxy is to do with a secret's value. Raises ValueError for a value that cannot be hidden."""
    if not _VALUE.fullmatch(value):
        raise ValueError("must be 8 to 4096 visible ASCII characters")
    kind, _, place = stated.inject.partition(" ")
    target = units.http_target(f"* {place}")
    rule = WebRule(
        host=target.host,
        port_low=target.port,
        port_high=target.port,
        method="*",
        path=target.path,
        tls=target.tls,
    )
    encoded = base64.b64encode(value.encode()).decode()
    hidden = (*_spellings(value), *_spellings(encoded))
    if kind == "bearer":
        return Injection(name="Authorization", value=f"Bearer {value}", hidden=hidden, rule=rule)
    if kind == "basic":
        password = value.partition(":")[2]
        hidden += _spellings(password) if len(password) >= _HIDDEN_CHARS else ()
        return Injection(name="Authorization", value=f"Basic {encoded}", hidden=hidden, rule=rule)
    form, _, name = kind.partition(":")
    if form == "query":
        return Injection(form="query", name=name, value=value, hidden=hidden, rule=rule)
    if form == "sigv4":
        key = _ACCESS_KEY.fullmatch(value)
        if key is None:
            raise ValueError("must be ACCESS_KEY_ID:SECRET_ACCESS_KEY, or that and :SESSION_TOKEN")
        for part in filter(None, (key["secret"], key["token"])):
            hidden += _spellings(part)
        return Injection(form="sigv4", name=name, value=value, hidden=hidden, rule=rule)
    return Injection(name=name, value=value, hidden=hidden, rule=rule)


def _spellings(text: str) -> tuple[str, ...]:
    """Return a text as itself, in JSON, in HTML and in a URL: as servers write what they echo. Each once."""
    import html  # which has 2200 names, and most policies no secret

    escaped = json.dumps(text)[1:-1]
    url = quote(text), quote(text, safe="")
    return tuple(dict.fromkeys((text, escaped, escaped.replace("/", "\\/"), html.escape(text), *url)))
