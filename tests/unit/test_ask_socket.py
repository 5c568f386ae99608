"""Who may answer at a socket: a process of another user is told nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from pyisolate.capability import Capability
from pyisolate.sandbox.ask import _answered
from pyisolate.sandbox.ask_socket import AskSocket, _line
from pyisolate.sandbox.question import Allow, Question

_QUESTION = Question(
    sandbox="a", sandbox_id="1", policy="compute", capability=Capability.NET_CONNECT, target="192.0.2.1:443"
)


def test_only_the_user_who_is_trusted_answers(tmp_path: Path) -> None:
    got: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "ask.sock"))
        listening.listen()
        listening.settimeout(30)

        def serve() -> None:
            for _ in range(3):
                with listening.accept()[0] as peer:
                    peer.settimeout(30)
                    if got.append(peer.recv(1 << 16)) is None and got[-1]:
                        peer.sendall(json.dumps({"id": 1, "result": "allow"}).encode() + b"\n")

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with pytest.raises(PermissionError, match="not trusted"):
            AskSocket(tmp_path / "ask.sock", uid=os.geteuid() + 1)(_QUESTION)
        for trusted in (os.geteuid(), None):
            asker = AskSocket(tmp_path / "ask.sock", timeout=5, uid=trusted)
            assert asker(_QUESTION) == Allow()
            asker.close()
        server.join(30)
    assert [bool(data) for data in got] == [False, True, True]


def test_a_socket_that_nobody_listens_at_is_named(tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "none.sock", FileNotFoundError), (tmp_path / "file", ConnectionRefusedError)):
        (tmp_path / "file").touch()
        with pytest.raises(kind) as refused:
            AskSocket(path)(_QUESTION)
        assert refused.value.filename == str(path)
        assert _answered(refused.value, "socket").reason == f"the asker failed ({kind.__name__}: {path})"
    assert _answered(ValueError("s3cret"), "socket").reason == "the asker failed (ValueError)"


@pytest.mark.parametrize(("detail", "version"), [("", 1), ("symbolic link to /etc/shadow", 2)])
def test_a_reader_of_the_first_version_is_told_of_what_it_does_not_know(detail: str, version: int) -> None:
    line = _line(1, msgspec.structs.replace(_QUESTION, detail=detail))
    assert (line["v"], line.get("detail", "")) == (version, detail)
