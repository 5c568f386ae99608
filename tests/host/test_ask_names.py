"""Questions about names that are removed, made or moved: on yes the host makes the call, and the guest has its end."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Allow, Deny, Policy
from tests.asking import Asked, refused

pytestmark = pytest.mark.usefixtures("kept_supervisor")

POLICY = Policy.preset("compute").with_ask("fs.create", "fs.delete")
NATIVE = POLICY.allow_import("@stdlib", "ctypes").allow_native("_ctypes")
_RAW = """
import ctypes, os, signal
signal.signal(signal.SIGUSR1, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
UNLINKAT = 263 if os.uname().machine == "x86_64" else 35
def unlinked(name):
    return 0 if libc.syscall(UNLINKAT, -100, name, 0) == 0 else -ctypes.get_errno()
"""


def events_of(sandbox: pyisolate.Sandbox) -> list[tuple[str, str, str | None, bool]]:
    return [(one.capability, one.target, one.answer, one.would_deny) for one in sandbox.get_denial_events()]


def test_yes_removes_and_makes_and_no_does_not_each_with_one_event(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    asked, data, new = Asked(Deny("keep it"), Allow(), Allow(), Allow()), place / "data", place / "new"
    with supervisor.spawn("names", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os\nos.umask(0o027)")
        event = refused(sandbox, f"os.remove({str(data)!r})")
        assert (event.capability, event.target, event.answer) == ("fs.delete", str(data), "deny")
        assert "keep it" in event.kernel_reason
        assert data.exists()
        sandbox.exec(f"os.remove({str(data)!r})\nos.mkdir({str(new)!r})")
        found = new.stat()
        assert (data.exists(), found.st_mode & 0o777) == (False, 0o750)
        assert found.st_uid == (65534 if os.geteuid() == 0 else os.geteuid())
        sandbox.exec(f"os.rmdir({str(new)!r})")
        assert not new.exists()
        for absent in ("os.remove({!r})", "os.rmdir({!r})"):
            assert refused(sandbox, absent.format(str(new))).answer is None
        assert events_of(sandbox)[:4] == [
            ("fs.delete", str(data), "deny", False),
            ("fs.delete", str(data), "once", True),
            ("fs.create", str(new), "once", True),
            ("fs.delete", str(new), "once", True),
        ]
    assert asked.targets == [str(data), str(data), str(new), str(new)]


def test_a_reload_that_asks_no_more_ends_what_was_asked(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked, data = Asked(Allow(), Allow()), place / "data"
    with supervisor.spawn("reloads", POLICY, on_ask=asked) as sandbox:
        asked.before = lambda: sandbox.reload_policy(POLICY.with_ask("fs.read"))
        refused(sandbox, f"import os\nos.remove({str(data)!r})")
        assert data.exists()
    with supervisor.spawn("stays", POLICY, on_ask=asked) as sandbox:  # the control
        asked.before = lambda: sandbox.reload_policy(POLICY.with_ask("fs.delete"))
        sandbox.exec(f"import os\nos.remove({str(data)!r})")
    assert not data.exists()


def test_a_move_is_a_question_for_each_name(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked, data, new = Asked(Allow(), Deny(), *[Allow()] * 5), place / "data", place / "new"
    with supervisor.spawn("moves", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        refused(sandbox, f"os.rename({str(data)!r}, {str(new)!r})")
        assert data.exists()
        sandbox.exec(f"os.rename({str(data)!r}, {str(new)!r})")
        sandbox.exec(f"os.replace({str(new)!r}, {str(place / 'other')!r})")
        assert (data.exists(), new.exists(), (place / "other").read_text()) == (False, False, "asked")
        assert events_of(sandbox) == [
            ("fs.delete", str(data), "once", True),  # of both moves
            ("fs.create", str(new), "deny", False),
            ("fs.create", str(new), "once", True),
            ("fs.delete", str(new), "once", True),
            ("fs.create", str(place / "other"), "once", True),
            ("fs.delete", str(place / "other"), "once", True),
        ]


def test_what_is_another_thing_by_then_is_not_touched_and_an_error_is_the_kernels(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    data, other, new, full = place / "data", place / "other", place / "new", place / "full"
    full.mkdir()
    (full / "kept").touch()
    asked = Asked(*[Allow()] * 6)
    with supervisor.spawn("swaps", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        asked.before = lambda: os.replace(other, data)
        refused(sandbox, f"os.remove({str(data)!r})")
        assert data.read_text() == "not asked"
        asked.before = lambda: new.write_text("came first")
        with pytest.raises(pyisolate.GuestError, match="FileExistsError"):
            sandbox.exec(f"os.rename({str(data)!r}, {str(new)!r})")
        assert (data.read_text(), new.read_text()) == ("not asked", "came first")
        asked.before = lambda: (full.rename(place / "away"), full.symlink_to("away"))
        refused(sandbox, f"os.remove({str(full / 'kept')!r})")
        assert (place / "away" / "kept").exists()
        asked.before = lambda: None
        with pytest.raises(pyisolate.GuestError, match="Directory not empty"):
            sandbox.exec(f"os.rmdir({str(place / 'away')!r})")
    assert len(asked.targets) == 5


def test_rules_decide_first_and_what_no_name_shows_is_no_question(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    data, other, out = place / "data", place / "other", place / "out"
    out.mkdir()
    out.chmod(0o777)
    asked = Asked(*[Allow()] * 2)
    policy = (
        Policy.preset("compute")
        .with_ask(*[{"delete": str(place / one)} for one in ("data", "secret", "public")], {"create": str(place)})
        .allow_exec("/usr/bin/rm")
    )
    secret, public = place / "secret", place / "public"
    secret.write_text("denied")
    public.write_text("for all")
    (out / "led").symlink_to("/etc/shadow")
    os.mkfifo(out / "pipe")
    (out / "plain").write_text("moved")
    policy = (
        policy.deny("fs.read", str(secret))
        .allow_read(str(public))
        .deny("fs.delete", str(other))
        .allow_read(str(out))
        .allow_write(str(out))
    )
    with supervisor.spawn("rules", policy, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        for attempt in (
            f"os.remove({str(other)!r})",
            f"os.rename({str(secret)!r}, {str(place / 'new')!r})",  # which would go round the rule
            f"os.rename({str(data)!r}, {str(public)!r})",  # which others may read
            f"os.rename({str(data)!r}, {str(out / 'read')!r})",  # which would let it be read
            f"os.link({str(data)!r}, {str(place / 'new')!r})",  # no question about reading it
            f"os.rename({str(out / 'led')!r}, {str(place / 'new')!r})",  # which leads elsewhere
            f"os.rename({str(out / 'pipe')!r}, {str(place / 'new')!r})",  # at which who opens it waits
        ):
            assert refused(sandbox, attempt).answer is None, attempt
        assert asked.targets == []
        assert sandbox.run(["/usr/bin/rm", str(data)]).returncode == 0  # a program's call is asked about as well
        sandbox.exec(f"os.rename({str(out / 'plain')!r}, {str(place / 'new')!r})")
    assert (asked.targets, data.exists()) == ([str(data), str(place / "new")], False)
    assert (place / "new").read_text() == "moved"


def test_a_link_is_to_the_file_that_was_asked_about(supervisor: pyisolate.Supervisor, place: Path) -> None:
    data, other, new, more = place / "data", place / "other", place / "new", place / "more"
    asked = Asked(*[Allow()] * 4)
    with supervisor.spawn("links", POLICY.with_ask("fs.read", "fs.create"), on_ask=asked) as sandbox:
        sandbox.exec(f"import os\nos.link({str(data)!r}, {str(new)!r})")
        assert data.samefile(new)
        assert events_of(sandbox) == [("fs.read", str(data), "once", True), ("fs.create", str(new), "once", True)]
        asked.before = lambda: other.exists() and os.replace(other, data)
        event = refused(sandbox, f"os.link({str(data)!r}, {str(more)!r})")  # allowed, and not done
        assert (event.target, event.answer, event.would_deny) == (str(more), "once", False)
        assert not more.exists()


def test_a_yes_for_good_is_for_the_file_that_had_the_name(supervisor: pyisolate.Supervisor, place: Path) -> None:
    data, other, host = place / "data", place / "other", place / "host"
    host.write_text("the host's")
    asked = Asked(Allow("rule"), Deny("never"), *[Allow()] * 3, Deny("moved"), Allow("sandbox"), Deny("put"))
    with supervisor.spawn("moved", POLICY.with_ask("fs.read", "fs.create", "fs.delete"), on_ask=asked) as sandbox:
        read, rule = f"open({str(data)!r}).read()", {"path": str(data), "allow": ["read"]}
        assert [sandbox.eval(read), sandbox.eval(read)] == ["asked"] * 2  # the control: one question
        assert len(asked.questions) == 1
        assert rule in sandbox.answered_policy.to_dict()["fs"]
        refused(sandbox, f"open({str(other)!r}).read()")
        sandbox.exec(f"import os\nos.replace({str(other)!r}, {str(data)!r})")
        assert rule not in sandbox.answered_policy.to_dict().get("fs", [])
        assert refused(sandbox, read).answer == "deny"
        assert [sandbox.eval(read), sandbox.eval(read)] == ["not asked"] * 2
        os.replace(host, data)
        assert refused(sandbox, read).answer == "deny"
    assert asked.targets[-3:] == [str(data)] * 3


class _Signals:
    """Says yes once the call was interrupted by a signal and has returned; after that without one."""

    def __init__(self) -> None:
        self.returned = threading.Event()

    def __call__(self, question: pyisolate.Question) -> Allow:
        if not self.returned.is_set():  # a yes does not always come before a signal
            os.kill(question.pid, signal.SIGUSR1)
        assert self.returned.wait(30)
        return Allow()


def test_a_call_that_was_given_up_removes_nothing(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked, data = _Signals(), place / "data"
    with supervisor.spawn("gives-up", NATIVE, on_ask=asked) as sandbox:
        sandbox.exec(_RAW)
        assert sandbox.call("unlinked", bytes(data)) == -errno.EINTR
        asked.returned.set()
        assert sandbox.call("unlinked", bytes(place / "other")) == 0  # the control
        assert data.exists()
        assert not (place / "other").exists()


def _tree(place: Path) -> Path:
    tree = place / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").write_text("within")
    return tree


def test_a_directory_is_moved_with_what_is_in_it_by_a_question_for_each_name(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    tree, new, other = _tree(place), place / "new", place / "swapped"
    asked = Asked(Allow(), Deny("stay"), *[Allow()] * 4)
    with supervisor.spawn("trees", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        refused(sandbox, f"os.rename({str(tree)!r}, {str(new)!r})")
        assert (tree / "inner" / "file").exists()
        sandbox.exec(f"os.rename({str(tree)!r}, {str(new)!r})")
        assert (tree.exists(), (new / "inner" / "file").read_text()) == (False, "within")
        assert events_of(sandbox) == [
            ("fs.delete", str(tree), "once", True),  # of both moves
            ("fs.create", str(new), "deny", False),
            ("fs.create", str(new), "once", True),
        ]
        other.mkdir()
        asked.before = lambda: other.exists() and (new.rename(place / "away"), other.rename(new))
        refused(sandbox, f"os.rename({str(new)!r}, {str(tree)!r})")  # another one by then
        assert (new.is_dir(), tree.exists(), (place / "away" / "inner").is_dir()) == (True, False, True)
    assert asked.targets == [str(tree), str(new), str(tree), str(new), str(new), str(tree)]


def test_a_directory_is_not_asked_about_where_rules_or_its_guest_have_a_say_in_it(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    tree, plain, empty, own = _tree(place), place / "plain", place / "empty", place / "own"
    shared = place / "shared"
    for one in (plain, empty, own / "made", shared):
        one.mkdir(parents=True)
    own.chmod(0o777)
    new, within = place / "new", str(tree / "inner" / "file")
    asked = Asked(*[Allow()] * 2)
    policies = {
        "denied": (POLICY.deny("fs.read", within), tree, new),
        "granted": (POLICY.allow_read(within), tree, new),
        "in its place": (POLICY.allow_read(str(new / "inner")), tree, new),
        "a directory there": (POLICY, tree, empty),
        "its own": (POLICY.allow_write(str(own)), own / "made", new),
        "more may be done": (POLICY.allow_read(str(shared)), tree, shared / "tree"),
    }
    for why, (policy, old, target) in policies.items():
        with supervisor.spawn("rules", policy, on_ask=asked) as sandbox:
            event = refused(sandbox, f"import os\nos.rename({str(old)!r}, {str(target)!r})")
            assert (event.answer, old.is_dir(), (target / "inner").exists()) == (None, True, False), why
    assert asked.targets == []
    with supervisor.spawn("control", POLICY.allow_read(within), on_ask=asked) as sandbox:
        sandbox.exec(f"import os\nos.rename({str(plain)!r}, {str(new)!r})")
    assert asked.targets == [str(plain), str(new)]
    assert new.is_dir()


def test_a_yes_for_good_ends_where_a_directory_is_moved_over_its_name(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    tree, file = _tree(place), place / "tree" / "inner" / "file"
    spare = place / "spare"
    (spare / "inner").mkdir(parents=True)
    (spare / "inner" / "file").write_text("another")
    asked = Asked(Allow("rule"), *[Allow()] * 4, Deny("not this one"))
    with supervisor.spawn("for-good", POLICY.with_ask("fs.read", "fs.create", "fs.delete"), on_ask=asked) as sandbox:
        read, rule = f"open({str(file)!r}).read()", {"path": str(file), "allow": ["read"]}
        assert [sandbox.eval(read), sandbox.eval(read)] == ["within"] * 2  # the control: one question
        assert rule in sandbox.answered_policy.to_dict()["fs"]
        for old, target in ((tree, place / "away"), (spare, tree)):
            sandbox.exec(f"import os\nos.rename({str(old)!r}, {str(target)!r})")
        assert rule not in sandbox.answered_policy.to_dict().get("fs", [])
        assert refused(sandbox, read).answer == "deny"
