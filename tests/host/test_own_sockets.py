"""Unix sockets in the workspace: a guest's processes reach one another by them, and nobody else."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.decision import Verdict
from pyisolate.policy.explain import explain
from tests import inside
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

ALONE = pyisolate.Policy.preset("compute").with_workspace("1MiB").allow_import("ctypes").allow_native("ctypes")
BASE = ALONE.allow_fork()

SERVER = """
import socketserver, threading, socket
class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())
def ask(bound, reached):
    with socketserver.UnixStreamServer(bound, Upper) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(reached)
            client.sendall(b"hi\\n")
            answer = client.recv(9)
        thread.join()
    return answer
"""
#: Past every hook: (what connect or bind returned, errno).
NATIVE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, path):
    path, at = os.fsencode(path), libc.socket(1, 1, 0)
    address = (1).to_bytes(2, 'little') + path + b'\\0'
    result = getattr(libc, name)(at, address, len(address))
    libc.close(at)
    return result, ctypes.get_errno() if result else 0
"""


@pytest.fixture(autouse=True)
def _listens(supervisor: pyisolate.Supervisor) -> None:
    require("listener", supervisor.diagnostics().listener, "nothing decides about sockets")


@pytest.fixture
def hosts() -> Iterator[Path]:
    """Return the short path of a socket that this process listens at, where guests may read."""
    with tempfile.TemporaryDirectory(prefix="own-", dir="/var/tmp") as name, socket.socket(socket.AF_UNIX) as listening:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        listening.bind(f"{folder}/sock")
        (folder / "sock").chmod(0o777)
        listening.listen()
        yield folder / "sock"


