"""Descriptors in flight: the supervisor sends for the guest, so each sandbox has a part of what the supervisor may."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pyisolate

pytestmark = pytest.mark.alone  # fills what the kernel counts by user

HONEST = """
import os, socket
def passed(rounds):
    for _ in range(rounds):
        one, two = socket.socketpair()
        socket.send_fds(one, [b"x"], [0, 0, 0])
        one.close()
        data, received, *_ = socket.recv_fds(two, 10, 8)
        for descriptor in received:
            os.close(descriptor)
        assert (data, len(received), two.recv(1)) == (b"x", 3, b"")  # the end of file: nobody else holds the sender
        two.close()
    return rounds
"""
GREEDY = """
import os, socket
kept, sent = [], 0
def more():
    global sent
    ends = socket.socketpair()
    kept.append(ends)
    while True:
        socket.send_fds(ends[0], [b"x"], [0] * 20)
        sent += 20
def take():
    global sent
    for one, two in kept:
        two.setblocking(False)
        try:
            while received := socket.recv_fds(two, 1, 32)[1]:
                sent -= len(received)
                for descriptor in received:
                    os.close(descriptor)
        except BlockingIOError:
            pass
    return sent
def greedy():
    for _ in range(3):
        try:
            more()
        except OSError as error:
            code = error.errno
    return sent, code
"""
UNREAD = """
import socket, threading
pairs = [socket.socketpair() for _ in range(100)]
def fill():
    total = 0
    for one, _ in pairs:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        try:
            while True:
                total += one.sendmsg([bytes(32768)], (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
    return total
def empty(pairs):
    for _, two in pairs:
        two.setblocking(False)
        try:
            while two.recv(1 << 20):
                pass
        except BlockingIOError:
            pass
def waits():
    sent = []
    thread = threading.Thread(target=lambda: sent.append(pairs[-1][0].sendmsg([bytes(32768)])))
    thread.start()
    thread.join(0.3)
    before = list(sent)
    empty(pairs[:-1])
    thread.join(5)
    return before, sent
def stream(total):
    one, two = socket.socketpair()
    def send():
        left = total
        while left:
            left -= one.sendmsg([bytes(min(left, 60000))])
        one.close()
    threading.Thread(target=send).start()
    got = 0
    while data := two.recv(1 << 16):
        got += len(data)
    return got
"""
BESIDE = """
import resource, sys
import pyisolate
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
GREEDY, HONEST = sys.argv[1:]
base = pyisolate.Policy.preset("compute").allow_import("*")
with pyisolate.Supervisor(pool_size=1) as supervisor:
    greedy = [supervisor.spawn(f"greedy{n}", base.with_limits(open_files=500)) for n in range(6)]
    print([sandbox.exec(GREEDY + "greedy()", timeout=30).value for sandbox in greedy])
    for n in range(3):
        with supervisor.spawn(f"other{n}", base.allow_read(f"/var/tmp/{n}")) as sandbox:
            print(sandbox.exec(HONEST + "passed(50)", timeout=30).value)
"""


@pytest.fixture
def policy() -> pyisolate.Policy:
    return pyisolate.Policy.preset("compute").allow_import("*").with_limits(open_files=40)


def test_what_is_received_may_be_sent_again(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with supervisor.spawn("guest", policy) as sandbox:
        assert sandbox.exec(HONEST + "passed(300)", timeout=60).value == 300
        assert list(sandbox.get_denial_events()) == []
        assert len(os.listdir("/proc/self/fd")) < before + 40


def test_a_guest_has_no_more_in_flight_than_it_may_open(
    supervisor: pyisolate.Supervisor, policy: pyisolate.Policy
) -> None:
    with supervisor.spawn("guest", policy) as sandbox:
        assert tuple(sandbox.exec(GREEDY + "greedy()").value) == (40, 109)
        (event,) = sandbox.get_denial_events()
        assert (event.capability.value, event.code.value, event.count) == ("limit.open_files", "LIMIT_EXCEEDED", 3)
        assert event.target == "20 descriptors to send"
        assert sandbox.exec("take()").value == 0
        assert tuple(sandbox.exec("greedy()").value) == (40, 109)


@pytest.mark.parametrize("user", [None, 12345])
def test_greedy_guests_keep_no_other_from_sending_nor_from_being_spawned(user: int | None) -> None:
    if user and os.geteuid():
        pytest.skip("an ordinary user is one anyway")
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, GREEDY, HONEST], cwd="/", capture_output=True, text=True, timeout=120,
        user=user, group=user, extra_groups=None if user is None else [],
        env={"PATH": os.environ["PATH"], "HOME": "/tmp"},
    )  # fmt: skip
    taken, *others = done.stdout.splitlines()
    assert others == ["50", "50", "50"], done.stdout + done.stderr
    assert taken.count("109") == 6


def test_what_is_not_received_is_bounded_in_bytes_too(
    supervisor: pyisolate.Supervisor, policy: pyisolate.Policy
) -> None:
    with supervisor.spawn("guest", policy.with_limits(open_files=300)) as sandbox:
        sandbox.exec(UNREAD)
        filled = sandbox.exec("fill()", timeout=60).value
        assert 8 << 20 < filled < 20 << 20
        before, sent = sandbox.exec("waits()", timeout=30).value
        assert (before, sent) == ([], [32768])
        sandbox.exec("empty(pairs)")
        assert sandbox.exec("fill()", timeout=60).value > 8 << 20
        sandbox.exec("empty(pairs)")
        assert sandbox.exec("stream(30_000_000)", timeout=60).value == 30_000_000
        assert list(sandbox.get_denial_events()) == []
