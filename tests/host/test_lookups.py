"""Looking at what a policy hides is an event however it is done, and an ordinary program leaves none."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy

pytestmark = pytest.mark.usefixtures("kept_supervisor")
#: {0} holds `granted` and `hidden/file`; each looks at the hidden file, and at nothing else that is hidden.
WAYS = (
    "os.path.exists('{0}/hidden/file')",
    "os.chdir('{0}/granted'); os.path.exists('../hidden/file')",
    "os.access('../hidden/file', os.F_OK, dir_fd=os.open('{0}/granted', os.O_RDONLY))",
    "os.access('{0}/hidden/file', os.F_OK, effective_ids=True)",
    "libc.syscall(SYS_statx, -100, b'{0}/hidden/file', 0, 2047, ctypes.create_string_buffer(256))",
    "libc.syscall(SYS_readlinkat, -100, b'{0}/hidden/file', ctypes.create_string_buffer(256), 256)",
    "libc.syscall(SYS_statx, os.open('{0}/granted', 0), b'../hidden/file', 0, 2047, ctypes.create_string_buffer(256))",
    "with suppress(OSError): os.statvfs('{0}/hidden/file')",
    "with suppress(OSError): os.listxattr('{0}/hidden/file')",
    "with suppress(OSError): os.getxattr('{0}/hidden/file', 'user.x', follow_symlinks=False)",
    "os.chdir('{0}/granted'); libc.statfs(b'../hidden/file', ctypes.create_string_buffer(256))",
    "libc.syscall(SYS_statfs, b'{0}/hidden/file', ctypes.create_string_buffer(256))",
    "libc.syscall(SYS_getxattr, b'{0}/hidden/file', b'user.x', 0, 0)",
    "subprocess.run(['/bin/sh', '-c', 'test -e {0}/hidden/file'])",
    "subprocess.run(['/bin/sh', '-c', 'cd {0}/granted; test -d ../hidden/file; true'])",
    "subprocess.run(['/bin/sh', '-c', '(sh -c \"test -f {0}/hidden/file\")'])",
)
PRELUDE = """
import ctypes, os, platform, subprocess
from contextlib import suppress
libc = ctypes.CDLL(None)
SYS_statx, SYS_readlinkat, SYS_statfs, SYS_getxattr = (
    (332, 267, 137, 191) if platform.machine() == "x86_64" else (291, 78, 43, 8)
)
"""
#: What people do in a shell, in preset `shell`.
ORDINARY = """
git init -q work && cd work && echo one > file && git add file
git -c user.name=n -c user.email=e commit -q -m first && git log --oneline | wc -l && git status --short
tar cf ../all.tar . && tar tf ../all.tar | sort | tail -n 1
cp file copy && mv copy moved && ln -s moved link && readlink -f link && rm moved link
find . -name 'f*' | sed s/file/found/ && awk '{print $1}' file && diff file file
no-such-program; test -e no-such-file; true
"""

#: Where `python3` is the interpreter of the cells, which the preset grants.
INTERPRETER = "python3 -c 'import json, subprocess; print(json.dumps(1), subprocess.run([\"ls\"]).returncode)'"


@pytest.fixture
def tree() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pyisolate-look-", dir="/var/tmp")).resolve()
    folder.chmod(0o755)
    for name in ("granted", "hidden"):
        (folder / name).mkdir()
    (folder / "hidden/file").write_text("hidden")
    yield folder
    shutil.rmtree(folder)


def _policy(tree: Path, *read: str) -> Policy:
    made = Policy.preset("compute").allow_import("ctypes", "_ctypes", "subprocess").allow_native("ctypes", "_ctypes")
    for path in read:
        made = made.allow_read(tree / path)
    return made.allow_exec("/bin/sh").allow_fork()


def _looks(
    supervisor: pyisolate.Supervisor, policy: Policy, tree: Path
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return, for each way, the events that it left."""
    found = []
    with supervisor.spawn("looks", policy) as sandbox:
        (line,) = (one for one in sandbox.enforcement.capabilities if one.capability == "fs.lookup")
        if "programs" not in line.telemetry:
            pytest.skip("look-ups are the listener's where it watches files")
        sandbox.exec(PRELUDE)
        for way in WAYS:
            text = way.format(tree)
            events = sandbox.exec(text).denials
            found.append((text, [(str(e.capability), e.target, str(e.kernel_decision)) for e in events]))
    return found


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_each_way_of_looking_is_one_event(supervisor: pyisolate.Supervisor, tree: Path, mode: str) -> None:
    verdict = "deny" if mode == "enforce" else "would_deny"
    hidden = ("fs.lookup", str(tree / "hidden/file"), verdict)
    seen = _looks(supervisor, _policy(tree, "granted").with_mode(mode), tree)
    assert [(text, events) for text, events in seen if events != [hidden]] == []
    granted = _looks(supervisor, _policy(tree, "granted", "hidden").with_mode(mode), tree)  # the control
    assert [(text, events) for text, events in granted if events] == []


