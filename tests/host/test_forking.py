"""Cells whose policy lets them fork: fork(2) never fails with EINTR there, whatever signals come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.decision import DenialCode
from tests import inside

#: A handler without SA_RESTART, as shells have it, and children that end at once: each end meets the next fork.
STORM = """
import os, signal
ended = []
signal.signal(signal.SIGCHLD, lambda number, frame: ended.append(number))
signal.siginterrupt(signal.SIGCHLD, True)
failed = []
for _ in range(400):
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError as error:
        failed.append(error.errno)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
(len(ended) > 0, failed)
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=2) as own:
        yield own


def test_no_signal_interrupts_a_fork(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("storm", Policy.preset("compute").allow_fork().with_limits(processes=500)) as sandbox:
        assert sandbox.exec(STORM).value == (True, [])
        assert sandbox.get_denial_events() == []


def test_other_policies_still_ask_and_are_refused_with_a_record(supervisor: pyisolate.Supervisor) -> None:
    unspoken = Policy.preset("compute").allow_import("ctypes").allow_native("ctypes")
    denied = (DenialCode.EXPLICIT_DENY, "process: {fork: false}")
    for policy, why in ((unspoken, (DenialCode.NOT_GRANTED, None)), (unspoken.allow_fork().deny_fork(), denied)):
        with supervisor.spawn("single", policy) as sandbox:
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec("import os; os.fork()")
            sandbox.exec("import ctypes; ctypes.CDLL(None).fork()")
            events = sandbox.get_denial_events()
            assert [(one.capability, one.code, one.policy_rule) for one in events] == [("process.fork", *why)] * 2


def test_namespaces_are_refused_to_a_cell_that_may_fork(supervisor: pyisolate.Supervisor) -> None:
    policy = Policy.preset("compute").allow_fork().allow_import("ctypes").allow_native("ctypes")
    source = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
(libc.syscall(56, 0x10000000 | 17, None, None, None, None), ctypes.get_errno())
"""
    with supervisor.spawn("nested", policy) as sandbox:
        assert sandbox.exec(source).value == (-1, 1)
        assert [event.capability for event in sandbox.get_denial_events()] == ["kernel.namespace"]


def test_spares_of_a_policy_that_may_fork_may_fork(supervisor: pyisolate.Supervisor) -> None:
    policy = Policy.preset("compute").allow_fork()
    for _ in range(8):
        with supervisor.spawn("again", policy) as sandbox:
            assert sandbox.exec("import os\npid = os.fork() or os._exit(7)\nos.waitpid(pid, 0)[1] >> 8").value == 7


def test_fork_is_not_taken_from_a_running_cell_in_silence(supervisor: pyisolate.Supervisor) -> None:
    if inside.plan(supervisor).bpf.decides:
        pytest.skip("BPF-LSM refuses the fork after the reload")
    policy = Policy.preset("compute").allow_fork()
    with supervisor.spawn("reloaded", policy) as sandbox:
        with pytest.raises(pyisolate.EnforcementError, match=r"process\.fork would be taken away"):
            sandbox.reload_policy(Policy.preset("compute"))
        assert sandbox.policy == policy
    with supervisor.spawn("other", Policy.preset("compute")) as sandbox:
        sandbox.reload_policy(policy)  # the listener lets it through from then on
        sandbox.exec("import os\nos.fork() or os._exit(0)")
        sandbox.reload_policy(Policy.preset("compute"))
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("os.fork()")


def test_only_the_first_process_answers(supervisor: pyisolate.Supervisor) -> None:
    """A child that comes to the request's end ends as a script's child does; later requests are all its parent's."""
    forks = (
        "import os, sys\npid = os.fork()\nif pid == 0:\n    {child}\n"
        "status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
    )
    with supervisor.spawn("family", Policy.preset("compute").allow_fork()) as sandbox:
        for child, wanted in (("sys.exit()", 0), ("1 / 0", 1), ("sys.exit(7)", 7), ("sys.exit(300)", 44)):
            done = sandbox.exec(f"{forks.format(child=child)}print('parent')\nstatus")
            assert (done.value, done.stdout) == (wanted, "parent\n"), child
            assert ("ZeroDivisionError" in done.stderr) == (child == "1 / 0")
        done = sandbox.exec("print('both', flush=True)\npid = os.fork()\nif pid: os.wait()\nos.getpid()")
        assert done.value == sandbox.eval("os.getpid()") == 2
