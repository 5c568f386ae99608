"""Process set-up in namespaces, as root and as an ordinary user."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyisolate.native import mount, process
from tests.in_child import NOBODY, become, in_child, outcome
from tests.require import require

CELL = (
    process.CLONE_NEWUSER
    | process.CLONE_NEWPID
    | process.CLONE_NEWNS
    | process.CLONE_NEWIPC
    | process.CLONE_NEWUTS
    | process.CLONE_NEWNET
)


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    require("namespaces", outcome(lambda: in_child(lambda: 0, flags=CELL)) == "ok", "no user namespaces here")


@pytest.fixture(params=["root", "user"])
def as_user(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Run a function in a process of this uid."""
    if request.param == "root":
        require("root", os.geteuid() == 0, "this run is not root")
        return in_child
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()

    def run(function: Callable[[], Any]) -> Any:
        def body() -> Any:
            become(uid)
            return function()

        return in_child(body)

    return run


def test_a_cell_is_process_one_with_its_own_identity_name_and_network(as_user: Callable[[Callable[[], Any]], Any]):
    def cell() -> list[Any]:
        process.set_hostname("cell")
        return [os.getpid(), [os.getuid(), os.getgid()], socket.gethostname(), socket.if_nameindex()]

    def body() -> list[Any]:
        return [os.getuid(), os.getgid(), *in_child(cell, flags=CELL)]

    uid, gid, pid, ids, name, interfaces = as_user(body)
    assert (pid, ids, name, interfaces) == (1, [uid, gid], "cell", [[1, "lo"]])
    assert socket.gethostname() != "cell"


def test_loopback_is_down_until_it_is_brought_up(as_user: Callable[[Callable[[], Any]], Any]):
    def connect() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.connect(server.getsockname())

    def cell() -> list[str]:
        before = outcome(connect)
        process.bring_up_loopback()
        return [before, outcome(connect)]

    assert as_user(lambda: in_child(cell, flags=CELL)) == ["ENETUNREACH", "ok"]


def test_setgroups_is_refused_in_the_new_user_namespace(as_user: Callable[[Callable[[], Any]], Any]):
    assert as_user(lambda: in_child(lambda: outcome(lambda: os.setgroups([])), flags=CELL)) == "EPERM"


def test_what_capabilities_allowed_is_refused_once_they_are_dropped(as_user: Callable[[Callable[[], Any]], Any]):
    def cell() -> list[Any]:
        def hostname() -> None:
            process.set_hostname("again")

        before = outcome(hostname)
        bounding_emptied = process.drop_all_capabilities()
        return [before, bounding_emptied, outcome(hostname), outcome(lambda: os.chroot("/"))]

    assert as_user(lambda: in_child(cell, flags=CELL)) == ["ok", True, "EPERM", "EPERM"]


def test_a_child_is_born_in_the_given_cgroup(tmp_path: Path):
    root = next((Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()
                 if line.split()[2] == "cgroup2"), None)  # fmt: skip
    require("cgroup2", root is not None and os.access(root, os.W_OK), "no writable cgroup v2 here")
    assert root is not None
    own = root / f"pyisolate-test-{os.getpid()}"
    own.mkdir()
    fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    try:
        pid, pidfd = process.clone_cell(0, fd)
        if pid == 0:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
            os._exit(0 if f"0::/{own.name}" in lines else 1)
        assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == 0
        os.close(pidfd)
    finally:
        os.close(fd)
        own.rmdir()


def test_a_descriptor_of_a_child_can_be_duplicated():
    reader, writer = os.pipe()
    pid, pidfd = process.clone_cell(0)
    if pid == 0:
        process.set_dumpable(True)
        fd = os.memfd_create("shared")
        os.write(fd, b"from the child")
        os.write(writer, bytes([fd]))
        signal.pause()
        os._exit(0)
    theirs = os.read(reader, 1)[0]
    ours = process.pidfd_getfd(pidfd, theirs)
    try:
        assert os.pread(ours, 20, 0) == b"from the child"
        assert not os.get_inheritable(ours)
    finally:
        process.pidfd_send_signal(pidfd, 9)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        for fd in (ours, pidfd, reader, writer):
            os.close(fd)


def test_a_tmpfs_is_mounted_and_entered_by_descriptor_alone(as_user: Callable[[Callable[[], Any]], Any]):
    def cell() -> list[Any]:
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
        tree = mount.new_tmpfs({"size": "64k", "mode": "0755"}, mount.MOUNT_ATTR_NOSUID)
        mount.move_mount(tree, "/")
        os.fchdir(tree)
        os.mkdir("inside")
        mount.mount_setattr(tree, mount.MOUNT_ATTR_RDONLY)
        detached = mount.open_tree(dirfd=tree, recursive=True)
        mount.umount2(".", mount.MNT_DETACH)
        mount.enter_root(detached)
        return [os.listdir("/"), outcome(lambda: os.mkdir("/more"))]

    assert as_user(lambda: in_child(cell, flags=CELL)) == [["inside"], "EROFS"]


def test_openat2_stays_where_it_is_told(tmp_path: Path):
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "etc").mkdir()
    assert outcome(lambda: mount.openat2(f"{tmp_path}/link", os.O_PATH, mount.RESOLVE_NO_SYMLINKS)) == "ELOOP"
    root = os.open(tmp_path, os.O_PATH)
    found = mount.openat2("link", os.O_PATH, mount.RESOLVE_IN_ROOT, dirfd=root)
    try:
        assert os.path.samestat(os.fstat(found), (tmp_path / "etc").stat())
    finally:
        os.close(found)
        os.close(root)
