"""Questions answered by another process: JSON Lines over a unix socket, one line a question and one an answer."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from typing import Any, Literal

import msgspec

from .question import Allow, Deny, Question, Scope

#: Version of the protocol; it changes when an old reader would misread a line, for those lines alone. Since the second
#: one a question may have a `detail`, without which it would be taken for another.
VERSION, _WITH_DETAIL = 1, 2
_MAX_LINE_BYTES = 64 << 10
#: pid, uid and gid of who listens, as they were at listen(2) (unix(7), SO_PEERCRED).
_CREDENTIALS = struct.Struct("iII")


class _Answer(msgspec.Struct):
    id: int
    result: Literal["allow", "deny"]
    scope: Scope = "once"
    reason: str = ""


class AskSocket:
    """Puts questions to the process that listens at a unix socket, one at a time; for `spawn(on_ask=)`. Thread-safe.

    A line of JSON for each: `{"v": 1, "id": 1, "permission": "net.connect", "value": "192.0.2.1:443", ...}`. The answer
    is a line with the same `id` and a `result`: `allow` (`scope`: once, sandbox or rule) or `deny` (`reason`). What
    cannot be read, a closed socket, or silence for `timeout` seconds is a refusal. So is a process of another user than
    `uid`, or without it of another than this process's and root: nothing is sent to it.
    """

    asked_by = "socket"

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0, uid: int | None = None) -> None:
        self.path, self.timeout = os.fspath(path), timeout
        self._answers = {os.geteuid(), 0} if uid is None else {uid}
        self._lock = threading.Lock()
        self._peer: socket.socket | None = None
        self._received = b""
        self._last = 0

    def __call__(self, question: Question) -> Allow | Deny:
        """Ask, and wait for the answer. Raises OSError, ValueError where there is none that can be read."""
        with self._lock:
            self._last += 1
            try:
                answer = self._exchange(self._last, question)
            except BaseException:
                self._drop()  # a late answer must not be the next question's
                raise
        return Allow(answer.scope) if answer.result == "allow" else Deny(answer.reason)

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        with self._lock:
            self._drop()

    def _exchange(self, number: int, question: Question) -> _Answer:
        deadline = time.monotonic() + self.timeout
        if self._peer is None:
            self._peer = self._connected()
        self._peer.sendall(msgspec.json.encode(_line(number, question)) + b"\n")
        while True:
            answer = msgspec.json.decode(self._read_line(self._peer, deadline), type=_Answer)
            if answer.id == number:
                return answer

    def _connected(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.settimeout(self.timeout)
            peer.connect(self.path)
            self._require_trusted(peer)
        except BaseException as error:
            peer.close()
            if isinstance(error, OSError) and error.errno is not None:  # it names no socket (connect(2))
                raise OSError(error.errno, error.strerror, self.path) from None
            raise
        return peer

    def _require_trusted(self, peer: socket.socket) -> None:
        _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in self._answers:
            raise PermissionError(f"ask {self.path}: user {uid} listens there, who is not trusted to answer (uid=)")

    def _read_line(self, peer: socket.socket, deadline: float) -> bytes:
        while b"\n" not in self._received:
            if len(self._received) > _MAX_LINE_BYTES:
                raise ValueError(f"answer of {self.path}: a line of more than {_MAX_LINE_BYTES} bytes")
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"answer of {self.path}: none within {self.timeout} s")
            peer.settimeout(left)
            data = peer.recv(1 << 16)
            if not data:
                raise ConnectionError(f"answer of {self.path}: the other side has closed")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _drop(self) -> None:
        peer, self._peer, self._received = self._peer, None, b""
        if peer is not None:
            peer.close()


def _line(number: int, question: Question) -> dict[str, Any]:
    line = {
        "v": _WITH_DETAIL if question.detail else VERSION,
        "id": number,
        "permission": question.capability.value,
        "value": question.target,
        "sandbox": question.sandbox,
        "sandbox_id": question.sandbox_id,
        "policy": question.policy,
        "actor": question.actor,
        "suggestion": question.suggestion,
    }
    return {**line, "detail": question.detail} if question.detail else line
