"""A sandbox thread at the listener: its calls are decided, and those of its host's other threads are not."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.kernel.seccomp.listener import Listener
from pyisolate.native.seccomp import install
from pyisolate.records import KernelRecord
from tests.confined import policy, rule
from tests.in_child import outcome


@pytest.mark.leaks("the sandbox thread's filter ends with its thread, which the leak check may still see")
def test_a_sandbox_thread_is_confined_and_its_host_is_not() -> None:
    said: dict[str, object] = {}
    records: list[KernelRecord] = []
    listener = Listener(records.append)
    listener.start()

    def guest() -> None:
        descriptor = install(seccomp.thread_program(), notify=True)
        assert descriptor is not None
        listener.attach(descriptor, "thread", policy(), kind="thread")
        said["socket"] = outcome(lambda: socket.socket())
        said["unix"] = outcome(lambda: socket.socket(socket.AF_UNIX))
        said["pair"] = outcome(lambda: [s.close() for s in socket.socketpair()])
        said["kill"] = outcome(lambda: os.kill(os.getppid(), 0))
        said["timer"] = outcome(lambda: signal.setitimer(signal.ITIMER_REAL, 100))
        said["chdir"] = outcome(lambda: os.chdir("/"))
        said["fork"] = outcome(os.fork)
        nested = threading.Thread(target=lambda: said.update(nested=outcome(lambda: socket.socket())))
        nested.start()
        nested.join()

    try:
        thread = threading.Thread(target=guest)
        thread.start()
        thread.join()
        listener.drain_now("thread")
        assert said == {
            "socket": "EACCES", "unix": "EACCES", "pair": "ok", "kill": "EPERM", "timer": "EPERM",
            "chdir": "EPERM", "fork": "EACCES", "nested": "EACCES",
        }  # fmt: skip
        socket.socket().close()
        assert outcome(lambda: os.kill(os.getpid(), 0)) == "ok"
        assert {r.capability.value for r in records} == {
            "net.socket", "process.signal", "fs.metadata", "process.fork"
        }  # fmt: skip
    finally:
        listener.close()


def test_a_sandbox_thread_with_grants_uses_its_own_sockets() -> None:
    said: dict[str, object] = {}
    listener = Listener(lambda record: None)
    listener.start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def guest() -> None:
            descriptor = install(seccomp.thread_program(), notify=True)
            assert descriptor is not None
            grants = policy(rule("connect", f"127.0.0.1:{port}"), allow_fork=True)
            listener.attach(descriptor, "thread", grants, kind="thread")
            said["granted"] = outcome(lambda: socket.create_connection(("127.0.0.1", port)).close())
            said["other"] = outcome(lambda: socket.create_connection(("127.0.0.1", 1)).close())
            pid = os.fork()  # the fork itself is decided by a thread of this process
            if pid == 0:
                os._exit(0)
            said["fork"] = os.waitpid(pid, 0)[1]

        thread = threading.Thread(target=guest)
        thread.start()
        thread.join(20)
    listener.close()
    assert said == {"granted": "ok", "other": "EACCES", "fork": 0}
