"""A FUSE file system whose server hangs: it does not answer one kind of request about its one file, `f`, until told to.

    python -m tests.fuse DIRECTORY KIND    # as root: prints a line for each, and answers at a line of stdin

Kinds: `unlink` comes where the file is removed, `flush` at each close of a descriptor of it, `read` where a page of it
is read that no cache has.

Messages: linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.require import require

ROOT = Path(__file__).resolve().parents[1]
_DIRECTORY, _FILE = 1, 2
_FORGET, _LOOKUP, _GETATTR, _UNLINK, _INIT, _BATCH_FORGET = 2, 1, 3, 10, 26, 42
_OPENED = (14, 27)  # FUSE_OPEN, FUSE_OPENDIR
_WELL = (15, 18, 25, 28, 29, 34, 38)  # read, release, flush, readdir, releasedir, access, destroy
_HANGS = {"unlink": _UNLINK, "flush": 25, "read": 15}
_IN = struct.Struct("<IIQQIIII")  # fuse_in_header
_AN_HOUR = 3600


class Hanging:
    """The file system, and its server."""

    def __init__(self, place: Path, server: subprocess.Popen[str]) -> None:
        self.file, self._server = place / "f", server

    def wait_asked(self) -> None:
        """Return when the server has been asked for what it does not answer, once more."""
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "asked\n"

    def answer(self) -> None:
        """Have it answer what waits, and all from now on at once."""
        assert self._server.stdin is not None
        self._server.stdin.write("\n")
        self._server.stdin.flush()


@contextlib.contextmanager
def hanging(place: Path, at: str = "unlink") -> Iterator[Hanging]:
    """Mount it at a directory; `at`: what it does not answer. Skips where nobody may."""
    require("fuse", os.geteuid() == 0 and os.access("/dev/fuse", os.W_OK), "not root, or there is no /dev/fuse")
    command = [sys.executable, "-m", "tests.fuse", str(place), at]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            require("fuse", said == "mounted\n", f"it cannot be mounted: {said}")
            made = Hanging(place, server)
            yield made
            made.answer()
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)
            server.kill()  # what waits for it is let go of


def main(place: str, at: str) -> None:
    """Serve until killed."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    _mount(place, options)
    waiting: list[int] | None = []
    while True:
        ready, _, _ = select.select([device, 0], [], [])
        if 0 in ready:
            if not os.read(0, 64):
                return
            for unique in waiting or ():
                _reply(device, unique)
            waiting = None
        if device not in ready:
            continue
        data = os.read(device, 1 << 20)
        _, operation, unique, node, *_ = _IN.unpack_from(data)
        if operation == _HANGS[at]:
            print("asked", flush=True)
            if waiting is not None:
                waiting.append(unique)
                continue
        _serve(device, operation, unique, node, data[_IN.size :])


def _mount(place: str, options: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"pyisolate-test", place.encode(), b"fuse", 0, options.encode()):
        print(os.strerror(ctypes.get_errno()), flush=True)
        sys.exit(1)
    print("mounted", flush=True)


def _serve(device: int, operation: int, unique: int, node: int, body: bytes) -> None:
    if operation == _INIT:
        _reply(device, unique, struct.pack("<IIIIHHIIHH", 7, 31, 65536, 0, 12, 10, 65536, 1, 0, 0) + b"\0" * 32)
    elif operation == _LOOKUP and body == b"f\0":
        _reply(device, unique, struct.pack("<QQQQII", _FILE, 0, 0, _AN_HOUR, 0, 0) + _attributes(_FILE))
    elif operation == _GETATTR:
        _reply(device, unique, struct.pack("<QII", _AN_HOUR, 0, 0) + _attributes(node))
    elif operation in _OPENED:
        _reply(device, unique, struct.pack("<QII", 1, 0, 0))
    elif operation == _UNLINK or operation in _WELL:
        _reply(device, unique)
    elif operation == _LOOKUP:
        _reply(device, unique, error=errno.ENOENT)
    elif operation not in (_FORGET, _BATCH_FORGET):
        _reply(device, unique, error=errno.ENOSYS)


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == _DIRECTORY else 0o100644
    return struct.pack("<QQQQQQIIIIIIIIII", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _reply(device: int, unique: int, data: bytes = b"", error: int = 0) -> None:
    with contextlib.suppress(FileNotFoundError):  # who asked has gone
        os.write(device, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)


if __name__ == "__main__":
    main(*sys.argv[1:])
