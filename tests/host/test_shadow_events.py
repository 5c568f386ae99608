"""A shadow policy records once, and alike, what monitor mode of that same policy would record."""

from __future__ import annotations

import collections
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text("x")
        (tmp_path / name / "file").chmod(0o666)
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


ACTS = {
    "a connection": ("import socket\nsocket.create_connection(('127.0.0.1', PORT)).close()", {"net.connect"}),
    "native code's socket": ("import ctypes\nctypes.CDLL(None).socket(2, 1, 0)", {"net.socket"}),
    "a process": ("import os\npid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)", {"process.fork"}),
    "a program": ("import os\nos.spawnv(os.P_WAIT, '/usr/bin/id', ['id'])", {"process.exec"}),
    "a file": ("open('/etc/passwd').close()", {"fs.read"}),
    "a move from one grant to another": ("import os\nos.rename('PLACE/one/file', 'PLACE/two/moved')", {"fs.create"}),
    "a move out of a grant": ("import os\nos.rename('PLACE/one/file', 'PLACE/three/moved')", {"fs.create"}),
    "a database": ("import sqlite3\nsqlite3.connect('PLACE/three/d').execute('create table t (a)')", {"fs.create"}),
    "executable memory": ("import mmap\nmmap.mmap(-1, 4096, prot=7).close()", {"memory.exec"}),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_both_policies_would_refuse_is_an_event_of_each(place: Path, port: int, act: str) -> None:
    code, wanted = ACTS[act]
    policy = with_ctypes().allow_import("mmap", "sqlite3").allow_read(place / "three")
    for name in ("one", "two"):
        policy = policy.allow_read(place / name).allow_write(place / name)
    found: dict[bool, collections.Counter[tuple[object, ...]]] = {
        True: collections.Counter(),
        False: collections.Counter(),
    }
    with pyisolate.spawn("s", policy.with_mode("monitor"), shadow=policy.with_name("other")) as sandbox:
        sandbox.exec(code.replace("PORT", str(port)).replace("PLACE", str(place)))
        for event in sandbox.get_denial_events():
            found[event.shadow][event.capability.value, event.target, event.also, event.broker_decision] += event.count
    assert wanted <= {key[0] for key in found[True]}
    assert found[True] == found[False]


def test_of_programs_the_shadow_policys_own_table_decides(place: Path) -> None:
    """What the policy in force says of a program is not what the other one says."""
    run = "import os\nos.spawnv(os.P_WAIT, '/usr/bin/id', ['id'])"
    grants = with_ctypes().allow_exec("/usr/bin/id")
    others = with_ctypes().allow_exec("/usr/bin/true")
    found = {}
    for name, shadow in (("grants", grants), ("others", others)):
        with pyisolate.spawn("s", with_ctypes().with_mode("monitor"), shadow=shadow) as sandbox:
            sandbox.exec(run)
            found[name] = {event.capability.value for event in sandbox.get_denial_events() if event.shadow}
    assert "process.exec" not in found["grants"]
    assert "process.exec" in found["others"]
