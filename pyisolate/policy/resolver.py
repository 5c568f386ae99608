"""What the `@` variables of a policy stand for on this machine, apart from the interpreter itself."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

#: Devices that hold no data: writing is discarded or fails, reading gives nothing or zeros.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
RANDOM_DEVICES = ("/dev/random", "/dev/urandom")
#: The devices that a root view can show (kernel/rootview/build.py); every other mount of one is nodev.
SHOWN_DEVICES = frozenset((*DEVICES, *RANDOM_DEVICES, "/dev/tty"))
_RESOLV_CONF = "/etc/resolv.conf"
#: resolver(5), nsswitch.conf(5), hosts(5), gai.conf(5), services(5): what getaddrinfo reads.
_RESOLVER_FILES = (
    _RESOLV_CONF,
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
)
#: How many processors there are, and the part of them that the host's own control group may use (sysfs, cgroups(7)).
#: Numbers only, the same for every process; not /proc/stat or /proc/cpuinfo, which tell what the machine does and is.
_PROCESSORS = (
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
)
_CERTIFICATE_PLACES = ("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls", "/etc/pki/ca-trust/extracted",
                       "/usr/share/ca-certificates", "/usr/local/share/ca-certificates")  # fmt: skip

Resolve = Callable[[str], Sequence[str]]


def devices() -> list[str]:
    """`@devices`: null, zero and full."""
    return [path for path in DEVICES if os.path.exists(path)]


def certificates() -> list[str]:
    """`@certificates`: the authorities that OpenSSL trusts here, and its configuration. Never private keys."""
    import ssl

    known = ssl.get_default_verify_paths()
    paths = [known.openssl_cafile, known.openssl_capath, os.path.dirname(known.openssl_cafile) + "/openssl.cnf"]
    return sorted({path for path in (*paths, *_CERTIFICATE_PLACES) if path and os.path.exists(path)})


def resolver_files() -> list[str]:
    """`@resolver` under `fs`: what the C library reads to resolve names."""
    return [path for path in _RESOLVER_FILES if os.path.exists(path)]


def processors() -> tuple[str, ...]:
    """`@processors`: whether they exist or not, so that a policy means the same under every version of cgroups."""
    return _PROCESSORS


def name_servers() -> list[str]:
    """`@resolver` under `net`: the addresses of the configured name servers."""
    try:
        lines = Path(_RESOLV_CONF).read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]
    # resolver(5): without a nameserver line the local one is asked.
    return [address for address in found if _is_address(address)] or ["127.0.0.1"]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def resolve_host(host: str) -> list[str]:
    """Return the addresses of a host name now; empty if it does not resolve. May block for the resolver's timeout."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers))
