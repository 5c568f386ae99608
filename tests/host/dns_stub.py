"""A name server on loopback (RFC 1035), whose answers a test changes; and a proxy that asks no other one."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyisolate.egress import process

#: No machine's own name server is there, and one at every address leaves no room for this one.
ADDRESS = "127.0.0.77"
_PORT, _A, _IN = 53, 1, 1
_ANSWERED, _ABSENT = 0x8180, 0x8183  # recursive; and without a name (NXDOMAIN)


class DnsStub:
    """Answers from `addresses`: all of a name at once, and with several lists the next one each time."""

    def __init__(self) -> None:
        #: the last list of a name stays
        self.addresses: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ADDRESS, _PORT))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        at, labels = 12, []
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        (kind,), name = struct.unpack_from(">H", question, at + 1), ".".join(labels)
        known = self.addresses.get(name)
        found: list[str] = []
        if kind == _A:
            self.asked.append(name)
            if known:
                found = known.pop(0) if len(known) > 1 else known[0]
        head = question[:2] + struct.pack(">5H", _ABSENT if known is None else _ANSWERED, 1, len(found), 0, 0)
        records = b"".join(struct.pack(">3HIH", 0xC00C, _A, _IN, 0, 4) + socket.inet_aton(one) for one in found)
        return head + question[12 : at + 5] + records

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (ADDRESS, _PORT))
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def asked_by_proxies(top: Path) -> Iterator[DnsStub]:
    """Make one that the proxies ask which start meanwhile: each sees a resolv.conf(5) of its own. As root."""
    settings = top / "resolv.conf"
    settings.write_text(f"nameserver {ADDRESS}\n")
    settings.chmod(0o644)

    def start(arguments: Sequence[str], *others: Any, **options: Any) -> subprocess.Popen[bytes]:
        if list(arguments[:2]) != ["-m", "pyisolate.egress"]:
            return started(arguments, *others, **options)
        command = ["unshare", "-m", "sh", "-c", f'mount --bind {settings} /etc/resolv.conf && exec "$@"', "sh"]
        code = (
            f"import os, sys\nos.execv('/usr/bin/unshare', [*{command!r}, sys.executable, '-I', '-B', *sys.argv[1:]])"
        )
        return started(["-c", code, *arguments], *others, **options)

    started = process.interpreter.start
    stub = DnsStub()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process.interpreter, "start", start)
            yield stub
    finally:
        stub.close()
