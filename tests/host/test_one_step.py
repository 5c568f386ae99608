"""What a call is refused for in enforce mode: one event, under whose suggestion the whole call passes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.policy.suggest import apply
from tests.foreign_functions import with_ctypes

pytestmark = pytest.mark.usefixtures("kept_supervisor")

BASE = with_ctypes().with_name("one-step")
NATIVE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *given):
    ctypes.set_errno(0)
    done = getattr(libc, name)(*[one.encode() if isinstance(one, str) else one for one in given])
    return ctypes.get_errno() if done < 0 else 0
"""


@pytest.fixture
def ground() -> Iterator[Path]:
    """Lend a directory that all users may use, with files and links in directories of their own."""
    here = Path("/var/tmp") / f"pyisolate-step-{os.urandom(6).hex()}"
    for name in ("kept", "drop", "other", "hidden/real"):
        (here / name).mkdir(parents=True)
    for name in ("kept/one", "hidden/real/file"):
        (here / name).write_text("1")
        (here / name).chmod(0o666)
    (here / "hidden/link").symlink_to(here / "hidden/real/file")
    (here / "hidden/folder").symlink_to("real")
    (here / "hidden/again").symlink_to("link")
    for name in (".", "kept", "drop", "other", "hidden", "hidden/real"):
        (here / name).chmod(0o777)
    yield here
    shutil.rmtree(here)


def one_event(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy, source: str) -> tuple[object, list]:
    """Return what a guest posts, None where it was refused first, and the events that this left."""
    with supervisor.spawn("step", policy) as sandbox:
        try:
            sandbox.exec(source)
            posted = sandbox.recv(timeout=30)
        except pyisolate.PolicyError:
            posted = None
        return posted, sandbox.get_denial_events()


@pytest.mark.parametrize(
    "source",
    [
        "open({!r}, 'w+')\npost(0)",
        NATIVE + "post(call('open', {!r}, 0o102, 0o666))",
        NATIVE + "post(call('open', {!r}, 0o302, 0o600))",
    ],
    ids=["interpreter", "native", "native, new"],
)
def test_a_file_that_is_made_to_be_read_as_well_needs_its_directory(
    supervisor: pyisolate.Supervisor, ground: Path, source: str
) -> None:
    box, name = ground / "drop", str(ground / "drop/new")
    policy = with_ctypes(BASE.allow_write(box))
    posted, (event,) = one_event(supervisor, policy, source.format(name))
    assert posted in (None, errno.EACCES)
    assert (event.capability, event.target, event.also) == ("fs.read", name, (f"fs.create {name}",))
    assert event.suggestion == {"fs": [{"path": str(box), "allow": ["read"]}]}  # a rule for the name holds for nothing
    Path(name).unlink(missing_ok=True)
    assert one_event(supervisor, apply(policy, event.suggestion), source.format(name)) == (0, [])


def test_what_the_kernel_refuses_of_an_open_that_makes_a_file_is_one_event(
    supervisor: pyisolate.Supervisor, ground: Path
) -> None:
    """Its hook asks for three rights, and knows only that the kernel refused the call."""
    box, name = ground / "drop", str(ground / "drop/new")
    policy = BASE.allow_write(box).allow_read(name)  # left out: it is not there
    posted, (event,) = one_event(supervisor, policy, f"open({name!r}, 'w+')\npost(0)")
    assert posted is None
    assert (event.capability, event.target, event.code) == ("fs.read", name, "SCOPE_INSUFFICIENT")
    assert (event.broker_decision, event.kernel_decision, event.count) == ("allow", "deny", 1)
    assert event.origin is not None
    assert one_event(supervisor, policy, f"open({name!r}, 'w')\npost(0)") == (0, [])  # the control


@pytest.mark.parametrize("name", ["hidden/link", "hidden/again", "hidden/folder/file"])
@pytest.mark.parametrize(
    ("call", "rights"),
    [
        ("open({!r}).close()\npost(0)", ["read"]),
        (NATIVE + "post(call('open', {!r}, 0))", ["read"]),
        (NATIVE + "post(call('syscall', 2, {!r}, 1))", ["write"]),
        (NATIVE + "post(call('chmod', {!r}, 0o666))", ["write", "metadata"]),
        (NATIVE + "post(call('truncate', {!r}, 1))", ["write"]),
    ],
    ids=["interpreter", "open", "raw", "chmod", "truncate"],
)
def test_a_link_that_no_rule_names_is_what_is_refused_and_granted(
    supervisor: pyisolate.Supervisor, ground: Path, name: str, call: str, rights: list[str]
) -> None:
    if "syscall" in call and os.uname().machine != "x86_64":
        pytest.skip("names x86-64's system call")
    if rights == ["write", "metadata"]:
        os.chown(ground / "hidden/real/file", *((65534, 65534) if os.geteuid() == 0 else (-1, -1)))
    asked, policy = str(ground / name), with_ctypes(BASE)
    posted, (event,) = one_event(supervisor, policy, call.format(asked))
    assert posted in (None, errno.ENOENT)
    assert (event.target, event.code) == (asked, "NOT_GRANTED")
    assert event.suggestion == {"fs": [{"path": asked, "allow": rights}]}
    assert one_event(supervisor, apply(policy, event.suggestion), call.format(asked)) == (0, [])


