"""What the file enforcer says to a call that the listener only watched."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.errors import SandboxClosed
from pyisolate.kernel.observed_files import WatchedFiles, let_through
from pyisolate.kernel.seen_names import SeenNames
from pyisolate.policy import Policy, compile_policy, workspace
from pyisolate.policy.compiled import CompiledPolicy
from pyisolate.policy.searched import Searched
from pyisolate.records import Evaluation, KernelRecord
from tests.waiting import until


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = Path(os.path.realpath(tmp_path))
    for name in ("granted", "other"):
        (root / name).mkdir()
        (root / name / "file").write_text("x")
    (root / "alias").symlink_to(root / "granted")
    (root / "granted" / "out").symlink_to(root / "other" / "file")
    return root


@pytest.fixture
def policy(tree: Path) -> CompiledPolicy:
    return compile_policy(Policy.preset("none").allow_read(tree / "granted").allow_write(tree / "granted"))


def seen(
    target: object, capability: Capability = Capability.FS_READ, syscall: str = "openat", flags: int | None = None
) -> KernelRecord:
    writes = capability is not Capability.FS_READ and syscall == "openat"
    return KernelRecord(
        sandbox_id="s",
        enforcer="seccomp-notify",
        hook=f"seccomp:{syscall}",
        capability=capability,
        target=str(target),
        verdict=Verdict.ALLOW,
        syscall=syscall,
        flags=flags if flags is not None else (os.O_WRONLY | os.O_CREAT) * writes,
    )


def judged(policy: CompiledPolicy, *args: Any, **kwargs: Any) -> KernelRecord:
    (record,) = WatchedFiles().judge(seen(*args, **kwargs), policy)
    return record


def test_what_is_granted_stays_as_it_is(tree: Path, policy: CompiledPolicy) -> None:
    record = seen(tree / "granted/file")
    assert WatchedFiles().judge(record, policy) == [record]


def test_what_is_not_granted_is_a_denial_with_its_reason(tree: Path, policy: CompiledPolicy) -> None:
    record = judged(policy, tree / "other/file")
    assert (record.verdict, record.code) == (Verdict.DENY, DenialCode.SCOPE_INSUFFICIENT)
    assert record.evaluation is Evaluation.PROBED
    assert record.enforcer == "landlock"
    assert str(tree / "granted") in (record.presented or "")


def test_a_refused_file_that_is_gone_by_now_is_named_where_the_guest_may_remove(tree: Path) -> None:
    """By the word of the guest's C library; what never was there is no refusal, and elsewhere its word does not do."""
    policy = compile_policy(Policy.preset("none").allow_write(tree / "granted"))
    for folder, error, denied in (
        ("granted", errno.EACCES, True),
        ("granted", errno.ENOENT, False),
        ("granted", 0, False),
        ("other", errno.EACCES, False),
    ):
        record = msgspec.structs.replace(seen(tree / folder / "gone"), refused=error)
        (found,) = WatchedFiles().judge(record, policy)
        assert (found.verdict is Verdict.DENY) is denied, (folder, error)
        assert found.target == str(tree / folder / "gone")
    link = tree / "granted/link"
    link.symlink_to("nowhere")  # it took the place of what was refused: else the kernel had said ELOOP
    record = msgspec.structs.replace(seen(link, flags=os.O_NOFOLLOW), refused=errno.EACCES)
    (found,) = WatchedFiles().judge(record, policy)
    assert (found.verdict, found.target) == (Verdict.DENY, str(link))


def test_names_are_followed_both_ways(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, tree / "alias/file").verdict is Verdict.ALLOW
    assert judged(policy, tree / "granted/out").verdict is Verdict.DENY


def test_a_call_about_a_name_does_not_follow_it(tree: Path, policy: CompiledPolicy) -> None:
    made = judged(policy, tree / "granted/out", Capability.FS_CREATE, "symlink")
    assert made.verdict is Verdict.ALLOW
    removed = judged(policy, tree / "granted/gone", Capability.FS_DELETE, "unlink")
    assert removed.verdict is Verdict.ALLOW
    elsewhere = judged(policy, tree / "other/new", Capability.FS_CREATE, "mkdir")
    assert (elsewhere.verdict, elsewhere.capability) == (Verdict.DENY, Capability.FS_CREATE)


