"""Files: every hook allows what is granted, refuses what is not, and refuses everything after the sandbox's end."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.policy.compiled import NetAction, NetRule
from tests.vm.inside.guests import Guest, policy

Make = Callable[..., Guest]


def test_reading_is_decided_by_path(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}))
    assert one.allowed(f"open('{files}/granted/f').read()") == "'granted'"
    record = one.refused(f"open('{files}/secret/f').read()")
    assert record.capability is Capability.FS_READ
    assert record.target == f"{files}/secret/f"
    assert record.hook == "file_open"
    assert record.verdict is Verdict.DENY
    assert record.code is DenialCode.SCOPE_INSUFFICIENT
    assert record.syscall == "openat"
    assert record.pid == one.pid


def test_the_host_is_not_confined(guest: Make, files: Path) -> None:
    one = guest(policy({}))
    one.refused(f"open('{files}/granted/f')")
    assert (files / "granted/f").read_text() == "granted"


@pytest.mark.parametrize(
    ("right", "expression", "capability"),
    [
        ("r", "open('{d}/f').close()", Capability.FS_READ),
        (
            "w",
            "open('{d}/f', 'r+b', buffering=0).close() if 0 else os.close(os.open('{d}/f', os.O_WRONLY))",
            Capability.FS_WRITE,
        ),
        ("w", "os.truncate('{d}/f', 1)", Capability.FS_WRITE),
        ("wc", "os.close(os.open('{d}/new', os.O_WRONLY | os.O_CREAT))", Capability.FS_CREATE),
        ("c", "os.mkdir('{d}/folder')", Capability.FS_CREATE),
        ("c", "os.symlink('/etc/shadow', '{d}/link')", Capability.FS_CREATE),
        ("c", "os.mkfifo('{d}/fifo')", Capability.FS_CREATE),
        ("d", "os.unlink('{d}/f')", Capability.FS_DELETE),
        ("d", "os.rmdir('{d}/empty')", Capability.FS_DELETE),
        ("m", "os.chmod('{d}/f', 0o600)", Capability.FS_METADATA),
        ("m", "os.chown('{d}/f', 0, 0)", Capability.FS_METADATA),
        ("m", "os.utime('{d}/f', (1, 1))", Capability.FS_METADATA),
        ("m", "os.setxattr('{d}/f', 'system.posix_acl_access', ACL)", Capability.FS_METADATA),
        ("r", "os.listdir('{d}')", Capability.FS_READ),
    ],
)
def test_each_operation_needs_its_right(
    guest: Make, files: Path, right: str, expression: str, capability: Capability
) -> None:
    for name in ("granted", "secret"):
        (files / name / "empty").mkdir()
    other = "".join(set("rwcdm") - set(right))
    one = guest(policy({files / "granted": right, files / "secret": other}))
    one.does("globals().update(ACL=struct.pack('<IHHIHHIHHI', 2, 1, 6, 2**32-1, 4, 4, 2**32-1, 32, 4, 2**32-1))")
    one.allowed(expression.format(d=files / "granted"))
    record = one.refused(expression.format(d=files / "secret"))
    assert record.capability is capability
    assert record.target.startswith(f"{files}/secret")
    for name in ("new", "folder", "link", "fifo"):  # undone, so that nothing but the end stands in the way
        subprocess.run(["rm", "-rf", files / "granted" / name], check=True)
    (files / "granted/f").write_text("again")
    (files / "granted/empty").mkdir(exist_ok=True)
    one.lsm.detach(one.sandbox_id)
    assert one.does(expression.format(d=files / "granted")) in (errno.EPERM, errno.EACCES)


def test_reading_does_not_grant_to_empty_a_file_by_opening_it(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r", files / "secret": "rw"}))
    record = one.refused(f"os.open('{files}/granted/f', os.O_RDONLY | os.O_TRUNC)")
    assert record.capability is Capability.FS_WRITE
    assert (files / "granted/f").read_text() == "granted"
    one.allowed(f"os.open('{files}/secret/f', os.O_RDONLY | os.O_TRUNC)")
    assert not (files / "secret/f").read_text()


def test_rename_needs_delete_and_create(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "rcd", files / "secret": "r"}))
    one.allowed(f"os.rename('{files}/granted/f', '{files}/granted/g')")
    assert one.refused(f"os.rename('{files}/secret/f', '{files}/secret/g')").capability is Capability.FS_DELETE
    assert one.refused(f"os.rename('{files}/granted/g', '{files}/secret/h')").capability is Capability.FS_CREATE


def test_no_new_name_widens_rights(guest: Make, files: Path) -> None:
    (files / "open").mkdir()
    one = guest(policy({files / "granted": "cd", files / "open": "rwcd"}))
    record = one.refused(f"os.link('{files}/granted/f', '{files}/open/f')")
    assert "rights that the old one lacks" in record.reason
    one.refused(f"os.rename('{files}/granted/f', '{files}/open/f')")
    one.allowed(f"os.link('{files}/granted/f', '{files}/granted/g')")


def test_a_directory_with_rules_below_keeps_its_name(guest: Make, files: Path) -> None:
    (files / "granted/in/private").mkdir(parents=True)
    one = guest(policy({files / "granted": "rwcd"}, {files / "granted/in/private": "r"}))
    one.refused(f"os.rename('{files}/granted/in', '{files}/granted/out')")
    one.allowed(f"os.mkdir('{files}/granted/other')")
    one.allowed(f"os.rename('{files}/granted/other', '{files}/granted/else')")


def test_the_longest_rule_decides_on_whole_components(guest: Make, files: Path) -> None:
    for name in ("granted/private", "granted/private/open", "granted-not"):
        (files / name).mkdir()
        (files / name / "f").write_text(name)
    one = guest(policy({files / "granted": "r", files / "granted/private/open": "r"}, {files / "granted/private": "r"}))
    one.allowed(f"open('{files}/granted/f')")
    assert one.refused(f"open('{files}/granted/private/f')").code is DenialCode.EXPLICIT_DENY
    one.allowed(f"open('{files}/granted/private/open/f')")
    one.refused(f"open('{files}/granted-not/f')")
    one.refused(f"open('{files}/granted/../secret/f')")


def test_links_are_judged_by_what_they_reach(guest: Make, files: Path) -> None:
    (files / "granted/link").symlink_to(files / "secret/f")
    (files / "secret/back").symlink_to(files / "granted/f")
    one = guest(policy({files / "granted": "r"}))
    assert one.refused(f"open('{files}/granted/link')").target == f"{files}/secret/f"
    one.allowed(f"open('{files}/secret/back')")


def test_looking_is_allowed_on_the_way_to_a_grant_only(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}))
    one.allowed(f"os.stat('{files}/granted/f')")
    one.allowed(f"os.stat('{files}')")
    one.allowed("os.stat('/')")
    assert one.refused(f"os.stat('{files}/secret/f')", errno.ENOENT).capability is Capability.FS_LOOKUP
    one.refused(f"os.listdir('{files}')")


def test_a_long_path_is_judged_by_its_start(guest: Make, files: Path) -> None:
    for top in ("granted", "secret"):
        deep = files / top
        for _ in range(12):
            deep = deep / ("d" * 60)
        deep.mkdir(parents=True)
        (deep / "f").write_text("deep")
    tail = "/".join(["d" * 60] * 12) + "/f"
    one = guest(policy({files / "granted": "rd"}))
    one.allowed(f"open('{files}/granted/{tail}')")
    assert one.refused(f"open('{files}/secret/{tail}')").target == f"{files}/secret/{tail}"
    one.allowed(f"os.unlink('{files}/granted/{tail}')")
    assert one.refused(f"os.unlink('{files}/secret/{tail}')").target == f"{files}/secret/{tail}"


def test_a_path_too_deep_is_refused(guest: Make, files: Path) -> None:
    deep = files / "granted"
    for _ in range(140):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "f").write_text("deep")
    one = guest(policy({files / "granted": "rd"}))
    for change in (f"os.unlink('{deep}/f')", f"os.utime('{deep}/f', (1, 1))"):
        assert "too long or too deep" in one.refused(change).reason


def test_a_deleted_file_keeps_the_name_it_had(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "rwd"}))
    one.allowed(f"kept.update(f=open('{files}/granted/f'))")
    one.allowed(f"os.unlink('{files}/granted/f')")
    one.does("kept['f'].read()")


def test_tmpfile_without_a_name_is_judged_by_its_folder(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "rwc"}))
    one.allowed(f"os.close(os.open('{files}/granted', os.O_TMPFILE | os.O_RDWR, 0o600))")
    one.refused(f"os.close(os.open('{files}/secret', os.O_TMPFILE | os.O_RDWR, 0o600))")


def test_another_mount_of_a_granted_folder_is_another_path(guest: Make, files: Path) -> None:
    (files / "other").mkdir()
    subprocess.run(["mount", "--bind", files / "granted", files / "other"], check=True)
    try:
        one = guest(policy({files / "granted": "r"}))
        one.allowed(f"open('{files}/granted/f')")
        assert one.refused(f"open('{files}/other/f')").target == f"{files}/other/f"
    finally:
        subprocess.run(["umount", files / "other"], check=True)


def test_a_descriptor_of_a_detached_tree_leads_nowhere(guest: Make, files: Path) -> None:
    """A tree without a place in the task's own has names that mean something else."""
    one = guest(policy({"/": "r"}), cell=["unshare", "-m"])
    one.allowed(f"open('{files}/granted/f')")
    two = Guest(one.lsm, one.recorder)
    try:
        two.does(f"kept.update(d=raw(428, -100, b'{files}/secret', 1))")  # open_tree(OPEN_TREE_CLONE), while free
        two.confine(policy({"/": "r"}))
        two.allowed(f"open('{files}/secret/f')")
        record = two.refused("os.open('f', os.O_RDONLY, dir_fd=kept['d'])")
        assert "not below the sandbox's root" in record.reason
    finally:
        two.close()


