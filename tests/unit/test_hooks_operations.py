"""What the arguments of audit events mean: pure functions, no hook installed."""

from __future__ import annotations

import os
import posix
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from pyisolate.capability import ASKED
from pyisolate.capability import Capability as C
from pyisolate.hooks import addresses, operations, paths
from pyisolate.hooks.announcements import ANNOUNCEMENTS
from pyisolate.hooks.operations import EVENTS, OPERATIONS, OWN_HANDLERS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a file, a directory, and links to both."""
    root = tmp_path.resolve()
    (root / "file").write_text("x")
    (root / "sub").mkdir()
    (root / "sub" / "inner").write_text("x")
    (root / "to_file").symlink_to("file")
    (root / "to_sub").symlink_to(root / "sub")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    paths.forget_directories()
    return root


def asked(event: str, *args: Any) -> list[tuple[str, str]]:
    return [(capability.value, target) for capability, target, _facts in OPERATIONS[event][0](args)]


def test_what_hooks_ask_about_is_what_asked_names() -> None:
    """A capability that a hook asks about and `ASKED` forgets would read not_consulted where it was."""
    folder = Path(operations.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    named = {C[name] for name in re.findall(r"\b(?:C|Capability)\.([A-Z_]+)\b", text)}
    assert named <= ASKED
    assert ASKED - named == {C.FS_ACCESS, C.FS_EXEC, C.IPC_UNIX}  # asked about under another name


def test_events_are_in_exactly_one_list() -> None:
    assert not EVENTS & ANNOUNCEMENTS
    assert not frozenset(OPERATIONS) & OWN_HANDLERS
    assert len(EVENTS) <= 512  # the native table's limit


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (os.O_RDONLY, ["fs.read"]),
        (os.O_WRONLY, ["fs.write"]),
        (os.O_RDWR, ["fs.write", "fs.read"]),
        (os.O_RDONLY | os.O_TRUNC, ["fs.write", "fs.read"]),
        (os.O_WRONLY | os.O_CREAT, ["fs.write"]),
        (os.O_PATH, []),
    ],
)
def test_open_of_what_exists_asks_by_its_flags(tree: Path, flags: int, wanted: list[str]) -> None:
    target = str(tree / "file")
    assert asked("open", target, None, flags) == [(one, target) for one in wanted]


def test_open_that_creates_asks_for_that_first(tree: Path) -> None:
    target = str(tree / "new")
    assert asked("open", target, "w", os.O_WRONLY | os.O_CREAT) == [("fs.create", target), ("fs.write", target)]


def test_unnamed_files_are_created_in_their_directory(tree: Path) -> None:
    assert asked("open", str(tree), None, os.O_TMPFILE | os.O_RDWR)[0] == ("fs.create", str(tree))


def test_descriptors_are_not_paths(tree: Path) -> None:
    for event, args in (("open", (3, "r", 0)), ("os.listdir", (3,)), ("os.truncate", (3, 0)), ("os.scandir", (3,))):
        assert asked(event, *args) == []


@pytest.mark.parametrize("event", ["os.chmod", "os.chown", "os.utime"])
def test_metadata_of_a_descriptor_is_that_of_the_file_behind_it(tree: Path, event: str) -> None:
    descriptor = os.open(tree / "file", os.O_RDONLY)
    try:
        assert asked(event, descriptor, 0, 0, -1) == [("fs.metadata", str(tree / "file"))]
    finally:
        os.close(descriptor)
    read, write = os.pipe()
    try:
        assert asked(event, read, 0, 0, -1) == []
    finally:
        os.close(read)
        os.close(write)


def test_paths_are_asked_about_as_what_they_reach(tree: Path) -> None:
    assert asked("open", str(tree / "to_file"), "r", 0) == [("fs.read", str(tree / "file"))]
    assert asked("open", str(tree / "to_sub" / "inner"), "r", 0) == [("fs.read", str(tree / "sub" / "inner"))]
    assert asked("open", f"{tree}/sub/../to_sub/./inner", "r", 0) == [("fs.read", str(tree / "sub" / "inner"))]
    assert asked("open", str(tree / "dangling"), "r", 0) == [("fs.read", str(tree / "nowhere"))]


def test_names_that_are_removed_or_made_are_not_followed(tree: Path) -> None:
    assert asked("os.remove", str(tree / "to_file"), -1) == [("fs.delete", str(tree / "to_file"))]
    assert asked("os.remove", str(tree / "to_sub" / "inner"), -1) == [("fs.delete", str(tree / "sub" / "inner"))]
    assert asked("os.symlink", "/etc/shadow", str(tree / "made"), -1) == [("fs.create", str(tree / "made"))]


def test_loops_and_magic_links_are_left_to_the_kernel(tree: Path) -> None:
    assert asked("open", str(tree / "loop"), "r", 0) == []
    read, write = os.pipe()
    try:
        assert asked("open", f"/proc/self/fd/{read}", "r", 0) == []
    finally:
        os.close(read)
        os.close(write)


def test_the_asking_process_keeps_its_own_name_in_proc() -> None:
    assert asked("open", "/proc/self/status", "r", 0) == [("fs.read", "/proc/self/status")]
    assert asked("open", "/proc/self/root/etc/shadow", "r", 0) == [("fs.read", "/etc/shadow")]


def test_relative_paths_start_where_the_call_says(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "sub")
    assert asked("open", "inner", "r", 0) == [("fs.read", str(tree / "sub" / "inner"))]
    assert asked("os.listdir", None) == [("fs.read", str(tree / "sub"))]
    descriptor = os.open(tree, os.O_RDONLY)
    try:
        assert asked("os.remove", "file", descriptor) == [("fs.delete", str(tree / "file"))]
        assert asked("os.rename", "file", "sub/inner", descriptor, descriptor) == [
            ("fs.delete", str(tree / "file")),
            ("fs.create", str(tree / "sub" / "inner")),
            ("fs.delete", str(tree / "sub" / "inner")),
        ]
    finally:
        os.close(descriptor)
    assert asked("os.remove", "file", 999999) == []


def test_a_directory_that_became_a_link_is_seen_again(tree: Path) -> None:
    inside = str(tree / "sub" / "inner")
    assert asked("open", inside, "r", 0) == [("fs.read", inside)]
    (tree / "other").mkdir()
    asked("os.rename", str(tree / "sub"), str(tree / "old"), -1, -1)
    (tree / "sub").rename(tree / "old")
    (tree / "sub").symlink_to(tree / "other")
    assert asked("open", inside, "r", 0) == [("fs.read", str(tree / "other" / "inner"))]


def test_a_name_that_exists_already_is_left_to_the_kernel(tree: Path) -> None:
    assert asked("os.mkdir", str(tree / "sub"), 0o777, -1) == []
    assert asked("os.mkdir", str(tree / "sub2"), 0o777, -1) == [("fs.create", str(tree / "sub2"))]


def test_hard_links_read_the_one_and_create_the_other(tree: Path) -> None:
    assert asked("os.link", str(tree / "file"), str(tree / "twin"), -1, -1) == [
        ("fs.read", str(tree / "file")),
        ("fs.create", str(tree / "twin")),
    ]


def test_undecodable_names_survive(tree: Path) -> None:
    name = os.fsencode(tree) + b"/caf\xe9"
    assert asked("open", name, "r", 0) == [("fs.read", os.fsdecode(name))]


class _Tricky:
    """A path whose conversion is the guest's own code."""

    ran = False

    def __fspath__(self) -> str:
        type(self).ran = True
        return "/etc/shadow"


