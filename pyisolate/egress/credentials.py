"""What the proxy puts into a request, and what it keeps out of the answer."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_plus

import h11

from ..policy.secrets import Injection
from . import signing
from .hiding import Hider, hide

Headers = list[tuple[bytes, bytes]]
#: What is kept of a body until its hash is known, of a request that is to be signed (bytes).
MOST_SIGNED_BYTES = 1 << 20


class Encoded(Exception):
    """An answer is compressed, so that no credential can be found in it."""


class Unsignable(Exception):
    """A request is to be signed, and its body is too large to be kept until its hash is known."""


@dataclass
class Credentials:
    """The credentials of one exchange: `given` into its request, and all of the sandbox's kept out of its answer."""

    given: Sequence[Injection]
    hider: Hider

    @property
    def change(self) -> bool:
        """Tell whether the same request gets others the next time: a signature holds the time."""
        return any(one.form == "sigv4" for one in self.given)

    def needs_body(self, headers: Headers) -> bool:
        """Tell whether a request's body must be there before its head is sent, for its hash."""
        return self.change and not any(name.lower() == signing.CONTENT_HASH for name, _ in headers)

    def into(self, method: bytes, target: bytes, headers: Headers, body: bytes = b"") -> tuple[bytes, Headers]:
        """Return a request's target and headers with the credentials in place of the guest's own."""
        if not self.hider.hidden:
            return target, headers
        # the first of a kind counts
        named = {(one.form, one.name.lower()): one for one in reversed(self.given) if one.form != "sigv4"}
        signed = next((one for one in self.given if one.form == "sigv4"), None)
        dropped = {one.name.lower().encode() for one in named.values() if one.form == "header"}
        # no compression, no parts: a credential could not be found in them
        dropped |= {b"accept-encoding", b"range", b"if-range"} | (signing.REPLACED if signed else frozenset())
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        for one in named.values():
            if one.form == "query":
                target = _with_parameter(target, one)
            elif signed is None or one.name.lower().encode() not in signing.REPLACED:
                kept.append((one.name.encode(), one.value.encode()))
        if signed is not None:
            kept += _signature(signed, method, target, kept, body)
        return target, [*kept, (b"Accept-Encoding", b"identity")]

    def out_of(self, event: h11.Response, headers: Headers) -> tuple[Headers, bytes]:
        """Return an answer's headers and reason without credentials. Raises Encoded."""
        if not self.hider.hidden:
            return headers, event.reason
        coded = [value.strip().lower() for name, value in headers if name.lower() == b"content-encoding"]
        if any(value not in (b"", b"identity") for value in coded):
            raise Encoded("its answer is compressed, and may hold a credential")
        found = self.hider.hidden
        return [(hide(name, found), hide(value, found)) for name, value in headers], hide(event.reason, found)


def _with_parameter(target: bytes, one: Injection) -> bytes:
    """Return a target whose query has the credential, and no other parameter of that name."""
    path, _, query = target.partition(b"?")
    pairs = [pair for pair in query.split(b"&") if pair and _name(pair) != one.name]
    return path + b"?" + b"&".join([*pairs, f"{one.name}={quote(one.value, safe='')}".encode()])


def _name(pair: bytes) -> str:
    return unquote_plus(pair.partition(b"=")[0].decode("latin-1"))


def _signature(one: Injection, method: bytes, target: bytes, headers: Headers, body: bytes) -> Headers:
    region, _, service = one.name.partition("/")
    identifier, secret, *token = one.value.split(":")
    key = signing.Key(identifier, secret, "".join(token), region, service)
    stated = [value for name, value in headers if name.lower() == signing.CONTENT_HASH]
    body_hash = stated[0].decode("latin-1") if stated else hashlib.sha256(body).hexdigest()
    return signing.sign(key, method, target, headers, body_hash, datetime.datetime.now(datetime.UTC))
