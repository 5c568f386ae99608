"""Questions about files that are written to, or made: a yes gives that file, opened as the guest asked, no more."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest

import pyisolate
from pyisolate import Allow, Deny, EnforcementError, Policy
from pyisolate.decision import Verdict
from pyisolate.kernel.rootview.view import RootViewBuilder
from pyisolate.kernel.rootview.worker import HostFile, HostPlace
from pyisolate.native import places
from tests.asking import Asked, refused
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("kept_supervisor")

POLICY = Policy.preset("compute").with_ask("fs.write", "fs.create")


def written(path: Path, mode: str = "w", text: str = "new") -> str:
    return f"with open({str(path)!r}, {mode!r}) as file: file.write({text!r})"


def test_yes_writes_and_no_does_not_each_with_one_event(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked = Asked(Deny("keep it"), Allow(), Allow("rule"))
    file = place / "data"
    file.chmod(0o666)  # else no rule would give it to the guest
    with supervisor.spawn("writes", POLICY, on_ask=asked) as sandbox:
        event = refused(sandbox, written(file))
        assert (event.capability, event.target, event.answer) == ("fs.write", str(file), "deny")
        assert event.kernel_decision == Verdict.DENY
        assert file.read_text() == "asked"
        sandbox.exec(written(file))
        assert file.read_text() == "new"
        sandbox.exec(written(file, "a", ", and more"))
        sandbox.exec(written(file, "a", ", and again"))
        assert file.read_text() == "new, and more, and again"
        events = [(one.answer, one.would_deny, one.count) for one in sandbox.get_denial_events()]
        assert sorted(events, key=str) == [("deny", False, 1), ("once", True, 1), ("rule", True, 2)]
        assert {"path": str(file), "allow": ["write"]} in sandbox.answered_policy.to_dict()["fs"]
        assert refused(sandbox, f"open({str(file)!r}).read()").answer is None  # reading is another thing
        assert refused(sandbox, written(file, "r+")).answer is None  # and so are both at once
    assert asked.targets == [str(file)] * 3


def test_a_file_is_made_where_the_answer_says_so_and_is_the_guests(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    asked, new = Asked(Deny(), Allow(), Allow()), place / "new"
    with supervisor.spawn("makes", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os\nos.umask(0o027)")
        event = refused(sandbox, written(new))
        assert (event.capability, event.target, event.answer) == ("fs.create", str(new), "deny")
        assert not new.exists()
        sandbox.exec(written(new, "x"))
        found = new.stat()
        assert (new.read_text(), found.st_mode & 0o777) == ("new", 0o640)
        assert found.st_uid == (65534 if os.geteuid() == 0 else os.geteuid())
        sandbox.exec(written(new, "w", "newer"))
        assert new.read_text() == "newer"
        asked_for = [(one.capability, one.target) for one in asked.questions]
        assert asked_for == [("fs.create", str(new))] * 2 + [("fs.write", str(new))]
        assert [one.answer for one in sandbox.get_denial_events()] == ["deny", "once", "once"]


def test_what_takes_its_name_while_the_call_waits_is_not_written_to(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    data, other, new = place / "data", place / "other", place / "new"
    asked = Asked(Allow(), Allow())
    with supervisor.spawn("swaps", POLICY, on_ask=asked) as sandbox:
        asked.before = lambda: os.replace(other, data)
        refused(sandbox, written(data))
        assert data.read_text() == "not asked"
        asked.before = lambda: new.symlink_to(data)
        refused(sandbox, written(new))
        assert data.read_text() == "not asked"


def test_rules_and_other_calls_are_no_questions(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked = Asked(Allow())
    policy = Policy.preset("compute").with_ask({"write": str(place / "data")}).deny("fs.write", str(place / "other"))
    with supervisor.spawn("rules", policy, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        sandbox.exec(written(place / "data"))
        for attempt in (
            written(place / "other"),
            written(place / "new"),
            f"os.remove({str(place / 'data')!r})",
            f"os.rename({str(place / 'data')!r}, {str(place / 'new')!r})",
            f"os.mkdir({str(place / 'new')!r})",
        ):
            assert refused(sandbox, attempt).answer is None
    assert asked.targets == [str(place / "data")]
    assert (place / "data").read_text() == "new"


def test_a_sum_of_what_is_written_is_not_promised_beside_questions(supervisor: pyisolate.Supervisor) -> None:
    with pytest.raises(EnforcementError, match=r"limits\.disk"):
        supervisor.spawn("bounded", POLICY.with_limits(disk="1MiB"))


#: open(2) by a raw system call, which no library repeats after a signal
_OPENED = """
import ctypes, os, signal
signal.signal(signal.SIGUSR1, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
def opened(name, flags):
    got = libc.openat(-100, name.encode(), flags, 0o600)
    return got if got >= 0 else -ctypes.get_errno()
def full():
    held = []
    while True:
        try:
            held.append(os.dup(0))
        except OSError:
            return held
"""
NATIVE = POLICY.allow_import("@stdlib", "ctypes").allow_native("_ctypes")
TRUNCATED, MADE = os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT


class _Interrupts:
    """Says yes, but only when the call has been given up."""

    def __init__(self, number: int) -> None:
        self.number, self.returned = number, threading.Event()

    def __call__(self, question: pyisolate.Question) -> Allow:
        os.kill(question.pid, self.number)
        assert self.returned.wait(30)
        return Allow()


def answers(sandbox: pyisolate.Sandbox, count: int) -> list[str | None]:
    """Return what was answered, when there are so many events."""
    until(lambda: len(sandbox.get_denial_events()) >= count)
    return [event.answer for event in sandbox.get_denial_events()]


def test_a_call_that_was_given_up_does_nothing_and_has_its_event(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    asked, data, new = _Interrupts(signal.SIGUSR1), place / "data", place / "new"
    with supervisor.spawn("gives-up", NATIVE, on_ask=asked) as sandbox:
        sandbox.exec(_OPENED)
        for count, (name, flags) in enumerate([(data, TRUNCATED), (new, MADE)], start=1):
            asked.returned.clear()
            assert sandbox.call("opened", str(name), flags) == -errno.EINTR
            asked.returned.set()
            assert answers(sandbox, count) == ["gave_up"] * count
        assert (data.read_text(), new.exists()) == ("asked", False)
        heard = [(event.capability, event.target) for event in sandbox.get_denial_events()]
        assert heard == [("fs.write", str(data)), ("fs.create", str(new))]
        asked.number = 0  # the control: no signal, and the call waits
        assert min(sandbox.call("opened", str(name), flags) for name, flags in [(data, TRUNCATED), (new, MADE)]) > 0
        assert (data.read_text(), new.exists()) == ("", True)
        assert answers(sandbox, 4)[2:] == ["once", "once"]


def test_a_guest_that_can_have_no_descriptor_changes_nothing_by_a_yes(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    data, new = place / "data", place / "new"
    with supervisor.spawn("full", NATIVE, on_ask=lambda _: Allow()) as sandbox:
        sandbox.exec(_OPENED + "held = full()")
        for name, flags in [(data, TRUNCATED), (new, MADE)]:
            assert sandbox.call("opened", str(name), flags) == -errno.EMFILE
        until(lambda: not new.exists())
        assert data.read_text() == "asked"
        sandbox.exec("os.close(held.pop())\nos.close(held.pop())")
        assert min(sandbox.call("opened", str(name), flags) for name, flags in [(data, TRUNCATED), (new, MADE)]) > 0
        assert (data.read_text(), new.exists()) == ("", True)


def test_a_guest_that_is_killed_while_it_waits_has_its_event(
    supervisor: pyisolate.Supervisor,
    place: Path,
) -> None:
    asked = _Interrupts(signal.SIGKILL)
    with supervisor.spawn("dies", POLICY, on_ask=asked) as sandbox:
        with pytest.raises(pyisolate.SandboxDied):
            sandbox.exec(written(place / "data"))
        asked.returned.set()
        assert answers(sandbox, 1) == ["gave_up"]
    assert (place / "data").read_text() == "asked"


@pytest.mark.once
def test_a_file_that_was_given_the_number_of_the_one_asked_about_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("asked")
    found, born, builder = file.stat(), places.born(str(file)), RootViewBuilder()
    try:
        given = HostPlace(str(file), found.st_dev, found.st_ino, born)
        os.close(builder.file(HostFile(given), "")[0])  # the control
        with pytest.raises(EnforcementError, match="made after") as caught:
            builder.file(HostFile(msgspec.structs.replace(given, born=born - 1)), "")
        assert caught.value.errno == errno.ESTALE
    finally:
        builder.close()


@pytest.mark.parametrize(
    ("many_users", "name", "inode_off", "says"),
    [
        (True, "new", 0, "grant fs.create there by a rule"),
        (False, "there", 0, "not replaced"),
        (False, "new", 1, "not replaced"),
        (False, "new", 0, ""),  # the control
    ],
)
def test_a_file_that_could_not_be_made_is_named_with_its_own_cause(
    tmp_path: Path, many_users: bool, name: str, inode_off: int, says: str
) -> None:
    (tmp_path / "there").touch()
    found = tmp_path.stat()
    flags = os.O_WRONLY | os.O_CREAT
    place = HostPlace(str(tmp_path), found.st_dev, found.st_ino + inode_off)
    given = HostFile(place, flags, name, mode=0o600)
    builder = RootViewBuilder(many_users=many_users)
    try:
        if not says:
            os.close(builder.file(given, "")[0])
            return
        with pytest.raises(EnforcementError) as caught:
            builder.file(given, "")
    finally:
        builder.close()
    assert f"make {tmp_path}/{name}: " in str(caught.value)
    assert says in (caught.value.hint or "")
