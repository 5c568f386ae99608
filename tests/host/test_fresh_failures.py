"""A cell that cannot be confined reports so, or ends before it serves: never one in silence."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.cell import wire
from pyisolate.cell.confine import CellSpec
from pyisolate.cell.zygote_messages import BranchOrder, Exited, Forked
from pyisolate.cell.zygote_process import PolicyZygote, PoolSettings, ZygoteControl, ZygoteProcess
from pyisolate.kernel.seccomp.filter import cell_program
from pyisolate.native import process
from pyisolate.native.descriptors import receive
from pyisolate.policy.compile import compile_policy

#: A zygote whose policy zygotes are wrong about the process id of their guests.
_WRONG_PID = """#!{python} -I
import sys
from pyisolate.cell import own_builtins
own_builtins.begin()
from pyisolate.cell.at_fork import AT_FORK
AT_FORK.collect()
from pyisolate.cell import zygote
from pyisolate.native import cell_start
given = cell_start.ZygoteFacts
cell_start.ZygoteFacts = lambda pid, null, channel: given(1 << 22, null, channel)
sys.exit(zygote.main(int(sys.argv[-1])))
"""
COMPUTE = pyisolate.Policy.preset("compute")
_PROGRAM = cell_program(notify=False)


def spec_with(*rlimits: tuple[int, int, int], program: bytes = _PROGRAM, clone_flags: int = 0) -> CellSpec:
    uid, gid = os.getuid(), os.getgid()
    return CellSpec(
        uid=uid,
        gid=gid,
        zygote_uid=uid,
        clone_flags=clone_flags,
        seccomp_program=program,
        forking_program=program,
        dumpable=True,
        rlimits=rlimits,
    )


@contextlib.contextmanager
def policy_zygote(spec: CellSpec, python: str = sys.executable) -> Iterator[PolicyZygote]:
    zygote = ZygoteProcess(PoolSettings(0, (), spec, False, {}, python=python))
    try:
        init = wire.Init(
            sandbox="standby", policy=None, descriptors=(), environment={}, working_directory="/", rlimits=()
        )
        made = PolicyZygote(zygote, BranchOrder(policy=compile_policy(COMPUTE), init=init))
        try:
            made.control.settimeout(10)
            yield made
        finally:
            made.stop()
    finally:
        zygote.stop()


@contextlib.contextmanager
def first_zygote(spec: CellSpec) -> Iterator[ZygoteProcess]:
    zygote = ZygoteProcess(PoolSettings(0, (), spec, False, {}))
    try:
        zygote.control.settimeout(10)
        yield zygote
    finally:
        zygote.stop()


def first_frame(zygote: ZygoteControl) -> wire.GuestFrame | str:
    """Return what a new cell sends first, or what it writes to its stderr where it ends before."""
    while True:
        zygote.fork(1)
        received = zygote.receive()
        assert received is not None
        assert isinstance(received[0], Forked)
        if received[0].errno != errno.ESRCH:  # it ended before its zygote had looked for its number
            break
    assert not received[0].error
    channel, out, err, pidfd, asked = received[1]
    try:
        with socket.socket(fileno=channel) as host:
            host.settimeout(10)
            data, descriptors, _ = receive(host, 1 << 16, 8)
        for one in descriptors:
            os.close(one)
        return wire.decode_guest(data[4:]) if data else os.read(err, 1 << 16).decode()
    finally:
        for one in (out, err, pidfd, asked):
            os.close(one)


@pytest.mark.once
@pytest.mark.parametrize(
    ("spec", "lacking"),
    [
        (spec_with(), {}),  # the control
        (spec_with((99, 1, 1)), {"resource limits": "Invalid argument"}),
        (spec_with(program=b"no program"), {"seccomp": "Invalid argument"}),
        (spec_with(program=b""), {"seccomp": "none is loaded, because the supervisor has no listener for it"}),
    ],
    ids=["sound", "limits that no kernel knows", "a filter that is none", "no filter"],
)
@pytest.mark.parametrize("made", [first_zygote, policy_zygote])
def test_what_failed_at_the_fork_is_reported(
    made: Callable[[CellSpec], contextlib.AbstractContextManager[ZygoteControl]],
    spec: CellSpec,
    lacking: dict[str, str],
) -> None:
    with made(spec) as zygote:
        frame = first_frame(zygote)
    assert isinstance(frame, wire.Warm)
    failed = dict(frame.failed)
    assert failed.keys() == lacking.keys()
    assert all(why in failed[step] for step, why in lacking.items())  # type: ignore[index]
    assert {"resource limits", "no_new_privs", "seccomp"} - set(frame.steps) == lacking.keys()


@pytest.mark.once
def test_a_cell_that_cannot_begin_never_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its supervisor sees it end with a status that says so."""
    if os.geteuid() != 0:
        pytest.skip("only root makes a pid namespace without a user namespace")
    python = tmp_path / "python"
    python.write_text(_WRONG_PID.format(python=sys.executable))
    python.chmod(0o700)
    spec = spec_with(clone_flags=process.CLONE_NEWPID)
    with policy_zygote(spec) as sound:
        assert isinstance(first_frame(sound), wire.Warm)
    with policy_zygote(spec, str(python)) as zygote:
        words = first_frame(zygote)
        ended = zygote.receive()
    assert isinstance(words, str)
    assert "confine a fresh cell: No such process" in words  # which the pool's channel logs (test_channel)
    assert capfd.readouterr().err == ""  # the host's
    assert ended is not None
    assert isinstance(ended[0], Exited)
    assert os.waitstatus_to_exitcode(ended[0].status) == wire.BROKEN_STATUS