@pytest.mark.parametrize(
    ("source", "target", "number"), [("kept", "kept", errno.EROFS), ("drop", "other", errno.EXDEV)]
)
def test_a_move_that_the_view_stops_is_an_event_though_nothing_is_there(
    supervisor: pyisolate.Supervisor, ground: Path, source: str, target: str, number: int
) -> None:
    """The kernel looks at mounts before it looks for the file; Python code is answered as Linux would without them."""
    policy = with_ctypes(BASE.allow_read(ground / "kept"))
    for name in ("drop", "other"):
        policy = policy.allow_read(ground / name).allow_write(ground / name)
    names = str(ground / source / "absent"), str(ground / target / "new")
    posted, (event,) = one_event(supervisor, policy, NATIVE + "post(call('rename', {!r}, {!r}))".format(*names))
    assert posted == number
    assert (event.kernel_decision, event.broker_decision, event.count) == ("deny", "not_consulted", 1)
    assert {event.requested_capability, *event.also} == {f"fs.delete {names[0]}", f"fs.create {names[1]}"}
    code = "import os\ntry:\n    os.rename({!r}, {!r})\nexcept OSError as error:\n    post(error.errno)".format(*names)
    assert one_event(supervisor, policy, code) == (errno.ENOENT, [])
    within = str(ground / "drop/absent"), str(ground / "drop/new")  # the control: no mount comes between
    found = one_event(supervisor, policy, NATIVE + "post(call('rename', {!r}, {!r}))".format(*within))
    assert found == (errno.ENOENT, [])


@pytest.mark.parametrize(
    "call",
    ["os.mknod({!r}, 0o140600)", "os.mknod({!r}, 0o20600, os.makedev(1, 3))", "os.chmod({!r}, 0o4755)"],
    ids=["socket", "device", "set-id"],
)
@pytest.mark.parametrize("granted", [True, False])
def test_what_no_policy_grants_of_files_is_said_so_and_not_suggested(
    supervisor: pyisolate.Supervisor, ground: Path, call: str, granted: bool
) -> None:
    name = str(ground / ("drop" if "mknod" in call else "kept") / ("one" if "chmod" in call else "special"))
    policy = BASE.allow_read(ground).allow_write(ground) if granted else BASE
    posted, (event,) = one_event(supervisor, policy, "import os\n" + call.format(name) + "\npost(0)")
    assert posted is None
    assert (event.target, event.code, event.suggestion) == (name, "ALWAYS_DENIED", None)
    assert (event.broker_decision, event.kernel_decision) == ("deny", "not_reached")
    if granted:  # the control
        plain = f"import os\nos.mknod({str(ground / 'drop/plain')!r}, 0o600)\npost(0)"
        assert one_event(supervisor, policy, plain) == (0, [])


def test_no_rule_is_suggested_for_a_pseudo_terminal(supervisor: pyisolate.Supervisor) -> None:
    """A rule for making processes would let forkpty(3) go on to /dev/ptmx, which no sandbox has."""
    for call, wanted in (("os.forkpty()", "process.fork"), ("pty.spawn('/usr/bin/env')", "process.exec")):
        with supervisor.spawn("terminal", BASE) as sandbox, pytest.raises(pyisolate.PolicyError, match="pseudo-term"):
            sandbox.exec(f"import os, pty\n{call}")
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.suggestion, event.also) == (wanted, None, ("fs.write /dev/ptmx",))
    with supervisor.spawn("plain", BASE) as sandbox, pytest.raises(pyisolate.PolicyError, match="fork"):
        sandbox.exec("import os\nos.fork()")
    assert sandbox.get_denial_events()[0].suggestion == {"process": [{"fork": True}]}  # the control


@pytest.mark.parametrize("call", ["sendto(b'x', 0x20000000, where)", "sendmsg([b'x'], [], 0x20000000, where)"])
def test_a_send_that_connects_is_refused_as_a_connection(supervisor: pyisolate.Supervisor, call: str) -> None:
    policy = BASE.allow_connect("127.0.0.1:1")
    source = "import socket\nwhere = ('127.0.0.1', 2)\nsocket.socket().{}\npost(0)"
    posted, (event,) = one_event(supervisor, policy, source.format(call))
    assert posted is None
    assert (event.capability, event.target, event.count) == ("net.connect", "127.0.0.1:2", 1)
    assert event.suggestion == {"net": [{"connect": "127.0.0.1:2"}]}
    plain = source.replace("socket()", "socket(socket.AF_INET, socket.SOCK_DGRAM)").format("sendto(b'x', 0, where)")
    assert [one.capability for one in one_event(supervisor, policy, plain)[1]] == ["net.send"]  # the control
