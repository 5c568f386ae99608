"""The atoms of a policy text: paths, module names, network targets, sizes and durations.

Every function takes whatever a policy file may hold and returns its canonical form, or raises `PolicySyntaxError`
with a hint. Nothing here touches the file system or the network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast, get_args

import msgspec

from ..choices import BetweenRequests
from ..errors import PolicySyntaxError
from . import standard_library
from .compiled import PAGE_BYTES

#: Variables that stand for what this machine's interpreter or system needs; `compile` knows what they hold.
PATH_VARIABLES = ("@certificates", "@devices", "@interpreter", "@processors", "@resolver", "@zoneinfo")
NET_VARIABLES = ("@resolver",)
IMPORT_VARIABLES = standard_library.VARIABLES

#: Linux: PATH_MAX counts the terminating NUL (include/uapi/linux/limits.h).
_PATH_MAX = 4095
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
               "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}  # fmt: skip
DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_HOST = re.compile(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_HTTP = re.compile(
    r"(?P<method>[A-Z]{1,32}|\*) (?P<tls>https://)?(?P<host>[^\s/:]{1,260})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^\s?#]{0,2000})"
)
# RFC 3986's pchar and "/", without ";" and without the escapes of "/", "\\", ".", "%", ";", NUL and other controls
_HTTP_PATH = re.compile(
    r"/(?:[A-Za-z0-9._~!$&'()+,=:@/-]|%(?!2[EFef5]|5[Cc]|3[Bb]|[01][0-9A-Fa-f]|7[Ff])[0-9A-Fa-f]{2})*"
)
#: The ports of HTTP, plain and over TLS, where none is named (RFC 9110, 4.2.1 and 4.2.2).
HTTP_PORT, HTTPS_PORT = 80, 443
_NAME = re.compile(r"[\w][\w.@+ -]{0,62}", re.ASCII)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known word, or all of them."""
    import difflib

    known = sorted(known)
    close = difflib.get_close_matches(word[:64], known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"use one of: {', '.join(known)}"


def _shown(value: object) -> str:
    """Return a value for an error message: printable, and short however long it is."""
    shown = ascii(value[:81] if isinstance(value, str) else value)
    return shown if len(shown) <= 84 else f"{shown[:80]}...'"


#: Control characters, and what stands for bytes that are not UTF-8 (PEP 383).
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def text(value: object, what: str) -> str:
    """Return `value` if it is a string that can be printed, stored and hashed; `what` names it in errors."""
    if isinstance(value, bool):
        raise PolicySyntaxError(f"{what}: expected text, got a boolean", hint="quote the word if it is meant as text")
    if not isinstance(value, str):
        raise PolicySyntaxError(f"{what}: expected text, got {type(value).__name__}", hint=f"write {what} as a string")
    if not value:
        raise PolicySyntaxError(f"{what}: must not be empty", hint=f"give the {what} or leave the rule out")
    if _UNWRITABLE.search(value):
        raise PolicySyntaxError(
            f"{what} {_shown(value)}: holds a control character or a byte that is not UTF-8",
            hint="name a parent directory instead",
        )
    return value


def policy_name(value: object) -> str:
    """Return a policy name: it becomes a metric label, so it is short and plain."""
    name = text(value, "policy name")
    if not _NAME.fullmatch(name):
        raise PolicySyntaxError(f"policy name {_shown(name)}: not a name", hint="use 1 to 63 of A-Z a-z 0-9 _ . - + @")
    return name


#: Longer texts are no reason, but a page (characters).
REASON_LIMIT = 200


def reason(value: object) -> str:
    """Return the text that a policy gives for a rule: it is shown in events, so it is short and plain."""
    given = text(value, "reason").strip()
    if not given or len(given) > REASON_LIMIT:
        raise PolicySyntaxError(f"reason: {len(given)} characters", hint=f"write 1 to {REASON_LIMIT}")
    return given


def path(value: object, *, variables: bool = True, literal: bool = False) -> str:
    """Return a canonical absolute path or, where allowed, a variable such as `@interpreter`.

    `*` and `?` are refused unless `literal`: a rule covers its path and all below, it is never a pattern.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    value = text(value, "path")
    if value.startswith("@"):
        if variables and value in PATH_VARIABLES:
            return value
        raise PolicySyntaxError(f"path {_shown(value)}: unknown variable", hint=did_you_mean(value, PATH_VARIABLES))
    if not value.startswith("/"):
        hint = "'~' is not expanded: write the whole path" if value.startswith("~") else "write an absolute path"
        raise PolicySyntaxError(f"path {_shown(value)}: is relative", hint=hint)
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PolicySyntaxError(f"path {_shown(value)}: contains '..'", hint="write the path without '..'")
    if not literal and any("*" in part or "?" in part for part in parts):
        raise PolicySyntaxError(
            f"path {_shown(value)}: looks like a pattern",
            hint="a path covers all below it, so name the directory; `literal: true` if the name really is so",
        )
    size = len(value.encode())
    if size > _PATH_MAX or (size > 255 and any(len(part.encode()) > 255 for part in parts)):
        raise PolicySyntaxError(f"path {_shown(value)}: too long", hint="Linux takes 4095 bytes, 255 a component")
    return "/" + "/".join(parts)


def module_name(value: object, *, native: bool = False) -> str:
    """Return a canonical module name (`numpy.*` is `numpy`), `*`, a variable or, for natives, a file's path."""
    what = "native module" if native else "module"
    value = text(value, what)
    if value == "*" or value in IMPORT_VARIABLES:
        return value
    if value.startswith("@"):
        raise PolicySyntaxError(f"{what} {_shown(value)}: unknown variable", hint=did_you_mean(value, IMPORT_VARIABLES))
    if native and value.startswith("/"):
        return path(value, literal=True)
    name = value.removesuffix(".*")
    if len(name) > 255 or not all(part.isidentifier() for part in name.split(".")):
        hint = "write the name that `import` takes"
        if "-" in name:
            hint += f", such as {name.replace('-', '_')[:60]!r}"
        elif "*" in name:
            hint += "; `numpy.*` and `*` are the only patterns"
        raise PolicySyntaxError(f"{what} {_shown(value)}: not a module name", hint=hint)
    return name


class NetTarget(msgspec.Struct, frozen=True):
    """A parsed network target. `kind` is any, ip, host, names, unix or variable.

    `host` is the address, name or path; of names it is `*.` and the name that they end with.
    """

    kind: str
    host: str
    prefix: int = 0
    port_low: int = 0
    port_high: int = 65535

    def __str__(self) -> str:
        if self.kind == "variable":
            return self.host
        if self.kind == "unix":
            return f"unix:{self.host}"
        host = self.host
        if self.kind == "ip":
            six = ":" in host
            host = (f"[{host}]" if six else host) + ("" if self.prefix == (128 if six else 32) else f"/{self.prefix}")
        return f"{host}:{self._ports()}"

    def _ports(self) -> str:
        if (self.port_low, self.port_high) == (0, 65535):
            return "*"
        return str(self.port_low) if self.port_low == self.port_high else f"{self.port_low}-{self.port_high}"


def net_target(value: object, *, action: str) -> NetTarget:
    """Parse "host:port": an address, CIDR range, host name or `*`; a port, `low-high` or `*`; or "unix:/path"."""
    value = text(value, f"{action} target")
    if value.startswith("@"):
        if action == "connect" and value in NET_VARIABLES:
            return NetTarget("variable", value)
        raise PolicySyntaxError(f"{action} {_shown(value)}: unknown variable", hint=did_you_mean(value, NET_VARIABLES))
    if value.startswith("unix:"):
        return NetTarget("unix", path(value[5:], variables=False, literal=True))
    if "://" in value:
        raise PolicySyntaxError(
            f"{action} {_shown(value)}: is a URL", hint='write "host:port", such as "example.org:443"'
        )
    host, colon, ports = value.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        raise PolicySyntaxError(
            f"{action} {_shown(value)}: no port", hint='write "host:port", "[v6]:port", or "host:*" for any port'
        )
    low, high = _ports(ports, action, value)
    kind, host, prefix = _host(host, action, value)
    return NetTarget(kind, host, prefix, low, high)


def _ports(ports: str, action: str, value: str) -> tuple[int, int]:
    if ports == "*":
        return 0, 65535
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", ports, re.ASCII)
    if not match:
        raise PolicySyntaxError(
            f"{action} {_shown(value)}: bad port {_shown(ports)}", hint="use 1 to 65535, low-high, or *"
        )
    low = int(match[1])
    high = int(match[2]) if match[2] else low
    if high > 65535:
        raise PolicySyntaxError(f"{action} {_shown(value)}: port out of range", hint="use 1 to 65535, low-high, or *")
    if low > high:
        raise PolicySyntaxError(f"{action} {_shown(value)}: the port range is backwards", hint=f"write {high}-{low}")
    if low == 0 and not (action == "bind" and high == 0):
        hint = "bind to port 0 alone means any port that the kernel picks" if action == "bind" else "use 1 to 65535"
        raise PolicySyntaxError(f"{action} {_shown(value)}: port 0", hint=hint)
    return low, high


def _host(host: str, action: str, value: str) -> tuple[str, str, int]:
    if host == "*":
        return "any", "*", 0
    if not host or host.startswith("/"):
        raise PolicySyntaxError(f"{action} {_shown(value)}: no host", hint="write the host, or * for any")
    bare = re.sub(r"^\[([^\]]*)\](/[0-9]+)?$", r"\1\2", host)
    literal = bare != host or "/" in bare or re.fullmatch(r"[0-9.]+", bare) is not None
    if not literal and host.startswith("*.") and action == "connect":
        return "names", _names(host, action, value), 0
    if not literal:
        if not _HOST.fullmatch(host):
            hint = "write a host name, an address or a CIDR range"
            if "*" in host:
                hint = "the one wildcard is a whole first part, of connect and http: *.example.org"
            raise PolicySyntaxError(f"{action} {_shown(value)}: bad host {_shown(host)}", hint=hint)
        return "host", host.lower().rstrip("."), 0
    try:
        network = ipaddress.ip_network(bare, strict=True)
    except ValueError as error:
        hint = "write the address or range in full, such as 10.0.0.0/8"
        with contextlib.suppress(ValueError):  # an address with bits below its range's prefix
            hint = f"write {ipaddress.ip_network(bare, strict=False)}, or the one address"
        raise PolicySyntaxError(f"{action} {_shown(value)}: {str(error)[:120]}", hint=hint) from None
    if isinstance(network, ipaddress.IPv6Network):
        if network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
            raise PolicySyntaxError(f"{action} {_shown(value)}: IPv4 in IPv6 clothes", hint="write the IPv4 address")
        if network.network_address.scope_id is not None:
            raise PolicySyntaxError(f"{action} {_shown(value)}: has a scope", hint="write the address without '%'")
    return "ip", str(network.network_address), network.prefixlen


def _names(host: str, action: str, value: str) -> str:
    """Return `*.` and a name: all names that end with it."""
    if not _HOST.fullmatch(host[2:]):
        hint = "the one wildcard is a whole first part: *.example.org"
        raise PolicySyntaxError(f"{action} {_shown(value)}: bad host {_shown(host)}", hint=hint)
    return host.lower().rstrip(".")


class HttpTarget(msgspec.Struct, frozen=True):
    """A parsed `http` rule: a method or `*`, a host or `*.` and a name, a port, and a path that may end with `*`.

    `tls`: it speaks of requests over TLS, which are written with https://, and not of plain ones.
    """

    method: str
    host: str
    port: int
    path: str
    tls: bool = False

    def __str__(self) -> str:
        scheme, port = ("https://", HTTPS_PORT) if self.tls else ("", HTTP_PORT)
        return f"{self.method} {scheme}{self.host}{'' if self.port == port else f':{self.port}'}{self.path}"


def http_target(value: object) -> HttpTarget:
    """Parse "METHOD [https://]host[:port]/path": `*` is any method, `*.name` all names below it, and ends a prefix.

    The port is 80, or 443 after https://, where none is written. A path that can be read in two ways (see
    `plain_http_path`) is refused.
    """
    value = text(value, "http target")
    match = _HTTP.fullmatch(value)
    if not match:
        hint = 'write "GET api.example.org/v1/*": a method or *, a host, a path'
        if "://" in value:
            hint = f"https:// is the one scheme that is written, before the host; {hint}"
        raise PolicySyntaxError(f"http {_shown(value)}: cannot be read", hint=hint)
    method, host, ports, path = match["method"], match["host"].lower().rstrip("."), match["port"], match["path"]
    wild = host.startswith("*.")
    bare = host.removeprefix("*.")
    if not _HOST.fullmatch(bare) or re.fullmatch(r"[0-9.]+", bare):
        raise PolicySyntaxError(f"http {_shown(value)}: bad host {_shown(host)}", hint="write a host name or *.name")
    tls = match["tls"] is not None
    port = _ports(ports, "http", value)[0] if ports else HTTPS_PORT if tls else HTTP_PORT
    if not plain_http_path(path.removesuffix("*")):
        raise PolicySyntaxError(
            f"http {_shown(value)}: the path can be read in two ways",
            hint="write it without '..', '//', '*' before its end, and escapes of '/', '.' or '%'",
        )
    return HttpTarget(method, f"*.{bare}" if wild else bare, port, path, tls)


def plain_http_path(path: str) -> bool:
    """Tell whether every server reads a path in the same way: no dot segments, empty parts, or escapes that hide one.

    Servers differ in what they make of `/a/../b`, `/a//b`, `/a%2fb`, `/a\\b`, `/a;x/b`: no rule for a part of a host's
    paths speaks of such a path.
    """
    if not _HTTP_PATH.fullmatch(path) or "//" in path:
        return False
    return not any(part in (".", "..") for part in path.split("/"))


def size(value: object, what: str) -> int:
    """Return bytes from an integer or text such as `256MiB`, `1.5GiB`, `10MB`."""
    return int(_number(value, what, SIZE_UNITS, "256MiB"))


def pages(value: object, what: str) -> int:
    """Return bytes of files, a page at least: file systems count no less."""
    bytes_ = size(value, what)
    if bytes_ < PAGE_BYTES:
        raise PolicySyntaxError(f"{what}: {bytes_} bytes: less than one file takes", hint="use 4KiB or more")
    return bytes_


def duration(value: object, what: str) -> float:
    """Return seconds from a number or text such as `30s`, `250ms`, `2m`, `1h`."""
    seconds = round(float(_number(value, what, DURATION_UNITS, "30s")), 9)
    if seconds <= 0:
        raise PolicySyntaxError(f"{what} {_shown(value)}: shorter than a nanosecond", hint="write such as 30s")
    return seconds


def _number(value: object, what: str, units: Mapping[str, float], example: str) -> float:
    hint = f"write a positive number with a unit, such as {example} ({' '.join(u for u in units if u)})"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PolicySyntaxError(f"{what}: expected {example!r}, got {type(value).__name__}", hint=hint)
    given = value
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        unit = match[2].lower() if match else ""
        if not match or unit not in units:
            raise PolicySyntaxError(f"{what} {_shown(value)}: cannot be read", hint=hint)
        number = int(match[1]) if match[1].isdigit() else float(match[1])
        value = float(number * units[unit]) if isinstance(number, float) else number * units[unit]
    if not 0 < value < 2**63 or not math.isfinite(value):
        raise PolicySyntaxError(f"{what} {_shown(given)}: out of range", hint=hint)
    return value


def count(value: object, what: str) -> int:
    """Return a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicySyntaxError(f"{what}: expected a whole number, got {type(value).__name__}", hint="write such as 16")
    if not 0 < value < 2**31:
        raise PolicySyntaxError(f"{what} {_shown(value)}: out of range", hint="use 1 to 2147483647")
    return value


def between_requests(value: object, what: str) -> BetweenRequests:
    """Return what a guest's threads may do after an answer, as a policy names it."""
    for choice in get_args(BetweenRequests):
        if value == choice:
            return cast(BetweenRequests, choice)
    raise PolicySyntaxError(f"{what}: {str(value)[:40]!r} is unknown", hint="write run or freeze")


def size_text(value: int) -> str:
    """Return bytes in the largest binary unit that is exact, as a policy file would write it."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value % (1 << shift) == 0:
            return f"{value >> shift}{unit}"
    return f"{value}B"


def duration_text(value: float) -> str:
    """Return seconds as a policy file would write them."""
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


#: policy key -> (field of `EgressLimits`, parser, writer)
EGRESS_KEYS: dict[str, tuple[str, Any, Any]] = {
    "requests": ("requests", count, int),
    "sent": ("sent_bytes", size, size_text),
    "received": ("received_bytes", size, size_text),
    "connections": ("connections", count, int),
}
#: policy key -> (field of `Limits`, parser, writer)
LIMIT_KEYS: dict[str, tuple[str, Any, Any]] = {
    "wall": ("wall_s", duration, duration_text),
    "cpu": ("cpu_s", duration, duration_text),
    "memory": ("memory_bytes", size, size_text),
    "processes": ("processes", count, int),
    "open_files": ("open_files", count, int),
    "file_size": ("file_size_bytes", size, size_text),
    "disk": ("disk_bytes", pages, size_text),
    "files": ("files", count, int),
    "output": ("output_bytes", size, size_text),
    "messages": ("messages", count, int),
    "between_requests": ("between_requests", between_requests, str),
}
