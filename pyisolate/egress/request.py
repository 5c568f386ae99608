"""What a guest asks for: read from a request's head in the one way that there is, or refused."""

from __future__ import annotations

import re

import h11
import msgspec

from ..decision import DenialCode
from ..policy import units, web

#: A rule's method is no longer.
_METHOD_BYTES = 32
_HOST = r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
_PLACE = re.compile(_HOST)
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_REST = r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?"
#: As proxies are asked (RFC 9112, 3.2.2), and as hosts are, which may be asked in the same way.
_ABSOLUTE = re.compile(f"http://{_HOST}{_REST}", re.IGNORECASE)
_ABSOLUTE_TLS = re.compile(f"https://{_HOST}{_REST}", re.IGNORECASE)
_ORIGIN = re.compile(r"(?P<path>/[^?#]*)(?P<query>\?[^#]*)?")
#: Headers that give a host another method than the request line has, and another path.
_METHODS = (b"x-http-method-override", b"x-http-method", b"x-method-override")
_PATHS = (b"x-original-url", b"x-rewrite-url")
#: Where h11's words end and what it met begins, as its `repr`.
_BYTES = re.compile(r""":? *\b(bytearray\(|b['"]).*""", re.DOTALL)


class Refusal(Exception):
    """A request is refused. `target` is what its event names."""

    def __init__(
        self,
        target: str,
        code: DenialCode,
        reason: str,
        *,
        rule: str | None = None,
        presented: str | None = None,
        status: int = 403,
    ) -> None:
        super().__init__(reason)
        self.target, self.code, self.reason, self.rule = target, code, reason, rule
        self.presented, self.status = presented, status
        #: what was asked about it before: the question's number, 0 where there was none, and how long that took
        self.question = 0
        self.waited_ms: int | None = None
        #: monitor mode: it would be asked about
        self.would_ask = False


def read_request(event: h11.Request, tunnel: web.Request | None) -> tuple[web.Request, bytes]:
    """Return what is asked for, and the target that the host is sent. Raises Refusal for what has two readings.

    `tunnel` is the CONNECT inside of which the request came: it can be for no other host.
    """
    if len(event.method) > _METHOD_BYTES:
        raise malformed(f"its method is longer than {_METHOD_BYTES} bytes")
    method, target = event.method.decode("ascii"), event.target.decode("latin-1")
    headers: dict[bytes, list[bytes]] = {}
    for name, value in event.headers:
        headers.setdefault(name, []).append(value)
    _check_framing(event, headers)
    if len(headers.get(b"host", [])) > 1:
        raise malformed("it has more than one Host")
    if b"host" not in headers and (method != web.CONNECT or tunnel is not None):  # of a CONNECT nothing goes on
        raise malformed("it has no Host")
    if tunnel is None:
        request, query = _of_proxy(method, target)
    else:
        request, query = _of_tunnel(method, target, tunnel)
    if b"upgrade" in headers:
        raise Refusal(str(request), DenialCode.ALWAYS_DENIED, "the proxy carries no other protocol (Upgrade)")
    for given in headers.get(b"host", []):
        same = _PLACE.fullmatch(given.decode("latin-1"))
        if same is None or _place_of(same, request.port) != (request.host, request.port):
            raise Refusal(str(request), DenialCode.ALWAYS_DENIED, "its Host is not the host of its target")
    onward = "" if request.method == web.CONNECT else request.path + query
    return request, onward.encode("latin-1")


def overriding(event: h11.Request, request: web.Request) -> list[web.Request]:
    """Return what else a request may be to its host, which its headers name. Raises Refusal for another path."""
    found = []
    for spelled, value in event.headers if request.method != web.CONNECT else ():
        name = spelled.replace(b"_", b"-")  # CGI and WSGI make one of both
        if name in _PATHS:
            reason = f"{name.decode('ascii')} names another path than its target"
            raise Refusal(str(request), DenialCode.ALWAYS_DENIED, reason)
        if name in _METHODS:
            method = value.strip().upper()
            if not _METHOD.fullmatch(method) or method == web.CONNECT.encode():
                raise malformed(f"{name.decode('ascii')} names no method")
            found.append(msgspec.structs.replace(request, method=method.decode("ascii")))
    return [one for one in found if one != request]


def in_words(error: h11.ProtocolError) -> str:
    """Return what h11 says, without the bytes that it met: there may be a credential in them."""
    return _BYTES.sub("", str(error))


def malformed(reason: str) -> Refusal:
    """Return the refusal of what is no request."""
    return Refusal("malformed request", DenialCode.ALWAYS_DENIED, reason, status=400)


def _check_framing(event: h11.Request, headers: dict[bytes, list[bytes]]) -> None:
    if event.http_version not in (b"1.0", b"1.1"):
        raise malformed("the version of HTTP is neither 1.0 nor 1.1")
    if b"transfer-encoding" in headers and (b"content-length" in headers or event.http_version == b"1.0"):
        raise malformed("it states the length of its body in two ways")


def _of_proxy(method: str, target: str) -> tuple[web.Request, str]:
    form = (_PLACE if method == web.CONNECT else _ABSOLUTE).fullmatch(target)
    if form is None:
        wanted = "host:port" if method == web.CONNECT else "http://host/path, as proxies are asked"
        raise malformed(f"its target is not {wanted}")
    if method == web.CONNECT:
        return web.Request(method, *_checked(_place_of(form, 0))), ""
    host, port = _checked(_place_of(form, units.HTTP_PORT))
    return web.Request(method, host, port, form["path"] or "/"), form["query"] or ""


def _of_tunnel(method: str, target: str, tunnel: web.Request) -> tuple[web.Request, str]:
    if method == web.CONNECT:
        raise malformed("a tunnel in a tunnel")
    form = _ORIGIN.fullmatch(target)
    if form is None and (form := _ABSOLUTE_TLS.fullmatch(target)) is not None:
        place = _checked(_place_of(form, units.HTTPS_PORT))
        if place != (tunnel.host, tunnel.port):
            other = web.Request(method, *place, form["path"] or "/", tls=True)
            raise Refusal(str(other), DenialCode.ALWAYS_DENIED, f"it came in a tunnel to {tunnel.place}")
    if form is None:
        raise malformed("its target is neither /path nor https://host/path")
    return web.Request(method, tunnel.host, tunnel.port, form["path"] or "/", tls=True), form["query"] or ""


def _place_of(form: re.Match[str], port: int) -> tuple[str, int]:
    return form["host"].strip("[]").lower().rstrip("."), int(form["port"] or port)


def _checked(place: tuple[str, int]) -> tuple[str, int]:
    if not 0 < place[1] < 65536 or not place[0]:
        raise malformed("its target has no port" if not place[1] else "its port is out of range")
    return place
