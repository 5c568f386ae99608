"""A file that code is mapped from, where the root view has it noexec: one true event, by whatever code it is mapped."""

from __future__ import annotations

import errno
import fcntl
import glob
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes

LIBRARIES = glob.glob("/usr/lib/*/libz.so.1") + glob.glob("/usr/lib/*/libm.so.6") + glob.glob("/lib/*/libm.so.6")
GUEST = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
libc.dlopen.restype, libc.mmap.restype = ctypes.c_void_p, ctypes.c_long
def interpreter(path):
    with open(path, "rb") as file:
        mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
def loader(path):
    if not libc.dlopen(path.encode(), os.RTLD_NOW): raise RuntimeError("not loaded")
def mapped(path, sharing=mmap.MAP_PRIVATE, length=4096, prot=mmap.PROT_READ | mmap.PROT_EXEC):
    file = os.open(path, os.O_RDONLY)
    try:
        return 0 if libc.mmap(0, length, prot, sharing, file, 0) != -1 else ctypes.get_errno()
    finally:
        os.close(file)
"""


def _policy(mode: pyisolate.Mode | str = "enforce") -> pyisolate.Policy:
    return with_ctypes().allow_import("mmap").with_mode(str(mode))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    found = tmp_path / "libplanted.so"
    shutil.copyfile(Path(LIBRARIES[0]).resolve(), found)
    found.chmod(0o755)
    return found


@pytest.mark.parametrize("way", ["interpreter", "loader", "mapped"])
def test_what_may_be_read_and_not_run_is_refused_with_one_event(library: Path, way: str) -> None:
    with pyisolate.spawn("m", _policy().allow_read(library.parent)) as sandbox:
        sandbox.exec(GUEST)
        if way == "interpreter":
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.call(way, str(library))
        elif way == "loader":
            with pytest.raises(pyisolate.GuestError, match="not loaded"):
                sandbox.call(way, str(library))
        else:
            assert sandbox.call(way, str(library)) == errno.EPERM
        (event,) = sandbox.get_denial_events()
        assert sandbox.stats.denials == event.count == 1
    assert (event.capability, event.target) == ("import.native", str(library))
    assert (event.broker_decision, event.kernel_decision) == ("not_consulted", "deny")
    assert (event.kernel_enforcer, event.kernel_errno, event.syscall) == ("root view", errno.EPERM, "mmap")
    assert event.reported_by == "kernel"
    assert event.suggestion == {"import": {"native": [str(library)]}}
    if way == "interpreter":
        assert caught.value.denial_event == event


@pytest.mark.parametrize("way", ["interpreter", "loader", "mapped"])
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_the_control_what_its_suggestion_grants_is_mapped_without_an_event(library: Path, way: str, mode: str) -> None:
    policy = _policy(mode).allow_read(library.parent).allow_native(str(library))
    with pyisolate.spawn("m", policy) as sandbox:
        sandbox.exec(GUEST)
        assert not sandbox.call(way, str(library))
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("place", ["", "/tmp/", "/dev/shm/"])
def test_a_file_of_the_guests_own_is_named_as_it_has_it(place: str) -> None:
    with pyisolate.spawn("m", _policy()) as sandbox:
        sandbox.exec(GUEST)
        sandbox.exec(f"open({place!r} + 'own', 'wb').write(bytes(4096))")
        assert sandbox.eval(f"mapped({place!r} + 'own')") == errno.EPERM
        sandbox.exec(f"file = os.open({place!r} + 'own', os.O_RDONLY); os.unlink({place!r} + 'own')")
        assert sandbox.eval("libc.mmap(0, 4096, 5, 1, file, 0)") == -1
        events = sandbox.get_denial_events()
    assert {event.target for event in events} == {"/sandbox/workspace/own"}, "with or without a name"
    assert sum(event.count for event in events) == 2
    assert {str(event.suggestion) for event in events} == {str({"process": [{"exec": "/sandbox/workspace"}]})}


def test_what_is_no_such_refusal_leaves_no_event(library: Path) -> None:
    """The control of the listener's look: mappings that are granted, or that the kernel refuses for what they are."""
    with pyisolate.spawn("m", _policy().allow_read(library.parent)) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.eval(f"mapped({str(library)!r}, prot=mmap.PROT_READ)") == 0
        assert sandbox.eval(f"mapped({str(library)!r}, length=0)") == errno.EINVAL
        assert sandbox.eval("libc.mmap(0, 4096, 5, 2, 99, 0), ctypes.get_errno()") == (-1, errno.EBADF)
        assert sandbox.get_denial_events() == []


def test_a_program_of_the_guests_whose_loader_is_refused_a_library(library: Path) -> None:
    policy = _policy().allow_read(library.parent).allow_exec("/usr/bin/env").allow_exec("/bin/true")
    with pyisolate.spawn("m", policy) as sandbox:
        done = sandbox.run(["/usr/bin/env", f"LD_PRELOAD={library}", "/bin/true"])
        (event,) = sandbox.get_denial_events()
        assert b"failed to map segment" in done.stderr
        assert (event.capability, event.target, event.kernel_decision) == ("import.native", str(library), "deny")
        assert sandbox.run(["/usr/bin/env", "/bin/true"]).returncode == 0
        assert len(sandbox.get_denial_events()) == 1, "the libraries of a granted program are granted"


