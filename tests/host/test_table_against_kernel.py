"""The kernel never grants more than the table says: random policies over a small tree, each path tried by native code.

`PYISOLATE_TABLE_POLICIES` and `PYISOLATE_TABLE_SEED` run more, and others.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.policy.broker import Broker
from tests import inside

POLICIES = int(os.environ.get("PYISOLATE_TABLE_POLICIES", "25"))
SEED = int(os.environ.get("PYISOLATE_TABLE_SEED", "1"))
FOLDERS = ("a", "a/b", "a/b/c", "a/d", "e", "e/f")
#: what is tried -> the capability that the table must grant for it
ASKED = {
    "read": Capability.FS_READ,
    "list": Capability.FS_READ,
    "write": Capability.FS_WRITE,
    "truncate": Capability.FS_WRITE,
    "create": Capability.FS_CREATE,
    "mkdir": Capability.FS_CREATE,
    "delete": Capability.FS_DELETE,
    "chmod": Capability.FS_METADATA,
}

GUEST = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
FLAGS = {"read": os.O_RDONLY, "list": os.O_RDONLY | os.O_DIRECTORY, "write": os.O_WRONLY,
         "create": os.O_WRONLY | os.O_CREAT | os.O_EXCL}
def attempt(what, path):
    path = path.encode()
    if what in FLAGS:
        fd = libc.open(path, FLAGS[what], 0o600)
        if fd >= 0:
            libc.close(fd)
        return fd >= 0
    calls = {"truncate": lambda: libc.truncate(path, ctypes.c_long(0)), "mkdir": lambda: libc.mkdir(path, 0o700),
             "delete": lambda: libc.unlink(path), "chmod": lambda: libc.chmod(path, 0o666)}
    return calls[what]() == 0
def attempts(wanted):
    return [attempt(what, path) for what, path in wanted]
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=2) as made:
        yield made


@pytest.fixture
def tree() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def plant(tree: Path) -> list[tuple[str, str]]:
    """Make the tree anew, open to every user; return what is tried in it."""
    for entry in tree.iterdir():
        shutil.rmtree(entry)
    tried: list[tuple[str, str]] = []
    for name in FOLDERS:
        folder = tree / name
        folder.mkdir()
        folder.chmod(0o777)
        for file in ("one", "two", "gone"):
            (folder / file).write_text("text")
            (folder / file).chmod(0o666)
            if os.geteuid() == 0:
                os.chown(folder / file, 65534, 65534)
        tried += [(what, f"{folder}/{file}") for file in ("one", "two") for what in ("read", "write", "chmod")]
        tried += [("list", str(folder)), ("truncate", f"{folder}/two")]
        tried += [("create", f"{folder}/made"), ("mkdir", f"{folder}/new"), ("delete", f"{folder}/gone")]
    return tried


#: Strict refuses most rights that are drawn one by one; these are what policies state.
ALLOWED = ("read", "read write", "write", "read write create delete", "create", "read exec", "read metadata")
DENIED = ("read write create delete exec metadata", "read", "write create delete metadata", "exec")


def random_rules(chance: random.Random, tree: Path) -> list[dict[str, Any]]:
    """Return rules at places of the tree: mostly grants outside and a denial or another grant inside."""
    places = [*FOLDERS, *(f"{folder}/one" for folder in FOLDERS)]
    rules = []
    for place in sorted(chance.sample(places, chance.randint(1, 6))):
        rule: dict[str, Any] = {"path": f"{tree}/{place}"}
        if chance.random() < 0.6:
            rule["allow"] = chance.choice(ALLOWED[:3] if chance.random() < 0.7 else ALLOWED).split()
        else:
            rule["deny"] = chance.choice(DENIED[:2] if chance.random() < 0.7 else DENIED).split()
        rules.append(rule)
    return rules


def too_much(supervisor: pyisolate.Supervisor, tree: Path, rules: list[dict[str, Any]]) -> list[str] | None:
    """Return what native code may do that the table denies; None where strict refuses the policy."""
    tried = plant(tree)
    data = {
        "version": 1,
        "name": "t",
        "extends": "compute",
        "fs": rules,
        "import": {"allow": ["ctypes"], "native": ["ctypes"]},
    }
    try:
        policy = Policy.from_dict(data)
        sandbox = supervisor.spawn("t", policy)
    except (pyisolate.EnforcementError, pyisolate.PolicySyntaxError):
        return None
    with sandbox:
        broker = Broker(inside.session(sandbox).compiled)
        sandbox.exec(GUEST)
        got = sandbox.call("attempts", [list(one) for one in tried])
    return [
        f"{what} {path.removeprefix(str(tree))}"
        for (what, path), done in zip(tried, got, strict=True)
        if done and broker.decide(ASKED[what], path, listing=what == "list").refused
    ]


def test_the_control_sees_what_is_granted(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    assert too_much(supervisor, tree, [{"path": f"{tree}/a", "allow": ["read", "write", "create", "delete"]}]) == []
    with supervisor.spawn(
        "t", Policy.preset("compute").allow_import("ctypes").allow_native("ctypes").allow_read(str(tree))
    ) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.call("attempts", [["read", f"{tree}/a/one"], ["write", f"{tree}/a/one"]]) == [True, False]


@pytest.mark.parametrize("seed", range(SEED, SEED + POLICIES))
def test_native_code_may_do_nothing_that_the_table_denies(
    supervisor: pyisolate.Supervisor, tree: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        rules = random_rules(chance, tree)
        assert too_much(supervisor, tree, rules) in (None, []), rules