def test_creating_what_is_there_is_writing(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, tree / "other/file", Capability.FS_CREATE).capability is Capability.FS_WRITE
    assert judged(policy, tree / "other/new", Capability.FS_CREATE).capability is Capability.FS_CREATE


def test_what_is_not_there_is_no_refusal(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, tree / "other/none").verdict is Verdict.ALLOW


def test_a_directory_that_imports_search_is_not_refused_to_be_listed(tree: Path, policy: CompiledPolicy) -> None:
    def listed(*searched: str) -> Verdict:
        (record,) = WatchedFiles().judge(seen(tree / "other"), policy, Searched(searched))
        return record.verdict

    assert listed() is Verdict.DENY
    assert listed(str(tree / "other")) is Verdict.ALLOW
    assert judged(policy, tree / "other/file").verdict is Verdict.DENY


def test_relative_names_and_other_records_are_left_alone(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, "other/file").verdict is Verdict.ALLOW
    assert judged(policy, "10.0.0.1:80", Capability.NET_CONNECT, "connect").verdict is Verdict.ALLOW


def test_in_monitor_mode_it_says_what_enforcing_would_have_done(tree: Path) -> None:
    monitored = compile_policy(Policy.preset("none").allow_read(tree / "granted").with_mode(Mode.MONITOR))
    record = judged(monitored, tree / "other/file")
    assert (record.verdict, record.code) == (Verdict.WOULD_DENY, DenialCode.SCOPE_INSUFFICIENT)
    assert judged(monitored, tree / "granted/file").verdict is Verdict.ALLOW


def test_names_in_a_workspace_are_looked_up_in_it(tree: Path) -> None:
    own, mine = tree / "own", workspace.HOME
    (own / "d").mkdir(parents=True)
    (own / "file").write_text("x")
    for name, target in (("out", "/etc/passwd"), ("in", "file"), ("up", "../" * 9), ("lead", "/dev/shm/file")):
        (own / name).symlink_to(target)
    compiled = compile_policy(Policy.preset("none").with_workspace("1MiB"))

    @contextlib.contextmanager
    def lent(path: str) -> Iterator[tuple[int, str]]:
        descriptor = os.open(own, os.O_PATH)
        try:
            yield descriptor, path[len(mine) + 1 :] or "."
        finally:
            os.close(descriptor)

    def refused(target: str, syscall: str = "openat", other: object = "") -> list[tuple[str, str]]:
        record = msgspec.structs.replace(seen(target, syscall=syscall, flags=os.O_RDONLY), other=str(other))
        found = WatchedFiles().judge(record, compiled, own=lent)
        return [(one.capability, one.target) for one in found if one.code]

    outside = "/etc/passwd"
    assert refused(f"{mine}/file") == refused(f"{mine}/in") == refused(f"{mine}/lead") == refused("/dev/shm/in") == []
    assert refused(f"{mine}/out") == refused("/dev/shm/out") == [("fs.read", outside)]
    assert refused(f"{mine}/up{outside}") == refused(f"{mine}/../..{outside}") == [("fs.read", outside)]
    assert refused(f"{mine}/file", "rename", f"{mine}/d/new") == refused(f"{mine}/none") == []
    assert refused(f"{mine}/file", "rename", "/etc/new") == [("fs.create", "/etc/new")]
    assert refused(outside, "link", f"{mine}/d/new") == [("fs.read", outside)]
    assert refused(outside, "link", f"{mine}/none/new") == []

    @contextlib.contextmanager
    def closed(_path: str) -> Iterator[tuple[int, str]]:
        raise SandboxClosed("gone")
        yield 0

    record = seen(f"{mine}/out")
    assert WatchedFiles().judge(record, compiled, own=closed) == [record]


def test_brokers_are_kept_by_version_and_bounded(tree: Path) -> None:
    watched = WatchedFiles()
    for number in range(100):
        compiled = compile_policy(Policy.preset("none").allow_read(tree / str(number)))
        watched.judge(seen(tree / "other/file"), compiled)
    assert len(watched._brokers) <= 64