#: {0} is a directory that a rule denies inside of a granted one; each asks for something below its cover, or of it.
COVERED = (
    ("os.stat('{0}/file')", "file"),
    ("os.access('{0}/file', os.F_OK)", "file"),
    ("os.chdir('{0}/folder')", "folder"),
    ("subprocess.run(['/bin/sh', '-c', 'true'], cwd='{0}/folder')", "folder"),
    ("libc.syscall(SYS_statx, -100, b'{0}/file', 0, 2047, ctypes.create_string_buffer(256))", "file"),
    ("subprocess.run(['/bin/sh', '-c', 'test -f {0}/file'])", "file"),
    ("os.chdir('{0}')", ""),
    ("os.access('{0}', os.R_OK)", ""),
    ("subprocess.run(['/bin/sh', '-c', 'cd {0}'])", ""),
    ("subprocess.run(['/bin/sh', '-c', 'test -r {0}'])", ""),
    ("os.access('{0}/..', os.W_OK)", ""),
)
#: The name is shown, and nothing else asked for; or there is nothing.
UNCOVERED = (
    "os.stat('{0}')",
    "os.access('{0}', os.F_OK)",
    "os.path.exists('{0}/none')",
)


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_look_below_what_a_rule_denies_is_one_event(supervisor: pyisolate.Supervisor, tree: Path, mode: str) -> None:
    no = tree / "granted/no"
    (no / "folder").mkdir(parents=True)
    (no / "file").touch()
    policy = _policy(tree, "granted").with_mode(mode)
    attempts = [*COVERED, *((way, None) for way in UNCOVERED)]
    for denies in (True, False):  # the second is the control
        with supervisor.spawn("covered", policy.deny("fs.read", no) if denies else policy) as sandbox:
            sandbox.exec(PRELUDE)
            for way, name in attempts:
                done = sandbox.exec(
                    f"try: {way.format(no)}\nexcept PermissionError as error: error.errno\nos.chdir('/')"
                )
                seen = [(str(event.capability), event.target, event.kernel_errno) for event in done.denials]
                number = 13 if mode == "enforce" else None
                expected = [("fs.lookup", str(no / name), number)] if denies and name is not None else []
                assert seen == expected, (way, denies)
            if denies and mode == "enforce":
                with pytest.raises(pyisolate.GuestError, match="file exists, and the policy denies it") as caught:
                    sandbox.exec(f"os.stat('{no}/file')")
                assert caught.value.denials[0].code == "EXPLICIT_DENY"


