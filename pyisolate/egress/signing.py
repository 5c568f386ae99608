"""AWS Signature Version 4: a request is signed with a key that the guest does not have.

Source: AWS, "Create a signed AWS API request" (IAM User Guide), whose examples are the tests.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

Headers = Sequence[tuple[bytes, bytes]]

#: Where a client states the hash of its body, which the host compares with the body.
CONTENT_HASH = b"x-amz-content-sha256"
#: What a guest's client has put into a request with the credentials that it has, if any.
REPLACED = frozenset((b"authorization", b"x-amz-date", b"x-amz-security-token"))
_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"
_SPACES = re.compile(rb"[ \t]+")


@dataclass(frozen=True, repr=False)
class Key:
    """An access key, and for which region and service it signs. `token`: of temporary credentials, else empty."""

    identifier: str
    secret: str
    token: str
    region: str
    service: str


def sign(
    key: Key, method: bytes, target: bytes, headers: Headers, body_hash: str, now: datetime.datetime
) -> list[tuple[bytes, bytes]]:
    """Return the headers that sign a request. `body_hash` is the hexadecimal SHA-256 of its body, `now` in UTC.

    `headers` are those that it is sent with, without the ones of REPLACED; Host is among them.
    """
    at = now.strftime("%Y%m%dT%H%M%SZ")
    added = [(b"X-Amz-Date", at.encode())]
    if key.token:
        added.append((b"X-Amz-Security-Token", key.token.encode()))
    if key.service == "s3" and not any(name.lower() == CONTENT_HASH for name, _ in headers):
        added.append((b"X-Amz-Content-Sha256", body_hash.encode()))
    signed = _signed([*headers, *added])
    names = ";".join(signed)
    path, _, query = target.decode("latin-1").partition("?")
    canonical = "\n".join(
        (
            method.decode("latin-1"),
            path if key.service == "s3" else quote(_normalized(path), safe="/" + _UNRESERVED),
            _canonical_query(query),
            *(f"{name}:{value}" for name, value in signed.items()),
            "",
            names,
            body_hash,
        )
    )
    scope = f"{at[:8]}/{key.region}/{key.service}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, at, scope, hashlib.sha256(canonical.encode("latin-1")).hexdigest()))
    signature = hmac.new(_derived(key, at[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    line = f"{_ALGORITHM} Credential={key.identifier}/{scope}, SignedHeaders={names}, Signature={signature}"
    return [*added, (b"Authorization", line.encode())]


def _signed(headers: Headers) -> dict[str, str]:
    """Return the headers that a signature covers, sorted: where it goes, what it is, and all of Amazon's."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in (b"host", b"content-type", b"content-md5") or lower.startswith(b"x-amz-"):
            text = _SPACES.sub(b" ", value.strip()).decode("latin-1")
            found.setdefault(lower.decode("latin-1"), []).append(text)
    return {name: ",".join(found[name]) for name in sorted(found)}


def _normalized(path: str) -> str:
    """Return a path as services read it before they compare signatures (S3 does not): no dots, no empty segments."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    encoded = sorted((_encoded(name), _encoded(value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _encoded(text: str) -> str:
    return quote(unquote(text, "latin-1"), safe=_UNRESERVED, encoding="latin-1")


def _derived(key: Key, date: str) -> bytes:
    derived = f"AWS4{key.secret}".encode()
    for part in (date, key.region, key.service, "aws4_request"):
        derived = hmac.new(derived, part.encode(), hashlib.sha256).digest()
    return derived