def test_a_name_of_an_own_descriptor_is_judged_by_its_file(tree: Path, policy: CompiledPolicy) -> None:
    """And named as hooks name it: they ask about names in /proc, and not about those in /dev, which no rule reaches."""

    def through(name: str, file: object) -> KernelRecord:
        record = msgspec.structs.replace(seen(name, Capability.FS_WRITE), other=str(file))
        (found,) = WatchedFiles().judge(record, policy)
        return found

    refused = through("/proc/self/fd/3", tree / "other/file")
    assert (refused.verdict, refused.target) == (Verdict.DENY, "/proc/self/fd/3")
    for name in ("/dev/fd/3", "/dev/stdin"):
        refused = through(name, tree / "other/file")
        assert (refused.verdict, refused.target) == (Verdict.DENY, str(tree / "other/file"))
        assert through(name, tree / "granted/file").verdict is Verdict.ALLOW
    assert through("/proc/self/fd/3", tree / "granted/file").verdict is Verdict.ALLOW
    assert through("/proc/self/fd/3", "pipe:[1]").verdict is Verdict.ALLOW
    assert through("/proc/self/fd/3", "").verdict is Verdict.ALLOW, "not known: its own"


@pytest.mark.parametrize("name", ["/proc/1/root/etc/passwd", "/proc/self/environ", "/proc/1/./fd//1"])
def test_what_lies_below_a_task_is_named_as_it_was_asked_for(policy: CompiledPolicy, name: str) -> None:
    """This process's own /proc would tell of its own files, and of other tasks by other numbers."""
    record = judged(policy, name)
    if os.path.lexists(name):
        assert record.verdict is Verdict.DENY
        assert record.target == name.replace("/./", "/").replace("//", "/")


@pytest.mark.parametrize("name", ["granted/../other/file", "alias/../other/file", "granted/out", "alias/./file"])
def test_links_are_followed_as_the_kernel_does(tree: Path, name: str) -> None:
    followed = SeenNames().followed
    assert followed(f"{tree}/{name}") == os.path.realpath(tree / name)
    (tree / "loop").symlink_to(tree / "loop")
    assert followed(f"{tree}/loop/x").startswith(str(tree))
    assert followed("/proc/self/../version") == "/proc/version"


def test_the_first_line_is_read_of_a_file_and_of_nothing_else(tree: Path) -> None:
    """A guest may put a FIFO where its script was: to open that for reading lets go on who waits to write there."""
    script, fifo = tree / "granted" / "script", tree / "granted" / "fifo"
    script.write_text("#! /bin/sh -e\n")
    os.mkfifo(fifo)
    opened = threading.Event()

    def write() -> None:
        os.close(os.open(fifo, os.O_WRONLY))
        opened.set()

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: Path(f"/proc/self/task/{writer.native_id}/syscall").read_text() != "running\n")
    try:
        assert SeenNames().interpreter(str(script)) == "/bin/sh"
        assert SeenNames().interpreter(str(fifo)) is None
        assert not opened.wait(0.2)
    finally:
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        writer.join()


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (os.O_RDONLY, [Capability.FS_READ]),
        (os.O_WRONLY, [Capability.FS_WRITE]),
        (os.O_RDWR, [Capability.FS_WRITE, Capability.FS_READ]),
        (os.O_RDONLY | os.O_TRUNC, [Capability.FS_WRITE, Capability.FS_READ]),
        (os.O_RDWR | os.O_CREAT | os.O_EXCL, [Capability.FS_CREATE, Capability.FS_WRITE, Capability.FS_READ]),
    ],
)
def test_an_opening_call_asks_as_hooks_do(tree: Path, flags: int, wanted: list[Capability]) -> None:
    """One call is one denial, which names what else it needs. O_EXCL: what is there now was made by this call."""
    record = seen(tree / "other/file", flags=flags)
    enforced = WatchedFiles().judge(record, compile_policy(Policy.preset("none")), sealed=True)
    monitored = WatchedFiles().judge(record, compile_policy(Policy.preset("none").with_mode(Mode.MONITOR)))
    for (one,) in (enforced, monitored):
        assert [one.capability, *[capability for capability, _ in one.also]] == wanted


