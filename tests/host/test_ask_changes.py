"""Questions about symbolic links, and about mode, times, owner and attributes: on yes the host does what was asked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Allow, Deny, Policy
from tests.asking import Asked, refused
from tests.host.test_ask_names import NATIVE, events_of
from tests.host.test_ask_names import _Signals as Signals

pytestmark = pytest.mark.usefixtures("kept_supervisor")

POLICY = Policy.preset("compute").with_ask("fs.create", "fs.delete", "fs.metadata")
_VALUE = "a-value-that-is-in-no-event"
_RAW = """
import ctypes, os, signal
signal.signal(signal.SIGUSR1, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
SYMLINKAT, FCHMODAT = (266, 268) if os.uname().machine == "x86_64" else (36, 53)
def said(result):
    return 0 if result == 0 else -ctypes.get_errno()
def linked(text, name):
    return said(libc.syscall(SYMLINKAT, text, -100, name))
def changed(name, mode):
    return said(libc.syscall(FCHMODAT, -100, name, mode))
"""


def _guests_user() -> int:
    return 65534 if os.geteuid() == 0 else os.geteuid()


def test_a_link_is_made_where_the_answer_says_so_and_its_question_says_where_it_leads(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    asked, data, new = Asked(Deny("keep it"), Allow(), Allow(), Allow()), place / "data", place / "new"
    owner = data.stat().st_uid
    with supervisor.spawn("links", POLICY, on_ask=asked) as sandbox:
        event = refused(sandbox, f"import os\nos.symlink('data', {str(new)!r})")
        assert (event.capability, event.target, event.answer) == ("fs.create", str(new), "deny")
        assert event.detail == "symbolic link to data"
        assert not new.is_symlink()
        sandbox.exec(f"os.symlink('data', {str(new)!r})")
        assert (os.readlink(new), new.lstat().st_uid, data.stat().st_uid) == ("data", _guests_user(), owner)
        assert refused(sandbox, f"os.symlink('other', {str(new)!r})").answer is None  # it is there
        sandbox.exec(f"os.remove({str(new)!r})\nos.symlink({str(place / 'absent')!r}, {str(new)!r})")
        assert os.readlink(new) == str(place / "absent")
        assert events_of(sandbox) == [
            ("fs.create", str(new), "deny", False),
            ("fs.create", str(new), "once", True),
            ("fs.create", str(new), None, False),
            ("fs.delete", str(new), "once", True),
            ("fs.create", str(new), "once", True),  # another link is another event
        ]
    assert [one.detail for one in asked.questions] == [
        "symbolic link to data",
        "symbolic link to data",
        "",
        f"symbolic link to {place / 'absent'}",
    ]


def test_a_link_that_is_another_one_to_each_or_leads_to_what_is_denied_is_no_question(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    asked, secret = Asked(Allow()), place / "secret"
    secret.write_text("denied")
    (place / "way").symlink_to("secret")
    policy = POLICY.deny("fs.read", str(secret))
    with supervisor.spawn("rules", policy, on_ask=asked) as sandbox:
        for text in (
            "secret",
            str(secret),
            "way",
            "../" + place.name + "/secret",
            "/proc/self/fd/0",
            "/dev/fd/0",
            "a\nb",
        ):
            event = refused(sandbox, f"import os\nos.symlink({text!r}, {str(place / 'new')!r})")
            assert event.answer is None, text
        assert not (place / "new").is_symlink()
        sandbox.exec(f"os.symlink('data', {str(place / 'new')!r})")  # the control
    assert asked.targets == [str(place / "new")]


def test_a_directory_that_is_another_one_by_then_gets_no_link(supervisor: pyisolate.Supervisor, place: Path) -> None:
    full, away, new = place / "full", place / "away", place / "full" / "new"
    full.mkdir()
    asked = Asked(*[Allow()] * 3)
    with supervisor.spawn("swaps", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        asked.before = lambda: (full.rename(away), full.symlink_to("away"))
        refused(sandbox, f"os.symlink('data', {str(new)!r})")
        assert os.listdir(away) == []
        full.unlink()
        asked.before = lambda: full.mkdir() if not full.exists() else (full.rename(place / "third"), full.mkdir())
        away.rename(full)
        refused(sandbox, f"os.symlink('data', {str(new)!r})")
        assert os.listdir(full) == os.listdir(place / "third") == []
        asked.before = lambda: new.symlink_to("came-first")
        with pytest.raises(pyisolate.GuestError, match="FileExistsError"):
            sandbox.exec(f"os.symlink('data', {str(new)!r})")
        assert os.readlink(new) == "came-first"
    assert len(asked.targets) == 3


@pytest.fixture
def changes(place: Path) -> dict[str, tuple[str, str]]:
    """Calls that change a file, each with what its question says."""
    data, group = str(place / "data"), os.getegid() if os.geteuid() else 65534
    found = {
        "mode": (f"os.chmod({data!r}, 0o640)", "mode 0640"),
        "times": (f"os.utime({data!r}, ns=(10**9, 2 * 10**9 + 5))",
                  "accessed 1970-01-01 00:00:01+00:00, modified 1970-01-01 00:00:02+00:00"),
        "now": (f"os.utime({data!r})", "accessed and modified now"),
        "owner": (f"os.chown({data!r}, -1, {group})", f"owner unchanged, group {group}"),
        "attribute": (f"os.setxattr({data!r}, 'user.note', b{_VALUE!r})", f"attribute user.note=b{_VALUE!r}"),
        "no attribute": (f"os.removexattr({data!r}, 'user.note')", "without attribute user.note"),
    }  # fmt: skip
    try:
        os.setxattr(data, "user.probe", b"")
    except OSError:  # a file system without them
        del found["attribute"], found["no attribute"]
    return found


def _state(file: Path) -> tuple[object, ...]:
    about = file.stat()
    attributes = {name: os.getxattr(file, name) for name in os.listxattr(file) if name.startswith("user.")}
    return about.st_mode & 0o7777, about.st_uid, about.st_gid, about.st_mtime_ns, sorted(attributes.items())


def test_yes_changes_a_file_and_no_does_not_each_with_one_event(
    supervisor: pyisolate.Supervisor, place: Path, changes: dict[str, tuple[str, str]]
) -> None:
    data = place / "data"
    asked = Asked(*[answer for _ in changes for answer in (Deny("keep it"), Allow())])
    with supervisor.spawn("changes", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        for what, (call, said) in changes.items():
            before = _state(data)
            event = refused(sandbox, call)
            assert (event.capability, event.target, event.answer) == ("fs.metadata", str(data), "deny"), what
            assert event.detail == said.partition("=")[0]
            assert _state(data) == before, what
            sandbox.exec(call)
            assert asked.questions[-1].detail == said
            assert asked.questions[-1].target == str(data)
        assert (data.stat().st_mode & 0o7777, data.read_text()) == (0o640, "asked")
        assert data.stat().st_mtime > 10**9  # now
        events = sandbox.get_denial_events()
        assert [(one.answer, one.count) for one in events] == [("deny", 1), ("once", 1)] * len(changes)
        assert not [one for one in events if _VALUE in one.to_json()]
        assert sandbox.answered_policy.to_dict() == POLICY.to_dict()


def test_what_was_asked_about_is_what_is_changed(
    supervisor: pyisolate.Supervisor, place: Path, changes: dict[str, tuple[str, str]]
) -> None:
    """While a question stands its file is moved away, and another one, a link or another directory takes the name."""
    data, other, inner = place / "data", place / "other", place / "inner"
    asked = Asked(*[Allow()] * 4 * len(changes))
    for what, (call, _) in changes.items():
        with supervisor.spawn("swaps", POLICY, on_ask=asked) as sandbox:  # each has its own rate of questions
            sandbox.exec("import os")
            in_directory = call.replace(str(data), str(inner / "data"))
            kept = _state(other)
            asked.before = lambda: (data.rename(place / "kept"), other.rename(data))
            refused(sandbox, call)
            assert _state(data) == kept, what
            data.rename(other)
            (place / "kept").rename(data)
            asked.before = lambda: (data.rename(place / "kept"), data.symlink_to("other"))
            refused(sandbox, call)
            assert _state(other) == kept, what
            data.unlink()
            (place / "kept").rename(data)
            inner.mkdir()
            (inner / "data").write_text("inside")
            (place / "outside").mkdir()
            (place / "outside" / "data").hardlink_to(other)
            asked.before = lambda: (inner.rename(place / "moved"), inner.symlink_to("outside"))
            refused(sandbox, in_directory)
            assert _state(other) == kept, what
            inner.unlink()
            for directory in ("moved", "outside"):
                (place / directory / "data").unlink()
                (place / directory).rmdir()
            asked.before = lambda: None
            sandbox.exec(call)  # the control
    assert len(asked.targets) == 4 * len(changes)


def test_what_no_answer_may_give_and_links_and_open_files_are_no_questions(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    data, way = place / "data", place / "way"
    way.symlink_to("data")
    asked = Asked(Allow(), Allow())
    policy = POLICY.allow_read(str(place / "other")).deny("fs.metadata", str(place / "secret"))
    (place / "secret").write_text("denied")
    with supervisor.spawn("rules", policy, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        for attempt in (
            f"os.chmod({str(data)!r}, 0o4755)",
            f"os.chmod({str(place / 'secret')!r}, 0o600)",
            f"os.chown({str(way)!r}, -1, -1, follow_symlinks=False)",
            f"os.chown({str(data)!r}, 0, 0)" if os.geteuid() == 0 else f"os.lchown({str(way)!r}, -1, -1)",
            f"os.setxattr({str(data)!r}, 'security.capability', b'x')",
            f"os.setxattr({str(data)!r}, 'trusted.note', b'x')",
            f"os.setxattr({str(data)!r}, 'user.large', b'x' * 4096)",
            f"os.fchmod(os.open({str(place / 'other')!r}, os.O_RDONLY), 0o600)",
            "os.chmod('/proc/self/comm', 0o600)",
        ):
            assert refused(sandbox, attempt).answer is None, attempt
        assert asked.targets == []
        sandbox.exec(f"os.chmod({str(way)!r}, 0o600)")  # the file that a link leads to, by its own name
        assert data.stat().st_mode & 0o7777 == 0o600
    assert asked.targets == [str(data)]


def test_a_yes_for_good_is_for_the_same_change_alone(supervisor: pyisolate.Supervisor, place: Path) -> None:
    data, new = place / "data", place / "new"
    asked = Asked(Allow("sandbox"), Deny("not so"), Allow("sandbox"), Deny("not there"))
    with supervisor.spawn("for-good", POLICY, on_ask=asked) as sandbox:
        sandbox.exec(f"import os\nfor _ in range(3): os.chmod({str(data)!r}, 0o640)")
        assert len(asked.questions) == 1
        assert refused(sandbox, f"os.chmod({str(data)!r}, 0o666)").answer == "deny"
        sandbox.exec(f"os.symlink('data', {str(new)!r})")
        new.unlink()
        sandbox.exec(f"os.symlink('data', {str(new)!r})")
        new.unlink()
        assert len(asked.questions) == 3
        assert refused(sandbox, f"os.symlink('other', {str(new)!r})").answer == "deny"
        assert refused(sandbox, f"open({str(new)!r}, 'x')").answer in (
            "full",
            "failed",
        )  # asked anew: no answer is left
    assert data.stat().st_mode & 0o777 == 0o640


def test_programs_are_asked_about_and_a_rule_of_ask_is_all_that_is(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    asked, out = Asked(*[Allow()] * 4), place / "out"
    out.mkdir()
    (out / "file").write_text("x")
    policy = Policy.preset("compute").with_ask({"create": str(out)}, {"metadata": str(out)}).allow_read(str(out))
    for program in ("/usr/bin/ln", "/usr/bin/chmod", "/usr/bin/touch"):
        policy = policy.allow_exec(program)
    with supervisor.spawn("programs", policy, on_ask=asked) as sandbox:
        assert sandbox.run(["/usr/bin/ln", "-s", "file", str(out / "new")]).returncode == 0
        assert sandbox.run(["/usr/bin/chmod", "600", str(out / "file")]).returncode == 0
        assert sandbox.run(["/usr/bin/chmod", "600", str(place / "data")]).returncode != 0
        assert refused(sandbox, f"import os\nos.symlink('x', {str(place / 'new')!r})").answer is None
    assert asked.targets == [str(out / "new"), str(out / "file")]
    assert (os.readlink(out / "new"), (out / "file").stat().st_mode & 0o777) == ("file", 0o600)


def test_a_call_that_was_given_up_makes_no_link_and_changes_nothing(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    asked, data, new = Signals(), place / "data", place / "new"
    before = _state(data)
    with supervisor.spawn("gives-up", NATIVE.with_ask("fs.create", "fs.metadata"), on_ask=asked) as sandbox:
        sandbox.exec(_RAW)
        assert sandbox.call("linked", b"data", bytes(new)) == -errno.EINTR
        asked.returned.set()
        assert sandbox.call("changed", bytes(place / "other"), 0o600) == 0  # the control, and the first is settled
        asked.returned.clear()
        assert sandbox.call("changed", bytes(data), 0o600) == -errno.EINTR
        asked.returned.set()
        assert sandbox.call("linked", b"data", bytes(place / "second")) == 0
    assert not new.is_symlink()
    assert _state(data) == before
    assert os.readlink(place / "second") == "data"
