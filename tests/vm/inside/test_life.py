"""Reload under load, floods, the join with the broker's slots, life and death of supervisors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyisolate.capability import CAPABILITY_NUMBER, Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.enforcement import Availability
from pyisolate.kernel.bpf import lsm as bpf_lsm
from pyisolate.kernel.bpf.maps import Count
from tests.vm.inside.guests import Guest, policy
from tests.waiting import until

Make = Callable[..., Guest]

ENOUGH = 50
RELOADS = int(os.environ.get("PYISOLATE_VM_RELOADS", "1000"))
FLOOD = int(os.environ.get("PYISOLATE_VM_FLOOD", "50000"))
JOIN = int(os.environ.get("PYISOLATE_VM_JOIN", "2000"))

_HAMMER = """
def attempt(path):
    try:
        os.close(os.open(path, 0))
        return 1
    except PermissionError:
        return 0

def hammer(granted, secret):
    opened, refused, leaked = 0, 0, 0
    while not select.select([0], [], [], 0)[0]:
        for _ in range(10):
            if attempt(granted): opened += 1
            else: refused += 1
            leaked += attempt(secret)
    return opened, refused, leaked
"""


def test_reload_under_load(lsm, guest: Make, files: Path) -> None:
    """At no instant is a granted open refused or a forbidden one allowed, whichever policy is in force."""
    for name in ("a", "b"):
        (files / name).write_text(name)
    # both policies grant `granted`, neither grants `secret`, and each grants one of a and b
    one = guest(policy({files / "granted": "r", files / "a": "r"}))
    one.does(f"exec({_HAMMER!r}, globals())")
    one.asks(f"hammer('{files}/granted/f', '{files}/secret/f')")
    began, reloads = time.monotonic(), 0
    # a number that shows it, and as many more as a few seconds have room for: each open of `secret` is a record to read
    while reloads < ENOUGH or (reloads < RELOADS and time.monotonic() - began < 4):
        letter = "ab"[reloads % 2]
        prepared = lsm.prepare(policy({files / "granted": "r", files / letter: "r"}, generation=reloads + 2))
        lsm.update(one.sandbox_id, prepared)
        prepared.close()
        reloads += 1
    one.asks("'the next line ends the hammering'")
    opened, refused, leaked = eval(one.hears())
    one.hears()
    print(f"{reloads} reloads while the guest opened {opened} files")
    assert (refused, leaked) == (0, 0)
    assert opened > 20
    assert max(record.generation for record in one.recorder.of(one.sandbox_id)) > 1


def test_a_swap_is_seen_by_the_next_call(lsm, guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}))
    one.refused(f"open('{files}/secret/f')")
    prepared = lsm.prepare(policy({files / "secret": "r"}, generation=2))
    lsm.update(one.sandbox_id, prepared)
    prepared.close()
    one.allowed(f"open('{files}/secret/f')")
    assert one.refused(f"open('{files}/granted/f')").generation == 2


def test_counters_are_exact_when_records_are_not(lsm, recorder, files: Path) -> None:
    lsm.shared.events_per_s, before = 500, lsm.shared.events_per_s
    one, other = Guest(lsm, recorder), Guest(lsm, recorder)
    try:
        one.confine(policy({files / "granted": "r"}))
        lsm.shared.events_per_s = before
        other.confine(policy({files / "granted": "r"}))
        one.does(
            "exec('def flood(n, p):\\n b = p.encode()\\n for _ in range(n): libc.open(b, 0)\\n return n', globals())"
        )
        one.does(f"flood({FLOOD}, '{files}/secret/f')")
        other.refused(f"open('{files}/secret/f')")
        key = Count(Capability.FS_READ, DenialCode.SCOPE_INSUFFICIENT, Verdict.DENY)
        counts, flow = lsm.shared.counters(one.sandbox_id), lsm.shared.flow(one.sandbox_id)
        assert counts == {key: FLOOD}
        assert flow.delivered + flow.suppressed + flow.lost == FLOOD
        assert flow.suppressed > 0
        assert len(recorder.of(one.sandbox_id)) == flow.delivered
        assert lsm.shared.counters(other.sandbox_id) == {key: 1}
        assert lsm.shared.entries.uncounted == 0
        final, _ = lsm.detach(one.sandbox_id)
        assert final == counts
    finally:
        lsm.shared.events_per_s = before
        one.close()
        other.close()


def test_ask_says_what_the_tables_say(lsm, guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}))
    ask = lsm.shared.ask
    assert ask(one.sandbox_id, Capability.FS_READ, f"{files}/granted/f") is Verdict.ALLOW
    assert ask(one.sandbox_id, Capability.FS_WRITE, f"{files}/granted/f") is Verdict.DENY
    assert ask(one.sandbox_id, Capability.FS_READ, f"{files}/secret/f") is Verdict.DENY
    assert ask(one.sandbox_id, Capability.NET_CONNECT, "127.0.0.1:80") is Verdict.DENY
    assert ask(one.sandbox_id, Capability.PROCESS_FORK, "fork") is Verdict.DENY
    assert ask(one.sandbox_id, Capability.IMPORT_MODULE, "json") is Verdict.UNAVAILABLE


_SLOTS = """
import ctypes, json, mmap, os, random, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
page = mmap.mmap(int(sys.argv[1]), 4096, offset=4096 * int(sys.argv[2]))
granted, secret, missing, count, seed = sys.argv[3], sys.argv[4], sys.argv[5], int(sys.argv[6]), int(sys.argv[7])
print("ready", flush=True); sys.stdin.readline()
random.seed(seed)
told, sequence = [], 0
def tag(path):
    return len(path) << 56 ^ int.from_bytes(path[-8:], "little")