def test_an_open_for_neither_reading_nor_writing_is_refused_where_the_file_is_hidden_alone(tree: Path) -> None:
    """Access mode 3 (open(2)): Linux gives a descriptor for ioctl(2), and nothing asks a right of it."""
    policy = Policy.preset("none").allow_read(tree / "granted")
    for mode, denied in ((Mode.ENFORCE, Verdict.DENY), (Mode.MONITOR, Verdict.WOULD_DENY)):
        compiled = compile_policy(policy.with_mode(mode))
        for name, flags, wanted in (
            ("granted/file", os.O_ACCMODE, Verdict.ALLOW),
            ("granted/file", os.O_ACCMODE | os.O_TRUNC, denied),
            ("granted/file", os.O_RDWR, denied),
            ("granted/new", os.O_ACCMODE | os.O_CREAT, denied),
            ("other/file", os.O_ACCMODE, denied),
        ):
            (record,) = WatchedFiles().judge(seen(tree / name, flags=flags), compiled, sealed=True)
            assert record.verdict is wanted, (mode, name, flags)


def test_a_granted_device_is_refused_where_mounts_have_none() -> None:
    """A root view mounts what is granted nodev, but for the devices that it shows."""
    compiled = compile_policy(Policy.preset("none").allow_read("/dev"))
    devices = [one for one in ("/dev/ptmx", "/dev/fuse", "/dev/hwrng") if os.path.exists(one)]
    assert devices
    for name, sealed, wanted in (
        *((one, True, Verdict.DENY) for one in devices),
        (devices[0], False, Verdict.ALLOW),
        ("/dev/null", True, Verdict.ALLOW),
    ):
        (record,) = WatchedFiles().judge(seen(name), compiled, sealed=sealed)
        assert record.verdict is wanted, (name, sealed)
        said = (record.code, record.target, record.enforcer, record.errno)
        assert wanted is Verdict.ALLOW or said == (DenialCode.SCOPE_INSUFFICIENT, name, "root view", errno.EACCES)
    (looked,) = WatchedFiles().judge(seen(devices[0], flags=os.O_PATH), compiled, sealed=True)
    assert looked.verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("other/file", True),
        ("granted/out", True),  # a link that leads out: what it leads to is missing
        ("granted/file", False),
        (".", False),  # on the way to a grant
        ("other/none", False),
        ("searched/module", False),
    ],
)
def test_a_look_up_is_refused_where_something_is_there_and_nothing_of_it_granted(
    tree: Path, policy: CompiledPolicy, name: str, found: bool
) -> None:
    (tree / "searched").mkdir()
    (tree / "searched/module").write_text("x")
    look = seen(tree / name, Capability.FS_LOOKUP, "newfstatat")
    for record in (look, seen(tree / name, flags=os.O_PATH)):
        (made,) = WatchedFiles().judge(record, policy, Searched((str(tree / "searched"),)))
        assert (made.verdict is Verdict.DENY, made.enforcer == "root view") == (found, found)
        if found:
            assert (made.capability, made.target) == (Capability.FS_LOOKUP, str(tree / "other/file"))
    watched = msgspec.structs.replace(policy, version="watched", mode=Mode.MONITOR)
    (made,) = WatchedFiles().judge(look, watched, Searched((str(tree / "searched"),)))
    assert (made.verdict is Verdict.WOULD_DENY, made.errno) == (found, 0), "the guest found it"
    task = seen("/proc/self/status", Capability.FS_LOOKUP, "newfstatat")
    assert WatchedFiles().judge(task, policy) == [task]


def test_a_unix_socket_that_is_gone_by_now_was_asked_for_and_a_daemon_was_only_looked_for(tree: Path) -> None:
    def passed(path: object) -> bool:
        record = seen(f"unix:{path}", Capability.NET_CONNECT, "connect")
        return let_through(msgspec.structs.replace(record, verdict=Verdict.WOULD_DENY)) is not None

    assert passed(tree / "gone")
    assert not passed("/run/nscd/no-such-socket")