@pytest.mark.parametrize("way", ["interpreter", "loader", "mapped"])
def test_monitor_mode_says_what_enforcing_would_refuse(library: Path, way: str) -> None:
    with pyisolate.spawn("m", _policy("monitor").allow_read(library.parent)) as sandbox:
        sandbox.exec(GUEST)
        assert not sandbox.call(way, str(library)), "it goes through"
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target, event.would_deny) == ("import.native", str(library), True)
    assert (event.broker_decision, event.kernel_decision, event.count) == ("not_consulted", "would_deny", 1)


def test_monitor_mode_reports_a_library_that_a_hook_asked_about_once(library: Path) -> None:
    with pyisolate.spawn("m", _policy("monitor").allow_read(library.parent)) as sandbox:
        sandbox.exec(GUEST)
        sandbox.exec(f"ctypes.CDLL({str(library)!r})")
        (hooked,) = sandbox.get_denial_events()
        assert (hooked.broker_decision, hooked.target, hooked.count) == ("would_deny", str(library), 1)
        assert sandbox.eval(f"mapped({str(library)!r})") == 0
        *_, raw = sandbox.get_denial_events()
    assert raw.broker_decision == "not_consulted", "the question was about the call before"


def test_of_what_may_not_be_read_the_opening_alone_is_reported(library: Path) -> None:
    with pyisolate.spawn("m", _policy("monitor")) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.eval(f"mapped({str(library)!r})") == 0
        assert {event.capability for event in sandbox.get_denial_events()} == {"fs.read"}


@pytest.mark.parametrize("act", ["mapped(PATH)", "ctypes.CDLL(PATH) and 0"])
def test_a_shadow_policy_says_what_it_would_refuse(library: Path, act: str) -> None:
    granted = _policy().allow_read(library.parent).allow_native(str(library))
    shadow = _policy().allow_read(library.parent)
    with pyisolate.spawn("m", granted, shadow=shadow) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.eval(act.replace("PATH", repr(str(library)))) == 0
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target, event.shadow, event.count) == ("import.native", str(library), True, 1)


def test_a_group_that_is_watched_alone_lets_its_code_be_mapped(library: Path) -> None:
    modes = {"version": 1, "name": "m", "extends": "compute", "modes": {"import": "monitor"}}
    policy = pyisolate.Policy.from_dict(modes).allow_import("ctypes", "mmap").allow_native("ctypes")
    with pyisolate.spawn("m", policy.allow_read(library.parent)) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.eval(f"mapped({str(library)!r})") == 0
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.kernel_decision) == ("import.native", "would_deny")


IS_LOCKED = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("locked")
"""
CONNECT = "libc.connect(os.open({path!r}, os.O_RDONLY), bytes([2, 0, 0, 80, 127, 0, 0, 1] + 8 * [0]), 16)"


@pytest.mark.parametrize("act", ["mapped({path!r})", CONNECT])
def test_the_host_keeps_its_record_locks_on_what_a_guest_maps_or_takes_for_a_socket(library: Path, act: str) -> None:
    """A process loses those on a file when it closes any descriptor of the file (fcntl(2)): the listener takes none."""

    def is_locked() -> bool:
        found = subprocess.run(
            [sys.executable, "-c", IS_LOCKED, library], stdout=subprocess.PIPE, check=True, timeout=60
        )
        return found.stdout == b"locked\n"

    policy = _policy().allow_read(library.parent)
    with library.open("r+b") as ours, pyisolate.spawn("m", policy) as sandbox:
        sandbox.exec(GUEST)
        assert not is_locked()
        fcntl.lockf(ours, fcntl.LOCK_EX)
        refused = sandbox.eval(act.format(path=str(library)))
        assert refused in (errno.EPERM, -1)
        assert is_locked()


@pytest.mark.parametrize(
    "opened",
    ["os.open('.', os.O_RDONLY)", "os.open('/dev/null', os.O_RDWR)", "os.eventfd(0)", "os.open(own, os.O_PATH)"],
)
def test_what_is_no_file_that_is_open_leaves_no_event(opened: str) -> None:
    """The kernel refuses it for what it is, and a suggestion would open what lies below a directory."""
    with pyisolate.spawn("m", _policy()) as sandbox:
        sandbox.exec(GUEST + "own = 'own'; open(own, 'wb').write(bytes(4096))")
        assert sandbox.eval(f"libc.mmap(0, 4096, 5, 2, {opened}, 0)") == -1
        assert sandbox.get_denial_events() == []
        assert sandbox.eval("mapped(own)") == errno.EPERM  # the control
        assert len(sandbox.get_denial_events()) == 1


def test_a_file_that_a_yes_opened_is_named_by_what_was_asked() -> None:
    """Where the supervisor is no root, it lies on a mount of its own, whose root has no other name than "/"."""
    policy = pyisolate.Policy.from_dict({"version": 1, "name": "m", "extends": "compute", "ask": ["fs.read"]})
    policy = policy.allow_import("ctypes", "mmap").allow_native("ctypes")
    with pyisolate.spawn("m", policy, on_ask=lambda question: pyisolate.Allow("sandbox")) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.eval("mapped('/etc/passwd')") == errno.EPERM
        mapped = [one for one in sandbox.get_denial_events() if one.capability == "import.native"]
    assert [one.target for one in mapped] == ["/etc/passwd"]
