"""Where guests find the authority of their proxy: a file for each sandbox, in a directory of the supervisor's own.

It is no secret: a certificate without its key. The policies that open TLS grant the directory for reading, not for
listing, and a name that no other sandbox knows is in each one's environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

_PREFIX = "pyisolate-authorities-"
#: A directory that is younger may be one that is being made, and is not held yet (seconds).
_YOUNG_S = 60.0
#: Where it is made: not in /tmp, which is a sandbox's own. The first place that can be written.
_PLACES = ("/run", "/var/tmp")
#: By these OpenSSL (so aiohttp, httpx, urllib), requests, curl, pip, git and node find it.
VARIABLES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip


class Bundles:
    """The directory, made at once. What supervisors left that were killed is removed."""

    def __init__(self) -> None:
        place = next((one for one in _PLACES if os.access(one, os.W_OK | os.X_OK)), None)
        import tempfile  # few first starts have a proxy

        self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
        self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        os.fchmod(self._held, 0o755)
        _sweep(Path(self.path).parent)

    def put(self, certificate: str, *, others: bool) -> str:
        """Write a certificate and return the file's path; with `others`, those whom this machine trusts follow."""
        path = os.path.join(self.path, f"{os.urandom(16).hex()}.pem")
        with open(path, "x", encoding="utf-8") as file:
            file.write(certificate)
            if others:
                file.write(_of_machine())
        os.chmod(path, 0o444)
        return path

    def remove(self, path: str) -> None:
        """Remove a sandbox's file."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def close(self) -> None:
        """Remove all of them."""
        import shutil

        shutil.rmtree(self.path, ignore_errors=True)
        self.abandon()

    def abandon(self) -> None:
        """In a forked child of the host: the directory is the parent's."""
        os.close(self._held)


def _of_machine() -> str:
    """Return the authorities that OpenSSL trusts here, or nothing where it has no file of them."""
    import ssl

    found = ssl.get_default_verify_paths().cafile
    for path in (found, "/etc/ssl/certs/ca-certificates.crt"):
        with contextlib.suppress(OSError):
            if path is not None:
                return "\n" + Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


def _sweep(place: Path) -> None:
    """Remove directories that no process holds."""
    import shutil

    for left in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            held = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(held)
                if found.st_uid == os.geteuid() and found.st_mtime < time.time() - _YOUNG_S:
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)