def test_a_move_to_where_more_is_granted_is_refused_where_it_comes_from(tree: Path) -> None:
    base = Policy.preset("none").allow_read(tree / "granted").allow_write(tree / "granted")
    rights = {"path": str(tree / "other"), "allow": ["create", "delete"]}
    less = Policy.from_dict({"version": 1, "name": "p", "fs": [rights, *base.to_dict()["fs"]]})
    record = seen(tree / "other/file", Capability.FS_CREATE, "rename")
    record = msgspec.structs.replace(record, other=str(tree / "granted/new"))
    (found,) = WatchedFiles().judge(record, compile_policy(less))
    assert (found.verdict, found.capability, found.target) == (Verdict.DENY, "fs.read", str(tree / "other/file"))
    (back,) = WatchedFiles().judge(msgspec.structs.replace(record, target=record.other, other=record.target),
                                   compile_policy(less))  # fmt: skip
    assert back.code is None, "to where less is granted"


def test_what_the_supervisor_may_not_look_at_counts_as_there(policy: CompiledPolicy, tree: Path) -> None:
    """As an ordinary user it cannot tell /root/absent from /root/secret; the guest was refused either way."""
    hidden = tree / "hidden"
    hidden.mkdir(mode=0o700)
    pid = os.fork() if os.geteuid() == 0 else None
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return
    status = 1
    try:
        if pid == 0:
            tree.chmod(0o755)
            os.chdir("/")
            for folder in reversed(tree.parents):
                if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                    folder.chmod(0o711)
            os.setresuid(65534, 65534, 65534)
        else:
            hidden.chmod(0)
        assert judged(policy, hidden / "file").verdict is Verdict.DENY
        assert judged(policy, tree / "absent").verdict is Verdict.ALLOW
        status = 0
    finally:
        hidden.chmod(0o700) if pid is None else os._exit(status)


def test_a_shadow_policy_judges_what_the_one_in_force_lets_through(tree: Path, policy: CompiledPolicy) -> None:
    nothing = compile_policy(Policy.preset("none").with_name("candidate"))
    watched = WatchedFiles()
    (refused,) = watched.judge_shadow(seen(tree / "granted/file"), nothing)
    assert (refused.verdict, refused.shadow, refused.target) == (Verdict.WOULD_DENY, True, str(tree / "granted/file"))
    assert watched.judge_shadow(seen(tree / "granted/file"), policy) == []
    runs = seen(tree / "granted/file", Capability.PROCESS_EXEC, "execve")
    assert watched.judge_shadow(runs, nothing) == [], "the listener says so itself"


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.MONITOR])
def test_what_a_name_service_brings_along_is_left_out_where_one_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    policy = compile_policy(Policy.preset("none").with_mode(mode))
    library = msgspec.structs.replace(seen("/usr/lib/x86_64-linux-gnu/libcap.so.2.66"), broker_consulted=False)
    other = msgspec.structs.replace(seen("/etc/passwd"), broker_consulted=False)
    monkeypatch.setattr(SeenNames, "is_there", lambda self, path: True)
    told = [WatchedFiles().judge(one, policy)[0].code is not None for one in (library, other)]
    assert told == [mode is Mode.ENFORCE, True]


def test_what_the_call_met_counts_and_not_what_is_there_by_now(tree: Path, policy: CompiledPolicy) -> None:
    link = tree / "granted/out"  # leads to what is not granted, and is as old as the call
    now = time.monotonic_ns() - (time.time_ns() - link.lstat().st_ctime_ns) + 5 * 10**6  # half a tick of that clock
    earlier, met = now - 10**9, msgspec.structs.replace
    for record, denied in (
        (met(seen(link), monotonic_ns=now), str(tree / "other/file")),
        (met(seen(link), monotonic_ns=now, met="other"), None),
        (met(seen(link), monotonic_ns=now, met="nothing"), None),
        (met(seen(link), monotonic_ns=earlier), None),  # it came a second after the call
        (met(seen(link), monotonic_ns=earlier, met="link", link="../other/file"), str(tree / "other/file")),
        (met(seen(link), monotonic_ns=now, met="link", link="file"), None),
        (met(seen(tree / "other/gone"), monotonic_ns=now, met="other"), str(tree / "other/gone")),
        (met(seen(tree / "other/file"), monotonic_ns=now, met="nothing"), None),
    ):
        (found,) = WatchedFiles().judge(record, policy)
        assert (found.target if found.verdict is Verdict.DENY else None) == denied, record
