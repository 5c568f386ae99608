"""The host forks with live sandboxes, as preforking servers do: the child touches none of them and can have its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.supervisor import living
from tests import leaks
from tests.faults.test_killed_cells import Load


def in_fork(function: Callable[[], None], within_s: float = 30.0) -> None:
    """Run `function` in a forked child that leaves like a program does, `atexit` and all; fail when it does."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.alarm(int(within_s))
        try:
            function()
            living._close_all()  # as `atexit` would, without pytest's own handlers
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestForked:
    def test_the_child_keeps_no_descriptor_of_it(self) -> None:
        before = leaks.descriptors()
        with pyisolate.Supervisor(pool_size=2) as supervisor, supervisor.spawn("live") as sandbox:
            sandbox.exec("1")

            def child() -> None:
                # A copy would keep the kernel's answer to the parent's death away: locks held, programs attached.
                assert {fd: what for fd, what in leaks.descriptors().items() if fd not in before} == {}
                assert threading.active_count() == 1

            in_fork(child)

    def test_the_child_can_do_nothing_to_the_parents_sandboxes(self) -> None:
        with pyisolate.Supervisor(pool_size=1) as supervisor:
            sandbox = supervisor.spawn("live", Policy.preset("compute").allow_fork())
            sandbox.exec("import os, time\nif os.fork() == 0: time.sleep(1000)\nx = 1")

            def child() -> None:
                assert supervisor.sandboxes == []
                for refused in (lambda: sandbox.exec("1"), lambda: sandbox.post(1), lambda: supervisor.spawn("no")):
                    with pytest.raises(pyisolate.SandboxError):
                        refused()
                sandbox.kill()
                sandbox.interrupt()
                sandbox.close()
                assert sandbox.stats.state == "closed"
                supervisor.close()

            in_fork(child)
            time.sleep(0.2)
            assert sandbox.exec("x + 1").value == 2
            assert sandbox.stats.processes in (2, None)
            sandbox.close()

    def test_a_with_block_that_is_left_in_the_child_ends_nothing(self) -> None:
        with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn("live") as sandbox:

            def child() -> None:
                sandbox.__exit__(None, None, None)
                supervisor.__exit__(None, None, None)

            in_fork(child)
            assert sandbox.eval("2") == 2

    def test_the_child_has_sandboxes_of_its_own(self) -> None:
        with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn("parent") as sandbox:
            sandbox.exec("x = 'parent'")

            def child() -> None:
                with pyisolate.Supervisor(pool_size=1) as own, own.spawn("child") as other:
                    assert other.eval("6 * 7") == 42
                    with pytest.raises(pyisolate.PolicyError):
                        other.exec("open('/etc/shadow')")

            in_fork(child)
            assert sandbox.eval("x") == "parent"

    def test_forks_under_load(self, supervisor: pyisolate.Supervisor) -> None:
        """At any instant some thread holds some lock; the child must not wait for it."""

        def child() -> None:
            with pyisolate.Supervisor(pool_size=0) as own, own.spawn("child") as other:
                assert other.eval("1") == 1

        with Load(supervisor) as load:
            for _ in range(8):
                in_fork(child)
        assert not load.unexpected, load.unexpected[:3]
        assert load.ended["died"] == 0

    def test_the_parents_death_frees_everything_though_the_child_lives(self) -> None:
        """Its locks on control groups among it: else nobody would sweep them."""
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            owner = pyisolate.Supervisor(pool_size=1).start()
            owner.spawn("live").exec("1")
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.write(write, f"{os.getpid()} {child}\n".encode())
            time.sleep(60)
            os._exit(0)
        os.close(write)
        host, child = map(int, os.read(read, 100).split())
        os.close(read)
        try:
            os.kill(host, signal.SIGKILL)
            os.waitpid(host, 0)
            assert os.path.exists(f"/proc/{child}")
            with pyisolate.Supervisor(pool_size=0):
                assert not [path for path in leaks.cgroups() if f"pyisolate.{host}." in path]
        finally:
            os.kill(child, signal.SIGKILL)

    def test_workers_of_multiprocessing(self, supervisor: pyisolate.Supervisor) -> None:
        with supervisor.spawn("parent") as sandbox:
            with multiprocessing.get_context("fork").Pool(2) as workers:
                assert workers.map(run_in_worker, range(4)) == [0, 10, 20, 30]
                workers.close()
                workers.join()
            assert sandbox.eval("1") == 1


def run_in_worker(number: int) -> int:
    with pyisolate.Supervisor(pool_size=0) as own, own.spawn("worker") as sandbox:
        return int(sandbox.eval(f"{number} * 10"))


def test_programs_that_the_host_starts_inherit_nothing(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("live") as sandbox:
        sandbox.exec("1")
        listing = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
        with_sandbox = subprocess.run([sys.executable, "-c", listing], close_fds=False, capture_output=True, check=True)
        inherited = {fd for fd in leaks.descriptors() if os.get_inheritable(fd)}
        seen = set(eval(with_sandbox.stdout))
        assert seen <= inherited | {0, 1, 2, 3, 4}
        ours = {fd: what for fd, what in leaks.descriptors().items() if fd in inherited and fd > 2}
        assert not [
            what for what in ours.values() if what.startswith(("anon_inode:bpf", "anon_inode:seccomp", "/sys/fs"))
        ]