def test_its_processes_reach_one_another(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("own", BASE) as sandbox:
        sandbox.exec(SERVER + "import os\nos.mkdir('d')")
        tmp = "/tmp" if sandbox.eval("os.path.islink('/tmp')") else "/sandbox/workspace"  # this tree may be in /tmp
        for bound, reached in (
            ("a", f"{tmp}/a"),
            ("/dev/shm/b", "b"),
            ("/sandbox/workspace/d/c", "d/c"),
            ("d/../f", f"{tmp}/d/.././f"),
        ):
            assert sandbox.eval(f"ask({bound!r}, {reached!r})") == b"HI\n"
        sandbox.exec("os.chdir('d')")
        assert sandbox.eval(f"ask('e', '{tmp}/d/e')") == b"HI\n"
        for path, number in (("none", 2), ("d/none", 2), ("plain", 111), ("plain/x", 20)):
            got = sandbox.exec(
                f"open('{tmp}/plain', 'w')\nimport socket\ns = socket.socket(socket.AF_UNIX)\n"
                f"try: s.connect('{tmp}/{path}')\nexcept OSError as error: number = error.errno\nnumber"
            )
            assert (path, got.value) == (path, number)
        assert sandbox.get_denial_events() == []


def test_what_multiprocessing_and_asyncio_make_of_them(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("managed", BASE.with_limits(processes=32)) as sandbox:
        sandbox.exec(
            "import multiprocessing, concurrent.futures, asyncio\nfork = multiprocessing.get_context('fork')\n"
            "with fork.Manager() as manager:\n    shared = manager.dict(a=1)\n"
            "    other = fork.Process(target=shared.update, args=({'b': 2},))\n    other.start()\n    other.join()\n"
            "    both = dict(shared)\n"
            "with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:\n"
            "    done = list(pool.map(abs, [-1, -2]))\n"
            "async def serve(reader, writer):\n    writer.write(await reader.readline())\n    writer.close()\n"
            "async def talk():\n    async with await asyncio.start_unix_server(serve, 'echo'):\n"
            "        reader, writer = await asyncio.open_unix_connection('echo')\n        writer.write(b'x\\n')\n"
            "        said = await reader.read()\n        writer.close()\n        return said\n",
            timeout=20,
        )
        assert sandbox.eval("both, done, asyncio.run(talk())") == ({"a": 1, "b": 2}, [1, 2], b"x\n")


def test_monitor_mode_tells_nothing_of_sockets_that_enforcing_lets_through(supervisor: pyisolate.Supervisor) -> None:
    made = "s = socket.socket(socket.AF_UNIX)\ns.bind({0!r})\ns.listen()\nsocket.socket(socket.AF_UNIX).connect({0!r})"
    with supervisor.spawn("watched", BASE, mode="monitor") as sandbox:
        for name in ("own", "/sandbox/workspace/other"):
            sandbox.exec("import socket\n" + made.format(name))
        assert sandbox.get_denial_events() == []
        sandbox.exec("try: socket.socket(socket.AF_UNIX).bind('/var/tmp/no/such')\nexcept OSError: pass")
        (event,) = sandbox.get_denial_events()  # the control
        assert (event.capability, event.target, event.would_deny) == ("net.bind", "unix:/var/tmp/no/such", True)


def test_no_socket_of_the_hosts_is_reached(supervisor: pyisolate.Supervisor, hosts: Path) -> None:
    with supervisor.spawn("others", BASE.allow_read(hosts.parent)) as sandbox:
        sandbox.exec(
            SERVER + NATIVE + f"os.symlink({str(hosts)!r}, 'link')\nos.symlink({str(hosts.parent)!r}, 'folder')"
        )
        assert sandbox.exec(
            "s = socket.socket(socket.AF_UNIX)\ns.bind('own')\ns.listen()\ncall('connect', 'own')"
        ).value == (
            0,
            0,
        )
        for path in (hosts, "link", "/tmp/link", "folder/sock", f"/tmp/../{hosts}"):
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec(f"socket.socket(socket.AF_UNIX).connect({str(path)!r})")
            before = sandbox.stats.denials
            assert sandbox.eval(f"call('connect', {str(path)!r})") == (-1, 13)
            assert sandbox.stats.denials == before + 1
        native = {(one.capability, one.target) for one in sandbox.get_denial_events() if one.kernel_decision == "deny"}
        assert native == {("net.connect", f"unix:{hosts}"), ("net.connect", f"unix:/sandbox{hosts}")}
        for path in ("/sandbox/x", "/etc/x", str(hosts.parent / "new"), "folder/new"):
            assert sandbox.eval(f"call('bind', {path!r})") == (-1, 13)
        assert os.listdir(hosts.parent) == ["sock"]


@contextlib.contextmanager
def locked(directory: int) -> Iterator[None]:
    """Hold a directory's lock: one thread reads it into a page that does not come, and one waits to write there."""
    libc = ctypes.CDLL(None, use_errno=True)
    faults = libc.syscall({"x86_64": 323}.get(os.uname().machine, 282), os.O_CLOEXEC | os.O_NONBLOCK)  # userfaultfd
    require("userfaultfd", faults >= 0, "no lock of the kernel's can be held")
    page = mmap.mmap(-1, 4096)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    reads = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    number = {"x86_64": 217}.get(os.uname().machine, 61)  # getdents64
    threads = [
        threading.Thread(target=lambda: libc.syscall(number, reads, ctypes.c_void_p(start), 4096)),
        threading.Thread(target=lambda: os.mkdir("made", dir_fd=directory)),
    ]
    try:
        fcntl.ioctl(faults, 0xC018AA3F, struct.pack("3Q", 0xAA, 0, 0))  # UFFDIO_API
        fcntl.ioctl(faults, 0xC020AA00, struct.pack("4Q", start, 4096, 1, 0))  # UFFDIO_REGISTER: missing pages
        threads[0].start()
        poll = select.poll()
        poll.register(faults, select.POLLIN)
        assert poll.poll(10_000)
        threads[1].start()
        while Path(f"/proc/self/task/{threads[1].native_id}/stat").read_text().rpartition(")")[2].split()[0] != "D":
            pass
        yield
    finally:
        os.close(faults)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        os.close(reads)


def test_no_directory_that_a_guest_holds_is_waited_for(supervisor: pyisolate.Supervisor) -> None:
    """The names that are not there were looked up under the directory's lock, which a throttled guest may hold."""
    with supervisor.spawn("held", BASE) as sandbox:
        sandbox.exec(NATIVE + "import socket\nown = socket.socket(1)\nown.bind('own')\nown.listen()")
        with inside.workspace_directory(sandbox) as directory, locked(directory):
            assert sandbox.eval("call('connect', 'none')", timeout=10) == (-1, 2)
            assert sandbox.eval("call('connect', 'own')", timeout=10) == (0, 0)
            assert sandbox.eval("call('connect', 'own/x')", timeout=10) == (-1, 20)


@pytest.mark.parametrize("why", ["no processes", "a network", "a directory of the host's", "a denial"])
def test_where_there_are_none(supervisor: pyisolate.Supervisor, hosts: Path, why: str) -> None:
    policies = {
        "no processes": ALONE,
        "a network": BASE.allow_connect("127.0.0.1:9"),
        "a denial": BASE.deny("net.connect", "unix:/sandbox/workspace/denied"),  # it was connected to as ./denied
    }
    policy = policies.get(why, BASE)
    given = hosts.parent if why.startswith("a directory") else None
    with supervisor.spawn("none", policy, workspace=given) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("import socket\nsocket.socket(socket.AF_UNIX).bind('a')")
        sandbox.exec(NATIVE)
        assert sandbox.eval("call('bind', 'a')") in ((-1, 13), (-1, 9))  # or there was no socket to bind
        if given is not None:
            assert sandbox.eval("call('connect', 'sock')") == (-1, 13)
    assert sorted(os.listdir(hosts.parent)) == ["sock"]


def test_a_reload_leaves_a_directory_of_the_hosts_one(supervisor: pyisolate.Supervisor, hosts: Path) -> None:
    with supervisor.spawn("given", BASE, workspace=hosts.parent) as sandbox:
        sandbox.reload_policy(BASE.with_limits(wall="20s"))
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec("import socket\nsocket.socket(socket.AF_UNIX).bind('a')")
        event = caught.value.denial_event
        assert event is not None
        assert event.broker_decision is Verdict.DENY  # the listener refuses it: the broker granted nothing
    assert os.listdir(hosts.parent) == ["sock"]


def test_a_policy_says_so() -> None:
    own = "unix:/sandbox/workspace/a"
    assert explain(BASE, "net.bind", own).code is None
    assert explain(BASE, "net.connect", own).code is None
    assert explain(BASE, "net.connect", "unix:/run/docker.sock").code is not None
    assert explain(ALONE, "net.connect", own).code is not None
    assert explain(BASE.allow_connect("127.0.0.1:9"), "net.bind", own).code is not None
    for denied in ("/sandbox/workspace/b", "/tmp/b", "/dev/shm/b"):
        assert explain(BASE.deny("net.connect", f"unix:{denied}"), "net.bind", own).code is not None
    assert explain(BASE.deny("net.connect", "unix:/run/b"), "net.bind", own).code is None


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_datagram_by_a_relative_name_is_one_event_of_the_whole_one(
    supervisor: pyisolate.Supervisor, mode: str
) -> None:
    policy = pyisolate.Policy.preset("compute").allow_fork().with_mode(mode)
    with supervisor.spawn("datagrams", policy) as sandbox:
        sandbox.exec("import socket; one, two = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))")
        sandbox.exec("one.bind('q')")
        assert sandbox.get_denial_events() == []  # the control
        sandbox.exec("try: two.sendto(b'x', 'q')\nexcept PermissionError: pass")
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.count) == ("net.send", "unix:/sandbox/workspace/q", 1)
        assert "allow" not in (event.broker_decision, event.kernel_decision)