class _TrickyText(str):
    ran = False

    def startswith(self, *args: Any) -> bool:
        type(self).ran = True
        return super().startswith(*args)

    __str__ = __format__ = __getitem__ = rstrip = rpartition = split = startswith  # type: ignore[assignment]


def test_no_method_of_a_guests_class_runs_in_a_hook() -> None:
    assert asked("sqlite3.connect", _Tricky()) == []
    assert not _Tricky.ran
    assert asked("open", _TrickyText("/etc/shadow"), "r", 0) == [("fs.read", "/etc/shadow")]
    assert not _TrickyText.ran


def test_programs_are_looked_up_as_the_call_would(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tree / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    environment = {"PATH": f"/nonexistent:{tree}"}
    assert asked("subprocess.Popen", "tool", ["tool"], None, environment) == [("process.exec", str(tool))]
    assert asked("subprocess.Popen", "./tool", ["tool"], str(tree), None) == [("process.exec", str(tool))]
    assert asked("subprocess.Popen", "no-such-tool", ["x"], None, environment) == [
        ("process.exec", "/nonexistent/no-such-tool")
    ]
    assert asked("subprocess.Popen", "no-such-tool", ["x"], None, {"PATH": "/a:/usr/bin"}) == [
        ("process.exec", "/usr/bin/no-such-tool")
    ]
    monkeypatch.setenv("PATH", str(tree))
    assert asked("os.posix_spawn", "tool", ["tool"], None) == [("process.exec", str(tool))]
    assert asked("os.system", b"true") == [("process.exec", os.path.realpath("/bin/sh"))]
    assert asked("os.exec", str(tool), ["tool"], None) == [("process.exec", str(tool))]


@pytest.mark.parametrize(
    ("family", "address", "target"),
    [
        (socket.AF_INET, ("10.0.0.5", 5432), "10.0.0.5:5432"),
        (socket.AF_INET, ("db.internal", 5432), "db.internal:5432"),
        (socket.AF_INET6, ("::1", 80, 0, 0), "[::1]:80"),
        (socket.AF_INET6, ("2001:db8:0::1", 443), "[2001:db8::1]:443"),
        (socket.AF_UNIX, "/run/x", "unix:/run/x"),
        (socket.AF_UNIX, b"\0name", "unix:@name"),
    ],
)
def test_addresses_have_one_spelling(family: int, address: Any, target: str) -> None:
    with socket.socket(family) as made:
        assert asked("socket.connect", made, address) == [("net.connect", target)]
        assert asked("socket.bind", made, address) == [("net.bind", target)]


@pytest.mark.parametrize(
    ("given", "target"), [((-1, -1, -1), "AF_INET/SOCK_STREAM"), ((10, -1, 6), "AF_INET6/SOCK_STREAM")]
)
def test_the_defaults_of_the_c_module_are_a_tcp_socket(given: tuple[int, int, int], target: str) -> None:
    assert asked("socket.__new__", None, *given) == [("net.socket", target)]


@pytest.mark.parametrize(
    ("family", "host", "reached", "bound"),
    [
        (socket.AF_INET, "", "127.0.0.1:80", "0.0.0.0:80"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1:80", "0.0.0.0:80"),
        (socket.AF_INET6, "", "[::1]:80", "[::]:80"),
        (socket.AF_INET6, "::", "[::1]:80", "[::]:80"),
        (socket.AF_INET6, "::ffff:0.0.0.0", "127.0.0.1:80", "0.0.0.0:80"),
    ],
)
def test_any_address_is_loopback_for_what_goes_there_and_itself_for_bind(
    family: int, host: str, reached: str, bound: str
) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        assert asked("socket.connect", made, (host, 80)) == [("net.connect", reached)]
        assert asked("socket.sendto", made, (host, 80)) == [("net.send", reached)]
        assert asked("socket.bind", made, (host, 80)) == [("net.bind", bound)]


def test_datagrams_to_nobody_in_particular_are_not_asked_about() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as made:
        assert asked("socket.sendto", made, None) == []
        assert asked("socket.sendto", made, ("10.0.0.9", 53)) == [("net.send", "10.0.0.9:53")]


def test_protocol_clients_tell_the_host_before_a_socket_exists() -> None:
    assert asked("http.client.connect", object(), "example.com", 443) == [("net.connect", "example.com:443")]


def test_sockets_are_named_by_family_and_type() -> None:
    made = addresses.socket_kind(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0)
    assert made[0] == "AF_INET/SOCK_STREAM"
    plain = {addresses.socket_kind(2, 1, protocol)[0] for protocol in (-1, 0, 6)}
    assert plain == {"AF_INET/SOCK_STREAM"}
    assert addresses.socket_kind(2, 1, 262)[0] == "AF_INET/SOCK_STREAM/IPPROTO_MPTCP"
    assert addresses.socket_kind(2, 1, 132)[0] == "AF_INET/SOCK_STREAM/IPPROTO_SCTP"
    assert addresses.socket_kind(10, 2, 58)[0] == "AF_INET6/SOCK_DGRAM/IPPROTO_ICMPV6"
    assert addresses.socket_kind(1, 1, 1)[0] == "AF_UNIX/SOCK_STREAM"
    assert asked("socket.__new__", None, socket.AF_PACKET, socket.SOCK_RAW, 0) == [("net.socket", "AF_PACKET/SOCK_RAW")]


def test_terminal_injection_is_the_only_ioctl_asked_about() -> None:
    assert asked("fcntl.ioctl", 0, 0x5412, b"x") == [("kernel.ioctl", "TIOCSTI")]
    assert asked("fcntl.ioctl", 0, 0x5401, b"x") == []


def test_databases_are_read_and_only_created_where_they_are_missing(tree: Path) -> None:
    assert asked("sqlite3.connect", tree / "file") == [("fs.read", str(tree / "file"))]
    assert asked("sqlite3.connect", str(tree / "db"))[0] == ("fs.create", str(tree / "db"))
    assert asked("sqlite3.connect", ":memory:") == []


def test_libraries_are_named_as_the_loader_gets_them(tree: Path) -> None:
    (C_native, target, facts) = operations.OPERATIONS["ctypes.dlopen"][0](("libm.so.6",))[0]
    assert (C_native, target, facts["how"]) == (C.IMPORT_NATIVE, "libm.so.6", "dlopen")
    assert asked("ctypes.dlopen", str(tree / "to_file")) == [("import.native", str(tree / "file"))]
    assert asked("ctypes.dlopen", None) == []


@pytest.mark.parametrize("event", sorted(OPERATIONS))
def test_arguments_of_no_sense_never_leave_a_hook_half_done(event: str) -> None:
    for args in ((), (None,) * 6, (object(),) * 6, ("\0", "\0", "\0", "\0"), (-1, -1, -1, -1)):
        try:
            found = list(OPERATIONS[event][0](args))
        except Exception:
            continue  # `GuestHooks.callback` treats it as "not asked"
        assert all(isinstance(target, str) for _capability, target, _facts in found)


def test_every_name_in_the_posix_module_that_hooks_rely_on_exists() -> None:
    assert all(hasattr(posix, name) for name in ("lstat", "readlink", "getcwd", "fspath"))
    assert sys.version_info >= (3, 11)


def test_the_documentation_names_every_event_and_wrapper() -> None:
    from pyisolate.hooks import wrappers

    text = (Path(__file__).resolve().parents[2] / "docs" / "hooks.md").read_text()
    missing = [event for event in sorted(EVENTS) if f"`{event}`" not in text]
    missing += [name for _module, name, *_rest in wrappers._FUNCTIONS if f"{name}`" not in text]
    assert missing == []


def test_names_of_own_descriptors_ask_nothing_where_the_c_library_opens_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("/dev/stdin", b"/dev/stdout", "/dev/fd/7", Path("/dev/fd/1"))
    assert not any(map(paths.is_own_descriptor, names))
    monkeypatch.setattr(paths, "_opens_descriptors", True)
    assert all(map(paths.is_own_descriptor, names))
    others = (
        "/dev/fd",
        "/dev/fd/",
        "/dev/fd/-1",
        "/dev/fd/1/x",
        "/dev/fd/12345678",
        "/dev/stdin\n",
        "dev/stdin",
        0,
        None,
    )
    assert not any(map(paths.is_own_descriptor, others))
