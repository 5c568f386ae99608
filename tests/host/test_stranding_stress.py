"""Guests that strand the listener's threads again and again, while others call, are closed and get other policies."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes
from tests.require import require

pytestmark = [pytest.mark.once, pytest.mark.slow]

_SECONDS = 12.0
_SETUP = """
import ctypes, socket, threading, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
one, two = socket.socketpair()
"""
#: A gibibyte of the zero page: its tables alone are the guest's memory.
_STRANDING = """
size = ctypes.c_size_t(1 << 30)
walked = ctypes.c_void_p(libc.mmap(None, size, 3, 0x4022, -1, ctypes.c_long(0)))
libc.madvise(walked, size, 15)
libc.madvise(walked, size, 22)
def walks(end):
    while time.monotonic() < end:
        libc.mprotect(walked, size, 0)
        libc.mprotect(walked, size, 1)
def strands(seconds):
    end = time.monotonic() + seconds
    walker = threading.Thread(target=walks, args=(end,))
    walker.start()
    made = 0
    while time.monotonic() < end:
        libc.open(b"/etc/shadow", 0)
        made += 1
    walker.join()
    return made
"""


def _refusals(sandbox: pyisolate.Sandbox) -> int:
    return sum(event.count for event in sandbox.get_denial_events() if event.target == "/etc/shadow")


def test_no_call_and_no_event_is_lost_where_threads_are_stranded_at_random() -> None:
    policy = with_ctypes()
    end = time.monotonic() + _SECONDS
    wrong: list[str] = []

    def strand(supervisor: pyisolate.Supervisor, name: str) -> None:
        while time.monotonic() < end:
            with supervisor.spawn(name, policy) as sandbox:
                sandbox.exec(_SETUP + _STRANDING)
                made = sandbox.eval("strands(1.0)", timeout=60)
                if _refusals(sandbox) != made:
                    wrong.append(f"{name}: {made} calls, {_refusals(sandbox)} in events")
                ended = threading.Timer(random.random() / 4, sandbox.close)
                ended.start()
                with contextlib.suppress(pyisolate.SandboxError):
                    sandbox.eval("strands(0.5)", timeout=60)
                ended.join()

    def call(supervisor: pyisolate.Supervisor, name: str) -> None:
        with supervisor.spawn(name, policy) as sandbox:
            sandbox.exec(_SETUP)
            calls = 0
            while time.monotonic() < end:
                calls += sandbox.eval("sum(libc.open(b'/etc/shadow', 0) for _ in range(20))", timeout=60)
                if sandbox.eval("one.sendmsg([b'x']) and two.recv(9)") != b"x":
                    wrong.append(f"{name}: a message is lost")
                sandbox.reload_policy(policy.allow_connect("127.0.0.1:9") if calls % 40 else policy)
            if _refusals(sandbox) != -calls:
                wrong.append(f"{name}: {-calls} calls, {_refusals(sandbox)} in events")

    with pyisolate.Supervisor() as supervisor:
        require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
        threads = [threading.Thread(target=strand, args=(supervisor, f"strands-{at}")) for at in range(3)]
        threads += [threading.Thread(target=call, args=(supervisor, f"calls-{at}")) for at in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
