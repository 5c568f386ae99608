"""Questions about files: open(2) of one that no rule speaks of waits, and a yes gives that file to be read, no more."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Allow, Deny, EnforcementError, Policy
from pyisolate.decision import DenialCode, Verdict
from tests.asking import Asked, refused

pytestmark = pytest.mark.usefixtures("kept_supervisor")

POLICY = Policy.preset("compute").allow_import("@stdlib", "ctypes").allow_native("_ctypes").with_ask("fs.read")
#: open(2) by a raw system call, round every hook and every library
_RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def raw(name, flags=0):
    got = libc.syscall(257 if os.uname().machine == "x86_64" else 56, -100, name, flags, 0)
    return os.read(got, 99) if got >= 0 else -ctypes.get_errno()
"""
#: tries changes of an open file, each given as its source; returns their error numbers
_CHANGED = """
import os
def changed(path, mode, changes):
    global file
    file, found = open(path, mode), {}
    for change in changes:
        try:
            eval(change, {"os": os, "number": file.fileno()})
            found[change] = 0
        except OSError as error:
            found[change] = error.errno
    return found
"""


def test_a_rule_of_ask_is_all_that_is_asked_about(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked = Asked(Allow())
    (place / "link").symlink_to(place / "other")
    policy = POLICY.with_ask({"read": str(place / "data")}, {"read": str(place / "link")})
    with supervisor.spawn("by-rule", policy, on_ask=asked) as sandbox:
        assert sandbox.eval(f"open({str(place / 'data')!r}).read()") == "asked"
        assert refused(sandbox, f"open({str(place / 'other')!r})").answer is None
        # where a link leads is not asked about
        assert refused(sandbox, f"open({str(place / 'link')!r})").answer is None
        events = sandbox.get_denial_events()
    assert [(event.answer, event.target) for event in events] == [
        ("once", str(place / "data")),
        (None, str(place / "other")),
        (None, str(place / "link")),
    ]
    assert asked.targets == [str(place / "data")]


def test_yes_reads_and_no_does_not_each_with_one_event(supervisor: pyisolate.Supervisor, place: Path) -> None:
    asked, file = Asked(Allow(), Deny("private"), Allow(), Allow("rule")), str(place / "data")
    read = f"open({file!r}).read()"
    with supervisor.spawn("asks", POLICY, on_ask=asked) as sandbox:
        assert sandbox.eval(read) == "asked"
        event = refused(sandbox, read)
        assert (event.target, event.answer, event.kernel_decision) == (file, "deny", Verdict.DENY)
        assert "private" in event.kernel_reason
        sandbox.exec(_RAW)
        assert sandbox.eval(f"raw({file.encode()!r})") == b"asked"
        assert sandbox.eval(read) == "asked"
        assert sandbox.eval(read) == "asked"  # for good
        events = [(one.answer, one.would_deny, one.count) for one in sandbox.get_denial_events()]
        assert sorted(events, key=str) == [("deny", False, 1), ("once", True, 1), ("once", True, 1), ("rule", True, 2)]
        assert {"path": file, "allow": ["read"]} in sandbox.answered_policy.to_dict()["fs"]
    assert asked.targets == [file] * 4
    assert {question.capability for question in asked.questions} == {"fs.read"}
    with supervisor.spawn("plain", POLICY.with_ask()) as sandbox:  # the same, without a question
        assert refused(sandbox, read).answer is None


def test_what_was_asked_about_is_what_is_given(supervisor: pyisolate.Supervisor, place: Path) -> None:
    """Neither the guest's memory nor the names of the host lead a yes to another file."""
    data, other, link = place / "data", place / "other", place / "link"
    link.symlink_to(data)
    asked = Asked(*[Allow()] * 3)
    with supervisor.spawn("swaps", POLICY, on_ask=asked) as sandbox:
        sandbox.exec(_RAW)
        asked.before = lambda: sandbox.recv(timeout=10)
        sandbox.exec(
            f"import threading, time\nname = ctypes.create_string_buffer({bytes(data)!r}, 200)\n"
            f"def swap():\n    time.sleep(0.2); name.value = {bytes(other)!r}; post(1)\n"
        )
        assert sandbox.eval("threading.Thread(target=swap).start() or raw(name)") == b"asked"
        asked.before = lambda: (link.unlink(), link.symlink_to(other))
        assert sandbox.eval(f"open({str(link)!r}).read()") == "asked"
        asked.before = lambda: os.replace(other, data)
        refused(sandbox, f"open({str(data)!r})")
    assert asked.targets == [str(data)] * 3


def test_it_can_be_read_and_nothing_else_of_it_changes(supervisor: pyisolate.Supervisor, place: Path) -> None:
    """The guest may be the file's owner, who could change its mode by any descriptor of it."""
    asked, granted = place / "data", place / "other"
    if os.geteuid() == 0:
        for one in (asked, granted):
            os.chown(one, 65534, 65534)
    before = asked.stat()
    changes = ("os.fchmod(number, 0o700)", "os.utime(number, (1, 1))", "os.write(number, b'x')")
    refused = dict.fromkeys(changes[:2], errno.EROFS) | {changes[2]: errno.EBADF}
    policy = POLICY.allow_read(str(granted)).allow_write(str(granted))
    with supervisor.spawn("owns", policy, on_ask=Asked(Allow())) as sandbox:
        sandbox.exec(_CHANGED)
        assert sandbox.call("changed", str(granted), "r+", changes) == dict.fromkeys(
            changes, 0
        )  # by a plain descriptor
        assert sandbox.call("changed", str(asked), "r", changes) == refused
        assert sandbox.eval("file.read()") == "asked"
        targets = {event.target for event in sandbox.get_denial_events() if event.capability == "fs.metadata"}
    assert targets == {str(asked)}
    assert (asked.stat().st_mode, asked.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert granted.stat().st_mode & 0o777 == 0o700


def test_what_a_rule_denies_and_what_is_no_file_is_not_asked_about(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    os.mkfifo(place / "pipe")
    (place / "there").symlink_to("/proc/self/environ")
    asked = Asked()
    with supervisor.spawn("denied", POLICY.deny("fs.read", str(place / "other")), on_ask=asked) as sandbox:
        sandbox.exec("import os\n" + _RAW)
        for attempt in (
            f"open({str(place / 'other')!r})",
            f"open({str(place / 'data')!r}, 'r+')",
            f"os.listdir({str(place)!r})",
            f"os.open({str(place)!r}, os.O_RDONLY)",
            f"os.open({str(place / 'pipe')!r}, os.O_RDONLY | os.O_NONBLOCK)",
            "open('/proc/self/environ')",
            "open('/dev/kmsg')",
        ):
            refused(sandbox, attempt)
        for name in ("absent", "there"):  # the link leads to a file that is another one for each process
            with pytest.raises(pyisolate.GuestError, match="FileNotFoundError"):
                sandbox.exec(f"open({str(place / name)!r})")
        assert sandbox.eval(f"raw({bytes(place / 'other')!r})") < 0
        assert sandbox.eval(f"raw({bytes(place / 'data')!r}, os.O_RDWR)") < 0
    assert asked.questions == []


def test_without_an_answer_it_is_refused(supervisor: pyisolate.Supervisor, place: Path) -> None:
    file = str(place / "data")
    with supervisor.spawn("nobody", POLICY) as sandbox:
        event = refused(sandbox, f"open({file!r})")
        assert (event.answer, event.asked_by, event.target) == ("unanswered", "nobody", file)
    free = threading.Event()
    asked = Asked(Allow(), Allow())
    asked.before = lambda: free.wait(20)
    with supervisor.spawn("late", POLICY, on_ask=asked, ask_timeout=0.1) as sandbox:
        event = refused(sandbox, f"open({file!r})")
        assert event.answer == "timeout"
        free.set()
    waits = threading.Event()
    asked = Asked(Allow())
    with supervisor.spawn("ends", POLICY, on_ask=asked) as sandbox:
        asked.before = lambda: (sandbox.kill(), waits.set())
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(f"open({file!r})")
        assert waits.wait(10)


def test_a_reload_ends_asking(supervisor: pyisolate.Supervisor, place: Path) -> None:
    file, asked = str(place / "data"), Asked(Allow())
    with supervisor.spawn("reloads", POLICY, on_ask=asked) as sandbox:
        asked.before = lambda: sandbox.reload_policy(POLICY.with_ask())
        assert refused(sandbox, f"open({file!r})").code is DenialCode.NOT_GRANTED  # also what was put before
        event = refused(sandbox, f"open({file!r})")
        assert (event.code, event.answer) == (DenialCode.NOT_GRANTED, None)
    assert len(asked.questions) == 1


def test_programs_are_asked_about_and_a_flood_is_refused(supervisor: pyisolate.Supervisor, place: Path) -> None:
    file, cat = str(place / "data"), shutil.which("cat") or "/bin/cat"
    asked = Asked(*[Allow()] * 100)
    with supervisor.spawn("runs", POLICY.allow_exec(os.path.realpath(cat)), on_ask=asked) as sandbox:
        done = sandbox.run([os.path.realpath(cat), file])
        assert (done.stdout, file in asked.targets) == (b"asked", True)
        for number in range(60):
            (place / f"{number}").write_text("x")
        opened = f"sum(raw(f'{place}/{{n}}'.encode()) == b'x' for n in range(60))"
        sandbox.exec(_RAW)
        assert sandbox.eval(opened) < 60
        assert "full" in {event.answer for event in sandbox.get_denial_events()}


def test_more_than_eight_that_wait_are_refused_and_what_is_granted_is_not(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    data, granted = place / "data", place / "other"
    asked = Asked(*[Allow()] * 8)
    with supervisor.spawn("many", POLICY.allow_read(str(granted)), on_ask=asked) as sandbox:
        asked.before = lambda: len(asked.questions) > 1 or sandbox.recv(timeout=10)
        sandbox.exec(
            f"{_RAW}\nimport threading, time\ndone = []\nopens = lambda: done.append(raw({bytes(data)!r}))\n"
            "threads = [threading.Thread(target=opens) for _ in range(10)]\n[one.start() for one in threads]\n"
            "while len(done) < 2: time.sleep(0.01)\n"
            f"while_full = [*done, raw({bytes(granted)!r})]\npost(1)\n[one.join() for one in threads]"
        )
        assert sandbox.eval("while_full") == [-errno.EACCES, -errno.EACCES, b"not asked"]
        assert sandbox.eval("done[2:]") == [b"asked"] * 8
        answers = {"full": 0, "once": 0}
        for event in sandbox.get_denial_events():
            assert (event.target, event.would_deny) == (str(data), event.answer == "once")
            answers[str(event.answer)] += event.count
    assert (answers, asked.targets) == ({"full": 2, "once": 8}, [str(data)] * 8)  # each yes is for one call


def test_one_answer_for_good_or_no_is_for_all_that_wait(supervisor: pyisolate.Supervisor, place: Path) -> None:
    data = place / "data"
    asked = Asked(Deny(), Allow("sandbox"))
    with supervisor.spawn("all", POLICY, on_ask=asked) as sandbox:
        asked.before = lambda: sandbox.recv(timeout=10)
        sandbox.exec(
            f"{_RAW}\nimport threading\n"
            "def many():\n"
            f"    done, opens = [], lambda: done.append(raw({bytes(data)!r}))\n"
            "    threads = [threading.Thread(target=opens) for _ in range(9)]\n"
            "    for one in threads: one.start()\n"
            "    while not done: pass\n"  # the ninth is refused: eight wait
            "    post(1)\n"
            "    for one in threads: one.join()\n"
            "    return done[1:]\n"
        )
        assert sandbox.eval("many()") == [-errno.EACCES] * 8
        assert sandbox.eval("many()") == [b"asked"] * 8
    assert asked.targets == [str(data)] * 2


def test_a_call_that_signals_interrupt_and_its_task_makes_again_is_one_question(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    data, asked = str(place / "data"), Asked(Allow("sandbox"))

    def interrupt() -> None:
        for _ in range(12):  # more than may wait
            os.kill(asked.questions[0].pid, signal.SIGUSR1)
            while _has_pending(asked.questions[0].pid, signal.SIGUSR1):
                time.sleep(0.001)

    with supervisor.spawn("interrupted", POLICY, on_ask=asked) as sandbox:
        asked.before = interrupt
        sandbox.exec("import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)")
        assert sandbox.eval(f"open({data!r}).read()") == "asked"
        assert {one.answer for one in sandbox.get_denial_events()} <= {"sandbox", "gave_up"}  # not one is "full"
    assert asked.targets == [data]


def _has_pending(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_where_files_cannot_be_asked_about_the_spawn_says_so(supervisor: pyisolate.Supervisor, place: Path) -> None:
    with pytest.raises(EnforcementError, match="ask: files and programs"):
        supervisor.spawn("thread", POLICY.with_limits(memory=None), isolation="thread")