def test_a_look_at_a_link_does_not_tell_where_it_leads(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    (tree / "hidden/link").symlink_to(tree / "hidden/file")
    ways = (
        "os.path.islink('{0}/hidden/link')",
        "os.path.lexists('{0}/hidden/link')",
        "os.path.exists('{0}/hidden/link')",
    )
    with supervisor.spawn("links", _policy(tree)) as sandbox:
        sandbox.exec(PRELUDE)
        found = [[Path(event.target).name for event in sandbox.exec(way.format(tree)).denials] for way in ways]
    assert found == [["link"]] * 3  # the last follows it: a rule for the link lets it pass, and none for the file does
    with supervisor.spawn("links", _policy(tree, "hidden/link")) as sandbox:  # the control
        assert sandbox.exec(f"import os; os.readlink('{tree}/hidden/link')").value == str(tree / "hidden/file")
        assert sandbox.get_denial_events() == []


def test_ordinary_programs_look_at_nothing_hidden(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("shell", Policy.preset("shell")) as sandbox:
        same = os.path.realpath(sys.executable) == os.path.realpath("/usr/bin/python3")
        done = sandbox.run(["bash", "-c", ORDINARY + INTERPRETER * same], text=True)
        looked = [event.target for event in sandbox.get_denial_events() if event.capability == "fs.lookup"]
        assert (looked, done.stdout.count("found")) == ([], 1), done.stderr
        # the C library tries more name services than the preset grants, as it does for a user that has no name
        assert sandbox.run(["id", "no-such-user"]).returncode == 1
        assert [event.target for event in sandbox.get_denial_events() if "/libnss_" in event.target] == []


#: {0} holds `granted/file` and links of `hidden` that lead there: what meets them, and what its event says.
BY_LINK = (
    ("open('{0}/hidden/into')", "fs.read", "into"),
    ("libc.open(b'{0}/hidden/into', 0)", "fs.read", "into"),
    ("libc.open(b'{0}/hidden/folder/file', 0)", "fs.read", "folder/file"),
    ("os.stat('{0}/hidden/into')", "fs.lookup", "into"),
    ("os.path.islink('{0}/hidden/into')", "fs.lookup", "into"),
    ("os.listdir('{0}/hidden/folder')", "fs.read", "folder"),
    ("subprocess.run(['/bin/sh', '-c', 'read x < {0}/hidden/into'], stderr=subprocess.DEVNULL)", "fs.read", "into"),
    # and by ".." out of a directory that is hidden, or denied
    ("open('{0}/hidden/../granted/file')", "fs.lookup", ""),
    ("libc.open(b'{0}/hidden/../granted/file', 0)", "fs.lookup", ""),
    ("os.stat('{0}/hidden/../granted/file')", "fs.lookup", ""),
    ("subprocess.run(['/bin/sh', '-c', 'read x < {0}/hidden/../granted/file'])", "fs.lookup", ""),
    ("open('{0}/granted/no/../file')", "fs.lookup", "../granted/no"),
    ("libc.open(b'{0}/granted/no/../no/key', 0)", "fs.read", "../granted/no/key"),
    ("os.stat('{0}/granted/no/../file')", "fs.lookup", "../granted/no"),
)


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_link_that_is_not_granted_leads_nowhere(supervisor: pyisolate.Supervisor, tree: Path, mode: str) -> None:
    (tree / "granted/file").touch()
    (tree / "hidden/into").symlink_to("../granted/file")
    (tree / "hidden/folder").symlink_to("../granted")
    (tree / "granted/no").mkdir()
    (tree / "granted/no/key").touch()
    policy = _policy(tree, "granted").with_mode(mode)
    with supervisor.spawn("by link", policy.deny("fs.read", tree / "granted/no")) as sandbox:
        sandbox.exec(PRELUDE)
        for way, capability, name in BY_LINK:
            done = sandbox.exec(f"try: {way.format(tree)}\nexcept OSError: pass")
            seen = [(str(event.capability), event.target) for event in done.denials]
            assert seen == [(capability, os.path.normpath(tree / "hidden" / name))], way
            assert "allow" not in {verdict for e in done.denials for verdict in (e.broker_decision, e.kernel_decision)}
        absent = sandbox.exec(f"try: open('{tree}/none/../granted/file')\nexcept FileNotFoundError: pass")
        assert absent.denials == ()
    with supervisor.spawn("granted", _policy(tree, "hidden", "granted").with_mode(mode)) as sandbox:  # the control
        sandbox.exec(PRELUDE)
        for way, *_ in BY_LINK:
            assert sandbox.exec(way.format(tree)).denials == ()