def consult(path):
    global sequence
    sequence += 1
    struct.pack_into("=IIIIQ", page, 8, 1, 1, 0, 0, tag(path))
    struct.pack_into("=Q", page, 0, sequence)
for _ in range(count):
    path = random.choice((granted, secret, missing)).encode()
    consulted = random.random() < 0.5
    if consulted:
        consult(path)
    fd = libc.open(path, 0)
    if fd >= 0: os.close(fd)
    if path == secret.encode():
        told.append(sequence if consulted else 0)
print(json.dumps(told), flush=True)
"""


def test_join_of_interpreter_and_raw_calls(lsm, recorder, files: Path) -> None:
    """Random interleavings of consulted and raw opens, allowed, refused and missing: each record knows which it was."""
    prepared = lsm.prepare(policy({files / "granted": "r"}))
    sandbox = "join"
    lsm.shared.entry(sandbox, prepared)
    fd, page = lsm.shared.slot_page(sandbox)
    arguments = [
        str(fd),
        str(page),
        f"{files}/granted/f",
        f"{files}/secret/f",
        f"{files}/granted/missing",
        str(JOIN),
        "7",
    ]
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SLOTS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd],
    )
    assert child.stdout is not None
    child.stdout.readline()
    lsm.attach_task(child.pid, sandbox, prepared, slot=0)
    prepared.close()
    import json

    said, _ = child.communicate("\n", timeout=200)
    told = json.loads(said)
    records = recorder.of(sandbox)
    lsm.detach(sandbox)
    assert len(records) == len(told)
    mismatches = [
        (expected, record.sequence, record.broker_consulted)
        for expected, record in zip(told, records, strict=True)
        if record.sequence != expected or record.broker_consulted is not (expected > 0)
    ]
    assert not mismatches, (len(mismatches), mismatches[:5])
    consulted = [record for record in records if record.sequence]
    assert consulted
    assert all(record.slot_capability is Capability.FS_READ for record in consulted)
    assert CAPABILITY_NUMBER[Capability.FS_READ] == 1


_SUPERVISOR = """
import sys, subprocess, time
from pyisolate.kernel.bpf.lsm import BpfLsmEnforcer
from pyisolate.policy.compiled import *
enforcer = BpfLsmEnforcer(); enforcer.start(lambda record: None)
policy = enforcer.prepare(CompiledPolicy(name="x", version="x", fs=(FsRule(path="/usr", allow=65),)))
links = enforcer.loader.link_descriptors
guest = subprocess.Popen([sys.executable, "-I", "-S", "-c", sys.argv[2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
guest.stdout.readline()
enforcer.attach_task(guest.pid, "x", policy)
guest.stdin.write(bytes([10])); guest.stdin.flush()
keeper = subprocess.Popen(["sleep", "3600"], pass_fds=links)
print(guest.pid, keeper.pid, flush=True)
time.sleep(3600)
"""
_WATCH = """
import os, sys, time
print("ready", flush=True); sys.stdin.readline()
while True:
    try:
        open(PATH).close(); word = b"open "
    except PermissionError: word = b"refused "
    os.write(1, word)
    time.sleep(0.2)
"""


def test_a_keeper_of_the_links_outlives_the_supervisor(files: Path) -> None:
    """Enforcement stays as long as any process holds the links: a killed supervisor opens no sandbox."""
    code = _WATCH.replace("PATH", repr(str(files / "secret/f")))
    supervisor = subprocess.Popen([sys.executable, "-c", _SUPERVISOR, "x", code], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    words = supervisor.stdout.readline().split()
    guest, keeper = map(int, words)
    try:
        out = os.open(f"/proc/{guest}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
        supervisor.kill()
        supervisor.wait()
        time.sleep(1)
        _drained(out)
        said = _said(out, lambda words: len(words) >= 10)
        assert set(said) == {"refused"}
        os.kill(keeper, signal.SIGKILL)
        # the control: with the last holder of the links, enforcement goes (detaching them takes a slow machine a while)
        assert "open" in _said(out, lambda words: "open" in words)
        os.close(out)
    finally:
        for pid in (guest, keeper):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _said(fd: int, enough: Callable[[list[str]], bool]) -> list[str]:
    """Return the words that the guest says until they are enough, or for two minutes."""
    words: list[str] = []
    end = time.monotonic() + 120
    while not enough(words) and time.monotonic() < end:
        time.sleep(0.1)
        words += _drained(fd).split()
    return words


def _drained(fd: int) -> str:
    text = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 65536):
            text += data
    return text.decode()


def _programs() -> int:
    listing = subprocess.run(["bpftool", "prog", "list"], capture_output=True, text=True, check=True).stdout
    return listing.count("lsm  name")


@dataclass
class Probed:
    """What a probe found, and how many programs the kernel held before and during it."""

    found: Availability
    before: int
    during: int


@pytest.fixture(scope="module")
def probed(lsm) -> Probed:
    """One probe for both tests of it: it loads all programs once more."""
    before, during, prove = _programs(), [], bpf_lsm._proof

    def proof(enforcer: bpf_lsm.BpfLsmEnforcer) -> str:
        during.append(_programs())
        return prove(enforcer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpf_lsm, "_proof", proof)
        found = bpf_lsm.BpfLsmEnforcer().probe()
    return Probed(found, before, *during)


def test_probe_sees_a_denial(probed: Probed) -> None:
    assert probed.found.usable, probed.found
    assert "refused" in probed.found.proof
    print(probed.found.detail)


def test_nothing_is_left_in_the_kernel(probed: Probed) -> None:
    """Programs and maps of a closed loader are gone (but for those of this session's enforcer)."""
    assert probed.before > 0
    assert probed.during == 2 * probed.before
    until(lambda: _programs() == probed.before, within_s=60)