def test_a_cell_below_another_root_sees_its_own_names(lsm, recorder, guest: Make, files: Path) -> None:
    """A chroot into a detached copy of a tree: names count from the task's root."""
    root = files / "root"
    (root / "srv/granted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root], check=True)
    try:
        (root / "srv/granted").mkdir(parents=True)
        (root / "srv/granted/f").write_text("inside")
        (root / "srv/f").write_text("outside the grant")
        one = Guest(lsm, recorder)
        tree = f"raw(428, -100, b'{root}', 1)"
        one.does(f"[os.fchdir({tree}), os.chroot('.'), os.chdir('/')]")
        one.confine(policy({"/srv/granted": "rwcd"}))
        assert one.allowed("open('/srv/granted/f').read()") == "'inside'"
        assert one.refused("open('/srv/f')").target == "/srv/f"
        one.allowed("os.mkdir('/srv/granted/new')")
        assert one.refused("os.mkdir('/srv/new')").target == "/srv/new"
        one.allowed("os.unlink('/srv/granted/f')")
        one.close()
    finally:
        subprocess.run(["umount", "-l", root], check=True)


def test_an_overlay_is_judged_by_the_path_that_users_see(guest: Make) -> None:
    """/tmp is an overlay in this machine: its layers' own paths never count."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name, "granted").mkdir()
        Path(name, "granted/f").write_text("over")
        Path(name, "f").write_text("lay")
        one = guest(policy({f"{name}/granted": "rwcdm"}))
        one.allowed(f"open('{name}/granted/f', 'a').write('x')")
        one.allowed(f"os.rename('{name}/granted/f', '{name}/granted/g')")
        one.allowed(f"os.utime('{name}/granted/g')")
        assert one.refused(f"open('{name}/f')").target == f"{name}/f"


_MANY_MOUNTS = """
import ctypes, sys
call, path = ctypes.CDLL(None).mount, sys.argv[1].encode()
for _ in range(40):
    assert call(path, path, None, 4096, None) == 0
print("mounted", flush=True)
sys.stdin.read()
"""


def test_mounts_of_others_are_no_names_of_a_file(guest: Make, files: Path) -> None:
    command = ["unshare", "-m", sys.executable, "-I", "-S", "-c", _MANY_MOUNTS, str(files)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mounted\n"
        one = guest(policy({files / "granted": "rm"}))
        one.allowed(f"os.utime('{files}/granted/f', (1, 1))")
        one.refused(f"os.utime('{files}/secret/f', (1, 1))")
        other.communicate()


def test_descriptors_received_are_judged(lsm, recorder, files: Path) -> None:
    ours, theirs = socket.socketpair()
    one = Guest.__new__(Guest)
    theirs.set_inheritable(True)
    Guest.__init__(one, lsm, recorder, keep=[theirs.fileno()])
    try:
        one.does(f"kept.update(s=socket.socket(fileno={theirs.fileno()}))")
        one.confine(policy({files / "granted": "r"}))
        for name, expected in (("granted", None), ("secret", errno.EACCES)):
            with open(files / name / "f") as file:
                socket.send_fds(ours, [b"x"], [file.fileno()])
            got = one.does("len(socket.recv_fds(kept['s'], 1, 4)[1])")
            # the kernel closes what is refused on the way and delivers the message without it
            assert got == ("1" if expected is None else "0"), (name, got)
        assert recorder.of(one.sandbox_id)[-1].hook == "file_receive"
    finally:
        one.close()
        ours.close()
        theirs.close()


def test_unix_sockets_are_made_by_bind_rules(guest: Make, files: Path) -> None:
    rule = NetRule(action=NetAction.BIND, unix_path=f"{files}/granted/s", text="net: s")
    one = guest(policy({}, None, rule))
    one.allowed(f"kept.update(s=socket.socket(socket.AF_UNIX)) or kept['s'].bind('{files}/granted/s')")
    record = one.refused(f"socket.socket(socket.AF_UNIX).bind('{files}/granted/t')")
    assert (record.capability, record.target) == (Capability.NET_BIND, f"unix:{files}/granted/t")


def test_monitor_mode_lets_through_and_records(guest: Make, files: Path) -> None:
    from pyisolate.decision import Mode

    one = guest(policy({files / "granted": "r"}, mode=Mode.MONITOR))
    assert one.does(f"open('{files}/secret/f').read()") == "'secret'"
    record = recorder_last(one)
    assert record.verdict is Verdict.WOULD_DENY
    assert record.errno == 0
    one.refused("os.mkdir('/x') if 0 else os.chroot('/')", errno.EPERM)  # the floor is never only watched


def test_a_shadow_policy_records_what_it_would_refuse(guest: Make, files: Path) -> None:
    one = guest(policy({files: "r"}), policy({files / "granted": "r"}))
    one.allowed(f"open('{files}/granted/f')")
    assert one.does(f"open('{files}/secret/f').read()") == "'secret'"
    assert recorder_last(one).verdict is Verdict.WOULD_DENY
    counts = one.lsm.shared.counters(one.sandbox_id)
    assert counts
    assert all(count.shadow for count in counts)


def recorder_last(one: Guest):
    return one.recorder.of(one.sandbox_id)[-1]


def test_notify_and_ioctl(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}))
    one.allowed("kept.update(i=libc.inotify_init())")
    one.allowed(f"raw(254, kept['i'], b'{files}/granted', 2)")
    one.refused(f"raw(254, kept['i'], b'{files}/secret', 2)")
    assert one.refused("fcntl.ioctl(0, 0x5412, b'x')", errno.EPERM).capability is Capability.KERNEL_IOCTL


def test_policy_of_the_sandbox_counts_for_threads_and_children(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}, allow_fork=True))
    one.allowed(f"thread(lambda: open('{files}/granted/f').read())")
    one.allowed(f"child(lambda: open('{files}/granted/f').read())")
    one.refused(f"thread(lambda: open('{files}/secret/f'))")
    record = one.refused(f"child(lambda: open('{files}/secret/f'))")
    assert record.pid != one.pid
    one.refused(f"child(lambda: child(lambda: open('{files}/secret/f')))")


def test_nothing_is_allowed_after_the_end(guest: Make, files: Path) -> None:
    one = guest(policy({"/": "rwcdm"}, allow_fork=True))
    one.allowed(f"open('{files}/granted/f')")
    one.allowed("child(lambda: None)")
    one.lsm.detach(one.sandbox_id)
    for expression in (
        f"open('{files}/granted/f')",
        "child(lambda: None)",
        f"os.mkdir('{files}/x')",
        "socket.socket()",
    ):
        assert one.does(expression) in (errno.EPERM, errno.EACCES), expression
    assert os.path.exists(files / "granted/f")
