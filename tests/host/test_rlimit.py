"""Resource limits as the kernel applies them: each refuses what is above it and nothing below."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest

from pyisolate.limits import rlimit
from pyisolate.policy.compiled import Limits
from tests.require import require

MIB = 1 << 20

APPLY = """
import os, sys, time
from pyisolate.limits import rlimit
from pyisolate.policy.compiled import Limits
{before}
rlimit.apply(rlimit.compute(Limits({limits}), cgroup_memory={cgroup}, own_user_namespace={own}))
{source}
"""


#: Becomes an ordinary user after the imports (who may not be able to read this tree), then alone in a user namespace.
OWN_NAMESPACE = """
import ctypes, os
if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.setpgid(0, 0)
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000): sys.exit(77)
"""


def run(
    source: str, limits: str, *, cgroup: bool = False, own_namespace: bool = False
) -> subprocess.CompletedProcess[str]:
    before = OWN_NAMESPACE if own_namespace else ""
    text = APPLY.format(limits=limits, cgroup=cgroup, own=own_namespace, before=before, source=source)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)


def test_descriptors_beyond_the_limit_are_refused_and_up_to_it_granted() -> None:
    source = "files = [os.open('/dev/null', 0) for _ in range({})]; print('granted')"
    granted = run(source.format(20), "open_files=20")
    assert granted.stdout == "granted\n"
    refused = run(source.format(20 + rlimit.CELL_DESCRIPTORS + 1), "open_files=20")
    assert "Too many open files" in refused.stderr


def test_a_file_past_the_limit_is_refused_with_an_error_not_a_signal(tmp_path: object) -> None:
    source = f"""
with open({str(tmp_path)!r} + '/x', 'wb', buffering=0) as file:
    print(file.write(bytes({MIB})), file.write(b'x'))
"""
    refused = run(source, f"file_size_bytes={MIB}")
    assert refused.returncode == 1
    assert "File too large" in refused.stderr
    assert run(source, f"file_size_bytes={MIB + 1}").stdout == f"{MIB} 1\n"


def test_a_loop_in_c_ends_at_the_processor_time_backstop() -> None:
    # sum() over a C iterator runs no Python code that a signal handler could interrupt.
    source = "import itertools, collections; collections.deque(itertools.repeat(0), 0)"
    assert run(source, "cpu_s=0.2").returncode == -signal.SIGXCPU
    assert run("sum(range(10**6)); print('done')", "cpu_s=0.2").stdout == "done\n"


def test_a_guest_that_ignores_the_signal_is_killed() -> None:
    source = "import signal, itertools, collections; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
    source += "collections.deque(itertools.repeat(0), 0)"
    assert run(source, "cpu_s=0.2").returncode == -signal.SIGKILL


def test_without_a_memory_group_a_huge_allocation_is_a_memory_error() -> None:
    source = f"b = bytearray({512 * MIB}); print('granted')"
    refused = run(source, f"memory_bytes={64 * MIB}")
    assert "MemoryError" in refused.stderr
    assert run(source, f"memory_bytes={64 * MIB}", cgroup=True).stdout == "granted\n"


def test_processes_are_counted_in_the_own_user_namespace() -> None:
    source = """
started = 1
try:
    while started < 100:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        started += 1
except BlockingIOError: pass
print(started, flush=True)
os.killpg(0, 9)
"""
    bomb = run(source, "processes=6", own_namespace=True)
    require("userns", bomb.returncode != 77, "unprivileged user namespaces are not allowed here")
    assert bomb.stdout == f"{6 + rlimit.process_margin(6)}\n"


def test_triples_never_exceed_what_this_process_may_set() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    triples = rlimit.triples(Limits(open_files=hard + 1000), cgroup_memory=True, own_user_namespace=True)
    assert (resource.RLIMIT_NOFILE, hard, hard) in triples


@pytest.mark.parametrize("cgroup", [True, False])
def test_limits_can_be_applied_a_second_time(cgroup: bool) -> None:
    again = "rlimit.apply(rlimit.compute(Limits(), cgroup_memory=True, own_user_namespace=False))"
    assert run(f"{again}; print('twice')", "", cgroup=cgroup).stdout == "twice\n"
