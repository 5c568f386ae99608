"""What BPF tells where something else decides: Landlock's own count, and the sys_exit observer with its exact join."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.kernel.bpf_landlock import LandlockDenialCounter
from pyisolate.kernel.bpf_observer import SyscallObserver
from pyisolate.policy.compiled import CompiledPolicy
from pyisolate.telemetry.event import KernelRecord
from tests.require import require

JOIN = int(os.environ.get("PYISOLATE_JOIN", "10000"))


def test_landlock_refusals_are_counted_exactly() -> None:
    found = LandlockDenialCounter().probe()
    require("bpf", found.usable, found.reason)
    counter = LandlockDenialCounter()
    counter.start()
    code = (
        "import os, sys\n"
        "from pyisolate.kernel.bpf_landlock import _be_refused\n"
        "_be_refused(); print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    for _ in range(int(line)):\n"
        "        try: os.listdir('/')\n"
        "        except PermissionError: pass\n"
        "    print('done', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdout.readline()
        first = counter.read(child.pid)
        assert first is not None
        assert (first.layers, first.denials) == (1, 3)
        child.stdin.write("1000\n")
        child.stdin.flush()
        child.stdout.readline()
        second = counter.read(child.pid)
        assert second is not None
        assert second.denials == 1003
        assert second.domain == first.domain
        assert counter.read(os.getpid()) is None
    finally:
        child.kill()
        child.communicate()
        counter.close()


@pytest.fixture
def observer() -> Iterator[tuple[SyscallObserver, list[KernelRecord]]]:
    require("bpf", SyscallObserver().probe().usable, "tp_btf cannot be attached")
    records: list[KernelRecord] = []
    made = SyscallObserver(events_per_s=1_000_000)
    made.start(records.append)
    yield made, records
    made.close()


def test_a_refused_call_is_seen_with_its_target(
    observer: tuple[SyscallObserver, list[KernelRecord]], tmp_path: Path
) -> None:
    one, records = observer
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    code = (
        "import os, sys\nos.setuid(65534)\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        f"def tried(f, *a):\n    try: f(*a)\n    except PermissionError: pass\n"
        f"tried(os.open, {str(secret)!r}, os.O_RDONLY)\ntried(os.open, {str(secret)!r}, os.O_WRONLY)\n"
        f"tried(os.unlink, {str(secret)!r})\ntried(os.kill, 1, 0)\nos.open('/dev/null', 0)\n"
        f"pid = os.fork()\nif pid == 0:\n    tried(os.open, {str(secret)!r}, os.O_RDONLY)\n    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents[:2]:
        os.chmod(parent, 0o755)
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    prepared = one.prepare(CompiledPolicy(name="t", version="t"))
    one.attach_task(child.pid, "seen", prepared)
    prepared.close()
    child.communicate("\n", timeout=30)
    one.shared.records.drain()
    seen = [(record.capability, record.syscall, record.target) for record in records]
    assert (Capability.FS_READ, "openat", str(secret)) in seen
    assert (Capability.FS_WRITE, "openat", str(secret)) in seen
    assert (Capability.FS_DELETE, "unlink", str(secret)) in seen
    assert [record for record in records if record.syscall == "kill"]
    assert len({record.pid for record in records}) == 2  # children are observed too
    assert all(record.verdict is Verdict.DENY and record.enforcer == "bpf-observer" for record in records)
    one.detach("seen")


def test_a_drain_ends_though_records_come_faster(
    observer: tuple[SyscallObserver, list[KernelRecord]], tmp_path: Path
) -> None:
    one, records = observer
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(folder, 0o755)
    code = (
        "import os, sys\nos.setuid(65534)\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        f"for _ in range(50):\n    try: os.open({str(secret)!r}, os.O_RDONLY)\n    except PermissionError: pass\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    prepared = one.prepare(CompiledPolicy(name="t", version="t"))
    one.attach_task(child.pid, "flood", prepared)
    prepared.close()
    with one.shared.records._lock:  # nobody else drains
        child.communicate("\n", timeout=30)
        already = len(records)
        assert one.shared.records._ring.consume(10) == 10
        assert len(records) == already + 10
    one.shared.records.drain()  # the control: the rest is there, and no record was lost between
    assert len([record for record in records if record.target == str(secret)]) == 50
    one.detach("flood")


_SLOTS = """
import ctypes, json, mmap, os, random, struct, sys
os.setuid(65534)
libc = ctypes.CDLL(None, use_errno=True)
fd, number, granted, secret, missing, count, seed = sys.argv[1:]
page = mmap.mmap(int(fd), 4096, offset=4096 * int(number))
print("ready", flush=True); sys.stdin.readline()
random.seed(int(seed))
told, sequence = [], 0
def consult(path):
    global sequence
    sequence += 1
    tag = len(path) << 56 ^ int.from_bytes(path[-8:], "little")
    struct.pack_into("=IIIIQ", page, 8, 1, 1, 0, 0, tag)
    struct.pack_into("=Q", page, 0, sequence)
for _ in range(int(count)):
    path = random.choice((granted, secret, missing)).encode()
    consulted = random.random() < 0.5
    if consulted: consult(path)
    result = libc.open(path, 0)
    if result >= 0: os.close(result)
    if path == secret.encode(): told.append(sequence if consulted else 0)
print(json.dumps(told), flush=True)
"""


def test_join_through_the_observer(observer: tuple[SyscallObserver, list[KernelRecord]], tmp_path: Path) -> None:
    """Random interleavings of consulted and raw opens, allowed, refused and missing: 0 mismatches."""
    one, records = observer
    for name, mode in (("granted", 0o644), ("secret", 0o600)):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(mode)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(folder, 0o755)
    prepared = one.prepare(CompiledPolicy(name="t", version="t"))
    one.shared.entry("join", prepared)
    fd, page = one.shared.slot_page("join")
    paths = [str(tmp_path / name) for name in ("granted", "secret", "missing")]
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SLOTS, str(fd), str(page), *paths, str(JOIN), "7"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[fd],
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    one.attach_task(child.pid, "join", prepared, slot=0)
    prepared.close()
    said, _ = child.communicate("\n", timeout=100)
    told = json.loads(said)
    one.shared.records.drain()
    flow = one.shared.flow("join")
    opens = [record for record in records if record.syscall in ("open", "openat")]
    assert (flow.suppressed, flow.lost) == (0, 0)
    assert len(opens) == len(told) > JOIN // 5
    wrong = [
        (expected, record.sequence)
        for expected, record in zip(told, opens, strict=True)
        if record.sequence != expected or record.broker_consulted is not (expected > 0)
    ]
    assert not wrong, (len(wrong), wrong[:5])
    assert all(record.target == paths[1] for record in opens)
    one.detach("join")
