"""Unix sockets of the host as destinations: judged on a copy, opened without links, used by descriptor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.policy.suggest import apply

SEND = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def send(path):
    name = ctypes.create_string_buffer(struct.pack("H", 1) + path)
    data = ctypes.create_string_buffer(b"loot")
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), 4))
    fields = ctypes.addressof(name), 2 + len(path), ctypes.addressof(vector), 1, 0, 0, 0
    message = ctypes.create_string_buffer(struct.pack("QI4xQQQQi4x", *fields))
    ctypes.set_errno(0)
    return libc.sendmsg(libc.socket(1, 2, 0), message, 0), ctypes.get_errno()
own = libc.socket(1, 2, 0)
libc.bind(own, struct.pack("H", 1) + b"\\0own", 6)
(*send(b"\\0own"), *send(PATH.encode() + bytes(1)))
"""
AS_USER = """
import os, socket, sys, threading
import pyisolate
place = sys.argv[1]
def serve(path, answer):
    s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(4)
    def run():
        while True:
            c, _ = s.accept(); c.sendall(answer); c.close()
    threading.Thread(target=run, daemon=True).start()
os.mkdir(place + "/shared")
path, other = place + "/shared/sock", place + "/other"
serve(path, b"granted"); serve(other, b"not granted")
base = pyisolate.Policy.preset("compute").allow_import("*").allow_native("*").to_dict()
base["fs"] = [*(base.get("fs") or []), {"path": place + "/shared", "allow": ["read", "write", "create", "delete"]}]
base["net"] = [{"connect": "unix:" + path}]
guest = '''
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def ask():
    one = libc.socket(1, 1, 0)
    address = struct.pack("H", 1) + PATH.encode() + bytes(1)
    if libc.connect(one, address, len(address)):
        return ctypes.get_errno()
    return os.read(one, 100)
first = ask()
os.unlink(PATH); os.symlink(OTHER, PATH)
(first, ask())
'''
with pyisolate.Supervisor() as supervisor, supervisor.spawn("guest", pyisolate.Policy.from_dict(base)) as sandbox:
    got = sandbox.exec(f"PATH, OTHER = {path!r}, {other!r}\\n" + guest).value
print(tuple(got), flush=True)
os._exit(0)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o777)
        yield Path(made)


def test_sendmsg_to_a_path_that_is_only_readable_is_refused(supervisor: pyisolate.Supervisor, place: Path) -> None:
    path = f"{place}/log"
    policy = pyisolate.Policy.preset("compute").allow_import("*").allow_native("*").allow_read(str(place))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        os.chmod(path, 0o666)
        daemon.settimeout(0.5)
        with supervisor.spawn("guest", policy) as sandbox:
            assert tuple(sandbox.exec(f"PATH = {path!r}\n" + SEND).value) == (4, 0, -1, 13)
            assert [event.capability.value for event in sandbox.get_denial_events()] == ["net.send"]
        with pytest.raises(TimeoutError):
            daemon.recv(10)


def test_a_link_in_place_of_a_granted_socket_is_refused(place: Path) -> None:
    user = 12345 if os.geteuid() == 0 else None
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, str(place)], cwd="/", capture_output=True, text=True, timeout=60, user=user,
        group=user, extra_groups=None if user is None else [], env={"PATH": os.environ["PATH"], "HOME": "/tmp"},
    )  # fmt: skip
    assert done.stdout.strip() == "(b'granted', 13)", done.stderr


def test_a_refused_unix_socket_names_the_rule_that_would_allow_it(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("guest", pyisolate.Policy.preset("compute").allow_import("socket")) as sandbox:
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec("import socket\nsocket.socket(socket.AF_UNIX)")
        assert '{"bind": "unix:/path/to/socket"}' in (caught.value.hint or "")
        assert sandbox.exec("[one.family.name for one in socket.socketpair()]").value == ["AF_UNIX", "AF_UNIX"]


def test_the_hint_of_a_refused_unix_socket_lets_a_guest_reach_its_own(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute")
    served = "import socket\nsocket.socket(socket.AF_UNIX).bind('own.sock')"
    with supervisor.spawn("guest", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(served)
    hint = caught.value.hint or ""
    rule = json.JSONDecoder().raw_decode(hint, hint.index("{"))[0]
    with supervisor.spawn("wider", apply(policy, rule)) as sandbox:
        sandbox.exec(served)
        assert sandbox.get_denial_events() == []
